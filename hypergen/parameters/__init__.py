"""Checking, applying and measuring parameters."""

from hypergen.parameters.apply import apply_parameters
from hypergen.parameters.batch_norm import BatchNormCalibration, calibrate_batch_norm
from hypergen.parameters.check import Parameters, check_parameters, expected_shapes
from hypergen.parameters.diversify import DIVERSIFICATIONS, diversify, last_weights
from hypergen.parameters.ridge_head import RidgeHead, fit_ridge_head
from hypergen.parameters.statistics import distinct_value_share

__all__ = [
    "DIVERSIFICATIONS",
    "BatchNormCalibration",
    "Parameters",
    "RidgeHead",
    "apply_parameters",
    "calibrate_batch_norm",
    "check_parameters",
    "distinct_value_share",
    "diversify",
    "expected_shapes",
    "fit_ridge_head",
    "last_weights",
]
