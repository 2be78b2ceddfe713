"""Predicts the course of each parameter from its latest changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hypergen.metanets.nowcasters import Forecast, NowcastNetwork, State, change_scale


class TrendMLP(NowcastNetwork):
    """A perceptron on the shape of a parameter's history: its changes in units of their own root mean square.

    NiNo's perceptron reads values in units of their tensor, among which the changes that it is about are small; this
    one reads the changes, and needs a twentieth of the weights. Its prediction is in the same units, so that a
    parameter that stood still stays, and it is odd: the mirrored history has the mirrored future. Untrained, it
    predicts that nothing changes.

    Args:
        context: States of a history.
        horizons: The farthest horizon.
        hidden: Width.
        layers: Hidden layers.
    """

    def __init__(self, context: int = 5, horizons: int = 40, hidden: int = 32, layers: int = 2) -> None:
        super().__init__()
        self.context, self.horizons = context, horizons
        widths = [context + 1, *[hidden] * layers]
        hidden_layers = [
            part
            for inputs, outputs in zip(widths, widths[1:], strict=False)
            for part in (nn.Linear(inputs, outputs), nn.SiLU())
        ]
        self.body = nn.Sequential(*hidden_layers)
        self.correction = nn.Linear(hidden, horizons, bias=False)
        self.linear = nn.Linear(context - 1, horizons, bias=False)
        for part in (self.correction.weight, self.linear.weight):
            nn.init.zeros_(part)

    def forward(self, features: Tensor, horizon: int) -> Tensor:
        """Features [N, context + 1] → changes [N] at a horizon, in units of the parameter's own.

        The last feature tells how much the parameter changes compared with its tensor; the others change sign with it.
        """
        row = horizon - 1
        linear = features[:, : self.context - 1] @ self.linear.weight[row]
        mirrored = torch.cat([-features[:, :-1], features[:, -1:]], 1)
        odd = self.body(features) - self.body(mirrored)
        change: Tensor = linear + odd @ self.correction.weight[row]
        return change

    def bind(self, model: nn.Module, example_inputs: Any = None) -> Forecast:
        """The same for every architecture."""

        def forecast(history: Sequence[State], horizon: int) -> dict[str, Tensor]:
            last = history[-1]
            tensors = change_scale(history)
            changes = {name: torch.stack([s[name] - value for s in history[:-1]], -1) for name, value in last.items()}
            own = {name: change.square().mean(-1).sqrt() for name, change in changes.items()}
            features = torch.cat(
                [_features(value, changes[name], own[name], tensors[name]) for name, value in last.items()]
            )
            predicted = self(features.to(self.linear.weight.dtype), horizon)
            sizes = [value.numel() for value in last.values()]
            return {
                name: value + own[name] * change.view_as(value).to(value.dtype)
                for (name, value), change in zip(last.items(), predicted.split(sizes), strict=True)
            }

        return forecast


def _features(value: Tensor, changes: Tensor, own: Tensor, tensor: Tensor) -> Tensor:
    """Changes, the value in units of its tensor, and how fast it changes in units of it: [elements, context + 1]."""
    size = value.flatten(1).square().mean(1).sqrt().clamp_min(1e-12).view(tensor.shape)
    shape = changes / own.clamp_min(1e-12).unsqueeze(-1)
    speed = (own / tensor).clamp_min(1e-3).log() / 3
    return torch.cat([shape, (value / size).unsqueeze(-1), speed.unsqueeze(-1)], -1).flatten(0, -2)
