"""A metanetwork that makes networks easier to prune."""

from typing import TYPE_CHECKING

from hypergen._lazy import lazy_exports

if TYPE_CHECKING:
    from hypergen.metanets.meta_pruning.model import PruningMetanetwork
    from hypergen.metanets.meta_pruning.training import MetaPruningTraining

__getattr__, __dir__, __all__ = lazy_exports(__name__)
