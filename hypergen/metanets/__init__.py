"""Metanetworks: networks that take the parameters of networks as input."""

from hypergen.metanets.metanetwork import EquivariantMetanetwork, GraphMetanetwork, InvariantMetanetwork, States

__all__ = ["EquivariantMetanetwork", "GraphMetanetwork", "InvariantMetanetwork", "States"]
