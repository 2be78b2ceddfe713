"""The protocol of graph hypernetworks for image classifiers."""
