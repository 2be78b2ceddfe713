"""What predicts a network's parameters some steps of training ahead, from a history of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

State = Mapping[str, Tensor]
Forecast = Callable[[Sequence[State], int], dict[str, Tensor]]


class NowcastNetwork(nn.Module, ABC):
    """Predicts parameters ``horizon`` intervals after the last of ``context`` states that are an interval apart.

    Attributes:
        context: States of a history.
        horizons: The farthest horizon.
    """

    context: int
    horizons: int

    @abstractmethod
    def bind(self, model: nn.Module, example_inputs: Any = None) -> Forecast:
        """What forecasts parameters of one architecture.

        Args:
            model: Module of that architecture; only read.
            example_inputs: What ``model(...)`` is called with, for networks that need its graph.

        Returns:
            A function of ``context`` states, each a tensor [B, …] per parameter of B networks, and of a horizon from 1
            to ``horizons``; it returns such a state. Differentiable when gradients are on.
        """


class LinearExtrapolation(NowcastNetwork):
    """Goes on in a straight line: the least-squares slope of each parameter over the history, from the last state.

    Args:
        context: States of a history.
        horizons: The farthest horizon.
    """

    def __init__(self, context: int = 5, horizons: int = 40) -> None:
        super().__init__()
        self.context, self.horizons = context, horizons

    def bind(self, model: nn.Module, example_inputs: Any = None) -> Forecast:
        """The same for every architecture."""
        times = torch.arange(self.context) - (self.context - 1) / 2
        slope = times / times.square().sum()

        def forecast(history: Sequence[State], horizon: int) -> dict[str, Tensor]:
            return {
                name: last + horizon * sum(float(w) * state[name] for w, state in zip(slope, history, strict=True))
                for name, last in history[-1].items()
            }

        return forecast


class StateAverage(NowcastNetwork):
    """The mean of the history, whatever the horizon.

    LAWA of Kaddour, "Stop Wasting My Time! Saving Days of ImageNet and BERT Training with Latest Weight Averaging",
    2022, arXiv:2209.14981, except that training goes on from the mean.

    Args:
        context: States of a history.
        horizons: What a schedule of horizons may go up to.
    """

    def __init__(self, context: int = 5, horizons: int = 40) -> None:
        super().__init__()
        self.context, self.horizons = context, horizons

    def bind(self, model: nn.Module, example_inputs: Any = None) -> Forecast:
        """The same for every architecture."""

        def forecast(history: Sequence[State], horizon: int) -> dict[str, Tensor]:
            return {name: torch.stack([state[name] for state in history]).mean(0) for name in history[-1]}

        return forecast


def standardise(history: Sequence[State]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Histories with mean 0 and standard deviation 1 for each tensor of each network, over its elements and states.

    Args:
        history: ``context`` states, each [B, …] per name.

    Returns:
        Per name the standardised history [B, …, context], and what it was divided by, [B, 1, …] like a parameter.
    """
    scaled, scales = {}, {}
    for name in history[-1]:
        values = torch.stack([state[name] for state in history], -1)
        flat = values.flatten(1)
        shape = [-1] + [1] * (values.dim() - 1)
        std = flat.std(1)
        scaled[name] = (values - flat.mean(1).view(shape)) / (std.view(shape) + 1e-6)
        scales[name] = std.view(shape[:-1])
    return scaled, scales


def change_scale(history: Sequence[State]) -> dict[str, Tensor]:
    """By how much each tensor of each network changes over a history: the root mean square, [B, 1, …] per name."""
    scales = {}
    for name, last in history[-1].items():
        changes = torch.stack([state[name] - last for state in history[:-1]], 1).flatten(1)
        scales[name] = changes.square().mean(1).sqrt().clamp_min(1e-12).view([-1] + [1] * (last.dim() - 1))
    return scales


def horizon_schedule(horizons: int, jumps: int, power: float = 2.0) -> list[int]:
    """The horizon of each jump of a training run: far at the beginning, one interval at the end.

    ``round(linspace(horizons^(1/power), 1, jumps)^power)``: 40, 33, 26, 21, 16, 11, 8, 5, 3 and 1 of ten jumps.
    """
    steps = torch.linspace(horizons ** (1 / power), 1, max(1, jumps), dtype=torch.float64)
    return steps.pow(power).round().int().tolist()


def halvings(horizon: int) -> list[int]:
    """A horizon and its halves, down to one."""
    found = [horizon]
    while found[-1] > 1:
        found.append(found[-1] // 2)
    return found
