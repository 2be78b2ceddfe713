"""Where training starts best from: predicted parameters, as they are and diversified, and what needs no generator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.initialisations.mimetic import mimetic
from hypergen.api.diversify import DIVERSIFICATIONS, diversify, last_weights
from hypergen.architectures import Architecture
from hypergen.errors import ParameterError
from hypergen.evaluation.accuracy import accuracy, calibrate
from hypergen.evaluation.image_data import ImageData
from hypergen.evaluation.parallel import map_tasks
from hypergen.evaluation.results import Results, Row
from hypergen.evaluation.short_training import build_default, derived_seed, training_steps
from hypergen.evaluation.steps import check_points
from hypergen.functional import Parameters, apply_parameters
from hypergen.functional.batches import evaluation_mode
from hypergen.generators import load_generator
from hypergen.graph import trace

DEFAULT, MIMETIC, PREDICTED = "default", "mimetic", "predicted"
STARTS = (DEFAULT, MIMETIC, PREDICTED, *(f"{PREDICTED}_{kind}" for kind in DIVERSIFICATIONS))


@dataclass(frozen=True)
class StartsProtocol:
    """The settings, the same for every start.

    Args:
        steps: Number of steps of training with Adam.
        learning_rates: The grid; each network and start has its own, selected on validation images with a seed that
            figures do not use.
        seeds: Trainings per network and start, of which each has its own initialisation and order of images.
        starts: Which of :data:`STARTS`.
    """

    steps: int = 150
    learning_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2)
    seeds: int = 5
    starts: tuple[str, ...] = STARTS


@dataclass(frozen=True)
class _Case:
    architecture: Architecture
    start: str
    generator: str
    protocol: StartsProtocol
    seed: int


@dataclass(frozen=True)
class _Predicted:
    """Parameters, and which of them are the last layer's weights."""

    parameters: Parameters
    last: tuple[str, ...]


@dataclass(frozen=True)
class _Curves:
    """Of one network and start: the learning rate, and per seed (step, test loss) and final test accuracy."""

    learning_rate: float
    losses: tuple[tuple[tuple[int, float], ...], ...]
    accuracies: tuple[float, ...]


def compare_starts(
    data: ImageData,
    architectures: Sequence[Architecture],
    generator: str,
    protocol: StartsProtocol | None = None,
    *,
    workers: int = 0,
    seed: int = 0,
    name: str = "starts",
) -> Results:
    """Train every network from every start, and count the steps to the loss that its default initialisation ends at.

    Args:
        data: Images that the networks classify, not necessarily those that the generator was trained for.
        architectures: The networks. The mimetic start is compared on those with attention alone.
        generator: A name or path for :func:`hypergen.load_generator`.
        protocol: The settings.
        workers: Processes; 0 for none.
        seed: Random seed of everything.
        name: Name of the results.

    Returns:
        For every start ``START_steps_share`` (steps to the target over those of the protocol, 2 where it is never
        reached: the median over networks and seeds), ``START_final_accuracy``, and its margin over the default start's
        on the same networks and seeds.
    """
    protocol = protocol or StartsProtocol()
    cases = [
        _Case(architecture, start, generator, protocol, seed)
        for architecture in architectures
        for start in protocol.starts
        if start != MIMETIC or mimetic(architecture.build())
    ]
    found = dict(map_tasks(_train, data, cases, workers=workers))
    curves = {(case.architecture.name, case.start): found[number] for number, case in enumerate(cases)}
    rows: list[Row] = []
    for start in protocol.starts:
        names = [architecture.name for architecture in architectures if (architecture.name, start) in curves]
        if not names:
            continue
        shares: list[float] = []
        accuracies: list[float] = []
        margins: list[float] = []
        for network in names:
            default, own = curves[network, DEFAULT], curves[network, start]
            target = fmean(losses[-1][1] for losses in default.losses)
            shares += [_steps_to(losses, target, 2 * protocol.steps) / protocol.steps for losses in own.losses]
            accuracies += own.accuracies
            margins += [one - other for one, other in zip(own.accuracies, default.accuracies, strict=True)]
        rows += [
            Row.from_values(f"{start}_steps_share", shares, better="lower", statistic="median"),
            Row.from_values(f"{start}_final_accuracy", accuracies),
            Row.from_values(
                f"{start}_first_loss",
                (losses[0][1] for network in names for losses in curves[network, start].losses),
                better="lower",
            ),
        ]
        if start != DEFAULT:
            rows.append(Row.from_values(f"{start}_margin_over_default", margins))
    details: dict[str, Any] = {"protocol": asdict(protocol), "generator": generator}
    details["architectures"] = [architecture.name for architecture in architectures]
    details["learning_rates"] = {f"{network}:{start}": one.learning_rate for (network, start), one in curves.items()}
    return Results(name, seed, tuple(rows), details)


