"""Structured pruning through the permutation groups of a network."""
