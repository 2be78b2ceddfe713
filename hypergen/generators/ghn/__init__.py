"""Graph hypernetworks: GHN-2, GHN-3, LoGAH and magnitude invariant heads are configurations of one model."""

from typing import TYPE_CHECKING

from hypergen._lazy import lazy_exports

if TYPE_CHECKING:
    from hypergen.generators.ghn.meta_batches import MetaBatchDataModule
    from hypergen.generators.ghn.model import GraphHypernetwork
    from hypergen.generators.ghn.pyg_encoder import PyGEncoder
    from hypergen.generators.ghn.training import GraphHypernetworkTraining

__getattr__, __dir__, __all__ = lazy_exports(__name__)
