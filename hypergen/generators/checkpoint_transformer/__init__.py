"""A checkpoint transformer (G.pt)."""

from typing import TYPE_CHECKING

from hypergen._lazy import lazy_exports

if TYPE_CHECKING:
    from hypergen.generators.checkpoint_transformer.model import CheckpointTransformer
    from hypergen.generators.checkpoint_transformer.training import CheckpointTransformerTraining

__getattr__, __dir__, __all__ = lazy_exports(__name__)
