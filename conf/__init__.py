"""The configuration of ``train.py``, which other projects search as ``pkg://hypergen.conf``."""
