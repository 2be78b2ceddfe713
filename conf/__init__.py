"""The configuration of ``train.py``, which other projects search as ``pkg://hypergen.conf``.

Nodes are made with ``hydra.utils.instantiate(node, _convert_="all")``: classes take plain lists and mappings.
"""
