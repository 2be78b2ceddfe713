"""Module → computational graph, by one forward pass on meta tensors."""
