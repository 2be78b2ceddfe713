"""Hyperparameter search that reads weights."""
