"""Hyperparameter search that reads weights."""

from typing import TYPE_CHECKING

from hypergen._lazy import lazy_exports

if TYPE_CHECKING:
    from hypergen.metanets.hyperparameter_search.deep_kernel import DeepKernelForecast
    from hypergen.metanets.hyperparameter_search.sampler import (
        WeightAwarePruner,
        WeightAwareSampler,
        earlier_step,
        report_weights,
    )
    from hypergen.metanets.hyperparameter_search.weight_features import WeightFeatures

__getattr__, __dir__, __all__ = lazy_exports(__name__)
