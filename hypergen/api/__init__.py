"""Predict, initialise, stream to disk: the functions that users call."""

from typing import TYPE_CHECKING

from hypergen._lazy import lazy_exports

if TYPE_CHECKING:
    from hypergen.api.disk import DiskReport, predict_to_disk
    from hypergen.api.predict import InitializationReport, initialize, predict_params

__getattr__, __dir__, __all__ = lazy_exports(__name__)
