"""What is measured about the parameters predicted for one architecture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import nn

from hypergen.architectures import Architecture
from hypergen.errors import ParameterError
from hypergen.evaluation.accuracy import accuracy, calibrate, ridge_head_accuracy
from hypergen.evaluation.image_data import ImageData
from hypergen.evaluation.parallel import unpack
from hypergen.evaluation.short_training import build_default, derived_seed
from hypergen.evaluation.steps import StepsCount, StepsProtocol, count_steps
from hypergen.functional import apply_parameters, distinct_value_share


@dataclass(frozen=True)
class PredictionTask:
    """A network and what was predicted for it.

    Args:
        architecture: The network.
        parameters: The usable predictions; parameters without one keep their default initialisation.
        failure: Why there are none at all; None if there are.
        steps: Also count steps of training from the predicted parameters; None for not.
        seed: Random seed of the default initialisation and the order of training images.
    """

    architecture: Architecture
    parameters: dict[str, np.ndarray]
    failure: str | None
    steps: StepsProtocol | None
    seed: int


@dataclass(frozen=True)
class PredictionMeasures:
    """What :func:`measure_prediction` found; accuracies on test images."""

    parameters: int
    predicted: float
    predicted_ridge_head: float
    share_predicted: float
    distinct_value_share: float
    failure: str | None
    steps: StepsCount | None


def measure_prediction(data: ImageData, task: PredictionTask) -> PredictionMeasures:
    """Measure a prediction. One that cannot be used, or blows up, has accuracy 0 and says why."""
    values = unpack(task.parameters)

    def make_model() -> nn.Module:
        model = build_default(task.architecture, task.seed)
        apply_parameters(model, values, partial=True)
        return model

    model = make_model()
    total = sum(parameter.numel() for parameter in model.parameters())
    share = sum(value.numel() for value in values.values()) / total
    predicted = ridge = 0.0
    failure = task.failure
    if failure is None:
        try:
            calibrate(model, data)
            predicted = accuracy(model, *data.test)
            ridge = ridge_head_accuracy(model, data)
        except ParameterError as error:
            failure = str(error)
    steps = None
    if task.steps is not None:
        if failure is None:
            order = derived_seed(task.seed, task.architecture.name, "order")
            steps = count_steps(make_model, data, task.steps, seed=order)
        else:
            steps = StepsCount(task.steps.learning_rates[0], None, ())
    distinct = distinct_value_share(values) if values else 0.0
    return PredictionMeasures(total, predicted, ridge, share, distinct, failure, steps)
