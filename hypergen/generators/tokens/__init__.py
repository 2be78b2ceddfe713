"""Weights as tokens, which several generators share."""
