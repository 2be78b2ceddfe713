"""The protocol for images without trained baselines: unseen networks of the training's space, and networks by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import nn

from hypergen.architectures import Space
from hypergen.errors import ParameterError
from hypergen.evaluation.accuracy import accuracy, calibrate, ridge_head_accuracy
from hypergen.evaluation.image_classifiers.protocol import predict_network
from hypergen.evaluation.image_data import HasTensors, ImageData
from hypergen.evaluation.parallel import map_tasks, pack, unpack
from hypergen.evaluation.results import Results, Row
from hypergen.functional import apply_parameters

_UNSEEN = 1 << 48  # Seeds of architectures: training counts its own from 0.


@dataclass(frozen=True)
class NetworkAccuracies:
    """Test accuracies of one network; 0 where its values blow up.

    Args:
        name: Name of the network.
        predicted: At predicted parameters, batch statistics estimated on training images.
        predicted_ridge_head: With its last layer solved in closed form besides.
        default_ridge_head: The same from default initialisation: what a head makes of random features.
        failure: Why there is no prediction; None if there is.
    """

    name: str
    predicted: float
    predicted_ridge_head: float
    default_ridge_head: float
    failure: str | None = None


@dataclass(frozen=True)
class _Task:
    name: str
    build: Callable[[], nn.Module]
    parameters: dict[str, np.ndarray]
    failure: str | None
    seed: int


@dataclass(frozen=True)
class UnseenNetworksEvaluation:
    """What :func:`evaluate_on_unseen_networks` found."""

    results: Results
    networks: tuple[NetworkAccuracies, ...]

    def write(self, folder: str | Path) -> None:
        """Write ``results.json``, which has every network, and ``results.md``."""
        self.results.write(folder)


def evaluate_on_unseen_networks(
    generator: Any,
    data: HasTensors,
    *,
    space: Space,
    architectures_per_split: int = 50,
    networks: Mapping[str, Callable[[], nn.Module]] | None = None,
    calibration_images: int = 5000,
    test_images: int | None = None,
    workers: int = 0,
    aims: Mapping[str, float] | None = None,
    name: str = "unseen_networks",
    seed: int = 0,
) -> UnseenNetworksEvaluation:
    """Predict networks that training has not drawn, and networks by name, and measure them on test images.

    Args:
        generator: Has ``generate(target, example_inputs=...)``.
        data: The images.
        space: That training drew from; other seeds make other architectures.
        architectures_per_split: How many of them.
        networks: Further networks by name, with an output for each class.
        calibration_images: Training images for batch statistics and ridge readouts.
        test_images: The first so many test images; None for all.
        workers: Processes with one thread each; 0 for none. Predictions are made in this process.
        aims: By figure.
        name: Name of the results.
        seed: Random seed of the architectures and of default initialisation.

    Returns:
        ``predicted_accuracy_mean`` over the architectures, ``predicted_accuracy_NAME`` for each network, and both with
        ridge readouts, on top of predicted and of default parameters.
    """
    images = ImageData.read(data)
    inputs, labels = images.train
    images = images._replace(
        train=(inputs[:calibration_images], labels[:calibration_images]),
        test=(images.test[0][:test_images], images.test[1][:test_images]),
    )
    count = architectures_per_split
    drawn = [space.sample(_UNSEEN + seed * count + number) for number in range(count)]
    builders: dict[str, Callable[[], nn.Module]] = {each.name: each.build for each in drawn}
    builders |= networks or {}
    tasks = _tasks(generator, images, builders, seed)
    measured = map_tasks(_measure, images, tasks, workers=workers)
    shown = track(measured, "evaluating", len(builders), console=Console(stderr=True), transient=True)
    found = {one.name: one for _, one in shown}
    rows = []
    for figure in ("predicted", "predicted_ridge_head", "default_ridge_head"):
        label = figure.replace("predicted", "predicted_accuracy", 1).replace("default", "default_accuracy", 1)
        values = [getattr(found[each.name], figure) for each in drawn]
        rows.append(Row.from_values(f"{label}_mean", values))
        rows += [Row(f"{label}_{key}", getattr(found[key], figure)) for key in networks or {}]
    rows.append(Row("unusable_predictions", sum(one.failure is not None for one in found.values()), better="lower"))
    aims = aims or {}
    rows = [Row(row.figure, row.value, row.std, row.n, aims.get(row.figure), row.better) for row in rows]
    details: dict[str, Any] = {
        "networks": [asdict(one) for one in found.values()],
        "calibration_images": len(images.train[0]),
    }
    details["test_images"] = len(images.test[0])
    return UnseenNetworksEvaluation(Results(name, seed, tuple(rows), details), tuple(found.values()))


def _tasks(
    generator: Any, images: ImageData, builders: Mapping[str, Callable[[], nn.Module]], seed: int
) -> Iterator[_Task]:
    one_image = torch.zeros_like(images.test[0][:1])
    for name, build in builders.items():
        parameters, failure = predict_network(generator, build, one_image)
        yield _Task(name, build, pack(parameters), failure, seed)


def _measure(images: ImageData, task: _Task) -> NetworkAccuracies:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(task.seed)
        model = task.build()
    default = _ridge(model, images)
    if task.failure is not None:
        return NetworkAccuracies(task.name, 0.0, 0.0, default, task.failure)
    try:
        apply_parameters(model, unpack(task.parameters), partial=True)
        calibrate(model, images)
    except ParameterError as error:
        return NetworkAccuracies(task.name, 0.0, 0.0, default, str(error))
    return NetworkAccuracies(task.name, accuracy(model, *images.test), _ridge(model, images), default)


def _ridge(model: nn.Module, images: ImageData) -> float:
    try:
        calibrate(model, images)
        return ridge_head_accuracy(model, images)
    except ParameterError:
        return 0.0
