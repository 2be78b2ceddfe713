"""Metanetworks: networks that take the parameters of networks as input."""

from typing import TYPE_CHECKING

from hypergen._lazy import lazy_exports

if TYPE_CHECKING:
    from hypergen.metanets.hyperparameter_search import *
    from hypergen.metanets.layers import *
    from hypergen.metanets.meta_pruning import *
    from hypergen.metanets.metanetwork import (
        EquivariantMetanetwork,
        GraphMetanetwork,
        InvariantMetanetwork,
        States,
    )
    from hypergen.metanets.nowcasting import *
    from hypergen.metanets.probes import Probes
    from hypergen.metanets.property_prediction import *
    from hypergen.metanets.scale_equivariant import ScaleEquivariantMetanetwork

__getattr__, __dir__, __all__ = lazy_exports(__name__, subpackages=True)
