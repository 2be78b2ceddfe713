"""How many steps of training a network needs to an accuracy, with its learning rate tuned.

The learning rate is selected on validation images and the steps are counted on test images, in a run of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from torch import nn

from hypergen.errors import ParameterError
from hypergen.evaluation.accuracy import accuracy, calibrate
from hypergen.evaluation.image_data import ImageData
from hypergen.evaluation.short_training import training_steps

EVERY_STEP_UNTIL = 20


@dataclass(frozen=True)
class StepsProtocol:
    """The settings of the count, the same for every side.

    Args:
        threshold: The accuracy to reach.
        learning_rates: Learning rates of Adam; the grid to select from.
        cap: Steps after which a run gives up.
        curve_steps: The final run goes on to this step even when it has reached the threshold, for the curves.
    """

    threshold: float = 0.95
    learning_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2)
    cap: int = 1000
    curve_steps: int = 150

    def to_json(self) -> dict[str, Any]:
        """Keyword arguments that make an equal protocol."""
        return {**asdict(self), "learning_rates": list(self.learning_rates)}


@dataclass(frozen=True)
class StepsCount:
    """What :func:`count_steps` found.

    Args:
        learning_rate: The one selected on validation.
        steps: Steps to the threshold on test images, 0 if it is reached before training; None if never.
        curve: (step, test accuracy) of the run at that learning rate.
    """

    learning_rate: float
    steps: int | None
    curve: tuple[tuple[int, float], ...]


def check_points(cap: int) -> Iterator[int]:
    """When accuracy is measured: before training, after each of the first 20 steps, then at 5% more each time."""
    step = 0
    while step < cap:
        yield step
        step = min(cap, step + 1 if step < EVERY_STEP_UNTIL else math.ceil(step * 1.05))
    yield cap


def accuracies_while_training(
    model: nn.Module, data: ImageData, split: str, *, learning_rate: float, seed: int, cap: int
) -> Iterator[tuple[int, float]]:
    """Train in place and measure accuracy on ``split`` at the :func:`check_points`.

    Batch norms start with statistics of the training images and then keep their running ones, as in any training.

    Yields:
        (step, accuracy), up to ``cap`` or to the step where the loss stops being finite.
    """
    images, labels = getattr(data, split)
    try:
        calibrate(model, data)
    except ParameterError:
        return  # Values blow up in the first forward pass: no step of training mends that.
    steps = training_steps(model, *data.train, learning_rate=learning_rate, seed=seed)
    done = 0
    for check in check_points(cap):
        while done < check:
            if next(steps, None) is None:
                return
            done += 1
        yield check, accuracy(model, images, labels)


def steps_to(accuracies: Iterator[tuple[int, float]], threshold: float) -> int | None:
    """The first step with at least this accuracy; None if there is none. Reads no further than that."""
    return next((step for step, value in accuracies if value >= threshold), None)


def select_learning_rate(
    make_model: Callable[[], nn.Module], data: ImageData, protocol: StepsProtocol, *, seed: int
) -> float:
    """The learning rate with the fewest steps to the threshold on validation images.

    Of rates that need equally many, the one with the greatest mean accuracy over the first 20 steps: of a network that
    is there before training, the rate that keeps it there. If none reaches the threshold, the one that comes nearest.
    """
    limit = protocol.cap
    ranks: dict[float, tuple[float, float]] = {}  # Smallest is best.
    for rate in protocol.learning_rates:
        reached: int | None = None
        seen: list[tuple[int, float]] = []
        for step, value in accuracies_while_training(
            make_model(), data, "validation", learning_rate=rate, seed=seed, cap=max(limit, EVERY_STEP_UNTIL)
        ):
            seen.append((step, value))
            if reached is None and value >= protocol.threshold:
                reached = step
            if reached is not None and step >= EVERY_STEP_UNTIL:
                break
        if reached is not None:
            ranks[rate] = (reached, -fmean(value for step, value in seen if step <= EVERY_STEP_UNTIL))
            limit = min(limit, reached)  # A rate that needs more steps has lost; no need to see how many.
        else:
            ranks[rate] = (math.inf, -max((value for _, value in seen), default=0.0))
    return min(ranks, key=lambda rate: ranks[rate])


def count_steps(
    make_model: Callable[[], nn.Module], data: ImageData, protocol: StepsProtocol, *, seed: int
) -> StepsCount:
    """Count the steps to the threshold on test images, at the learning rate selected on validation images.

    Args:
        make_model: Builds the network with the parameters that training starts from, always the same ones.
        data: The images.
        protocol: The settings.
        seed: Random seed of the order of the training images.
    """
    rate = select_learning_rate(make_model, data, protocol, seed=seed)
    reached: int | None = None
    curve: list[tuple[int, float]] = []
    for step, value in accuracies_while_training(
        make_model(), data, "test", learning_rate=rate, seed=seed, cap=protocol.cap
    ):
        curve.append((step, value))
        if reached is None and value >= protocol.threshold:
            reached = step
        if reached is not None and step >= protocol.curve_steps:
            break
    return StepsCount(rate, reached, tuple(curve))


def ever_reaches(
    make_model: Callable[[], nn.Module],
    data: ImageData,
    protocol: StepsProtocol,
    *,
    seed: int,
    learning_rates: Sequence[float] | None = None,
) -> bool:
    """Whether training reaches the threshold on test images at any learning rate of the grid."""
    return any(
        steps_to(
            accuracies_while_training(make_model(), data, "test", learning_rate=rate, seed=seed, cap=protocol.cap),
            protocol.threshold,
        )
        is not None
        for rate in (protocol.learning_rates if learning_rates is None else learning_rates)
    )
