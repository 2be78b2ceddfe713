"""Flow matching on aligned network weights (DeepWeightFlow)."""

from typing import TYPE_CHECKING

from hypergen._lazy import lazy_exports

if TYPE_CHECKING:
    from hypergen.generators.flow_matching.model import FlowMatching
    from hypergen.generators.flow_matching.training import FlowMatchingTraining

__getattr__, __dir__, __all__ = lazy_exports(__name__)
