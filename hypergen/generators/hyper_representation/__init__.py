"""A hyper-representation of weights (SANE)."""
