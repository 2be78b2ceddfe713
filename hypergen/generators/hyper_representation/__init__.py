"""A hyper-representation of weights (SANE)."""

from typing import TYPE_CHECKING

from hypergen._lazy import lazy_exports

if TYPE_CHECKING:
    from hypergen.generators.hyper_representation.model import HyperRepresentation
    from hypergen.generators.hyper_representation.training import HyperRepresentationTraining

__getattr__, __dir__, __all__ = lazy_exports(__name__)
