"""A Gaussian over network weights."""

from typing import TYPE_CHECKING

from hypergen._lazy import lazy_exports

if TYPE_CHECKING:
    from hypergen.generators.gaussian.model import Gaussian
    from hypergen.generators.gaussian.training import GaussianTraining

__getattr__, __dir__, __all__ = lazy_exports(__name__)
