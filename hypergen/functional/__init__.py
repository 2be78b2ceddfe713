"""Checking, applying and measuring parameters."""

from hypergen.functional.apply import apply_parameters
from hypergen.functional.check import Parameters, check_parameters, expected_shapes
from hypergen.functional.recalibrate import BatchNormCalibration, calibrate_batch_norm
from hypergen.functional.ridge_readout import RidgeHead, fit_ridge_head
from hypergen.functional.statistics import distinct_value_share

__all__ = [
    "BatchNormCalibration",
    "Parameters",
    "RidgeHead",
    "apply_parameters",
    "calibrate_batch_norm",
    "check_parameters",
    "distinct_value_share",
    "expected_shapes",
    "fit_ridge_head",
]
