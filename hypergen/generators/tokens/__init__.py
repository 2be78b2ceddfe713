"""Weights as tokens, which several generators share."""

from typing import TYPE_CHECKING

from hypergen._lazy import lazy_exports

if TYPE_CHECKING:
    from hypergen.generators.tokens.network_batches import LayoutNetworks, NetworkBatches, TrainingZoo
    from hypergen.generators.tokens.unit_tokens import UnitTokens
    from hypergen.generators.tokens.weight_tokens import WeightTokens

__getattr__, __dir__, __all__ = lazy_exports(__name__)
