"""The protocol of generators that are trained on zoos."""
