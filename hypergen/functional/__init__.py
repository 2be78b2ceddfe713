"""Checking, applying and measuring parameters; networks in a stack."""

from typing import TYPE_CHECKING

from hypergen._lazy import lazy_exports

if TYPE_CHECKING:
    from hypergen.functional.apply import apply_parameters
    from hypergen.functional.check import Parameters, check_parameters, distinct_value_share, expected_shapes
    from hypergen.functional.moving_average import MovingAverage
    from hypergen.functional.recalibrate import BatchNormCalibration, calibrate_batch_norm
    from hypergen.functional.ridge_readout import RidgeHead, fit_ridge_head
    from hypergen.functional.stacked import Recipe, evaluate_stacked, train_stacked
    from hypergen.functional.stacked_module import StackedModule

__getattr__, __dir__, __all__ = lazy_exports(__name__)
