"""Hypernetworks: parameters of one fixed network from a condition."""

from typing import TYPE_CHECKING

from hypergen._lazy import lazy_exports

if TYPE_CHECKING:
    from hypergen.generators.hypernetwork.check import HyperNetworkCheck
    from hypergen.generators.hypernetwork.magnitude_invariant import magnitude_invariant
    from hypergen.generators.hypernetwork.model import HyperNetwork
    from hypergen.generators.hypernetwork.training import HyperNetworkTraining

__getattr__, __dir__, __all__ = lazy_exports(__name__)