def _train(data: ImageData, case: _Case) -> _Curves:
    protocol = case.protocol
    predicted = _predicted(data, case)
    ends = {}
    for rate in protocol.learning_rates:
        losses, _ = _curve(data, case, predicted, "validation", rate, 0)
        ends[rate] = losses[-1][1]
    rate = min(ends, key=lambda one: ends[one])
    curves = [_curve(data, case, predicted, "test", rate, number) for number in range(1, protocol.seeds + 1)]
    return _Curves(rate, tuple(losses for losses, _ in curves), tuple(final for _, final in curves))


def _curve(
    data: ImageData, case: _Case, predicted: _Predicted | None, split: str, rate: float, number: int
) -> tuple[tuple[tuple[int, float], ...], float]:
    """(step, loss) at the check points, and the accuracy at the end; a training that blows up ends there."""
    seed = derived_seed(case.seed, case.architecture.name, "start", str(number))
    model = _start(data, case, predicted, seed)
    images, labels = getattr(data, split)
    steps = training_steps(model, *data.train, learning_rate=rate, seed=seed)
    done = 0
    losses: list[tuple[int, float]] = []
    for check in check_points(case.protocol.steps):
        while done < check:
            if next(steps, None) is None:
                return (*losses, (check, math.inf)), 0.0
            done += 1
        losses.append((check, _loss(model, images, labels)))
    return tuple(losses), accuracy(model, images, labels)


def _predicted(data: ImageData, case: _Case) -> _Predicted | None:
    """What is predicted for the network, whatever the seed; None where the start needs no generator."""
    if not case.start.startswith(PREDICTED):
        return None
    with torch.device("meta"):
        network = case.architecture.build()
    graph = trace(network, data.train[0][:1])
    with torch.no_grad():
        return _Predicted(load_generator(case.generator).generate(graph), last_weights(graph))


def _start(data: ImageData, case: _Case, predicted: _Predicted | None, seed: int) -> nn.Module:
    model = build_default(case.architecture, seed)
    if case.start == MIMETIC:
        mimetic(model, seed)
    if predicted is not None:
        parameters = predicted.parameters
        if kind := case.start.removeprefix(PREDICTED).removeprefix("_"):
            own = dict(model.named_parameters())
            parameters = diversify(parameters, kind, leave_out=predicted.last, own=own, seed=seed % 2**20)
        apply_parameters(model, parameters, partial=True)
    try:
        calibrate(model, data)
    except ParameterError:
        pass  # Values that blow up: the curve shows it.
    return model


def _loss(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    with evaluation_mode(model):
        total = sum(
            float(F.cross_entropy(model(some), expected, reduction="sum"))
            for some, expected in zip(images.split(512), labels.split(512), strict=True)
        )
    return total / len(labels) if math.isfinite(total) else math.inf


def _steps_to(losses: Sequence[tuple[int, float]], target: float, never: int) -> int:
    return next((step for step, loss in losses if loss <= target), never)
