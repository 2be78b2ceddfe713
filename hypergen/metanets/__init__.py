"""Metanetworks: networks that take the parameters of networks as input."""

from hypergen.metanets.metanetwork import EquivariantMetanetwork, GraphMetanetwork, InvariantMetanetwork, States
from hypergen.metanets.scale_equivariant import ScaleEquivariantMetanetwork

__all__ = [
    "EquivariantMetanetwork",
    "GraphMetanetwork",
    "InvariantMetanetwork",
    "ScaleEquivariantMetanetwork",
    "States",
]
