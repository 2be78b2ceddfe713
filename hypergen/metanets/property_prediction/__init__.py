"""Properties of networks from their weights."""

from typing import TYPE_CHECKING

from hypergen._lazy import lazy_exports

if TYPE_CHECKING:
    from hypergen.metanets.property_prediction.model import PropertyPredictor
    from hypergen.metanets.property_prediction.training import MeasuredNetworks, PropertyPrediction

__getattr__, __dir__, __all__ = lazy_exports(__name__)
