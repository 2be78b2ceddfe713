"""Layers of metanetworks."""

from typing import TYPE_CHECKING

from hypergen._lazy import lazy_exports

if TYPE_CHECKING:
    from hypergen.metanets.layers.edge_layer import EdgeLayer
    from hypergen.metanets.layers.incidences import Incidences, incidences_of
    from hypergen.metanets.layers.product_layer import ProductLayer
    from hypergen.metanets.layers.relational_layer import RelationalLayer

__getattr__, __dir__, __all__ = lazy_exports(__name__)
