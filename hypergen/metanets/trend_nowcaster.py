"""Predicts the course of each parameter from its latest changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hypergen.metanets.nowcasters import Forecast, NowcastNetwork, State, change_scale


class TrendMLP(NowcastNetwork):
    """A perceptron on the changes of a parameter's history, in units of those of its tensor.

    NiNo's perceptron reads values in units of their tensor, among which the changes that it is about are small; this
    one reads the changes, and needs a fortieth of the weights. What it predicts is a linear function of the changes
    and a correction. Untrained, it predicts that nothing changes.

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
        self.correction = nn.Linear(hidden, horizons)
        self.linear = nn.Linear(context - 1, horizons, bias=False)
        for part in (self.correction.weight, self.correction.bias, self.linear.weight):
            nn.init.zeros_(part)

    def forward(self, features: Tensor, horizon: int) -> Tensor:
        """Features [N, context + 1] → changes [N] at a horizon, in units of their tensor's."""
        row = horizon - 1
        linear = features[:, : self.context - 1] @ self.linear.weight[row]
        change: Tensor = linear + self.body(features) @ self.correction.weight[row] + self.correction.bias[row]
        return change

    def bind(self, model: nn.Module, example_inputs: Any = None) -> Forecast:
        """The same for every architecture."""

        def forecast(history: Sequence[State], horizon: int) -> dict[str, Tensor]:
            last = history[-1]
            scales = change_scale(history)
            features = torch.cat([self._features(history, name, scales[name]) for name in last])
            changes = self(features.to(self.linear.weight.dtype), horizon)
            sizes = [value.numel() for value in last.values()]
            return {
                name: value + scales[name] * change.view_as(value).to(value.dtype)
                for (name, value), change in zip(last.items(), changes.split(sizes), strict=True)
            }

        return forecast

    def _features(self, history: Sequence[State], name: str, scale: Tensor) -> Tensor:
        """Changes, the value in units of its tensor, and how fast the tensor changes: [elements, context + 1]."""
        last = history[-1][name]
        size = last.flatten(1).square().mean(1).sqrt().clamp_min(1e-12).view(scale.shape)
        changes = [(state[name] - last) / scale for state in history[:-1]]
        return torch.stack([*changes, last / size, (scale / size).log().expand_as(last) / 3], -1).flatten(0, -2)
