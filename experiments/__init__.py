"""Whole runs with a zoo: build it, train a generator on it, evaluate it; as ``train.py`` starts them.

Like :mod:`hypergen.cli.run`, functions take instantiated objects and functions with their settings filled in,
never a config object.
"""
