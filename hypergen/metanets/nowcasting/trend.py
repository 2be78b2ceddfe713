"""Predicts the trajectory of each parameter from its latest changes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hypergen.metanets.nowcasting.nowcaster import Forecast, NowcastNetwork, State, change_scale

_FARTHEST_BACK = 1.5


class TrendMLP(NowcastNetwork):
    """Linear extrapolation, how far and from where a perceptron decides for each parameter.

    Of a least-squares line through the parameter's history, the prediction is the last state, plus a share of the way
    to the line, plus a gain times what the line rises until the horizon. The gain is between zero and ``bound``; both
    depend on how straight the history was, on how much the parameter changes compared with its tensor and on the
    horizon. The mirrored history has the mirrored future. Untrained, it is
    :class:`~hypergen.metanets.nowcasting.nowcaster.LinearExtrapolation`.

    Args:
        context: States of a history.
        horizons: The farthest horizon.
        hidden: Width.
        layers: Hidden layers.
        bound: Upper bound of the gain, more than one.
    """

    slope: Tensor

    def __init__(
        self, context: int = 5, horizons: int = 40, hidden: int = 32, layers: int = 2, bound: float = 2.0
    ) -> None:
        super().__init__()
        self.context, self.horizons, self.bound = context, horizons, bound
        times = torch.arange(context) - (context - 1) / 2
        self.register_buffer("slope", times / times.square().sum(), persistent=False)
        widths = [context + 5, *[hidden] * layers]
        hidden_layers = [
            part
            for inputs, outputs in zip(widths, widths[1:], strict=False)
            for part in (nn.Linear(inputs, outputs), nn.SiLU())
        ]
        self.body = nn.Sequential(*hidden_layers)
        self.head = nn.Linear(hidden, 2)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features [N, context + 5] → gains and shares of the way to the line, [N] each."""
        gain, share = self.head(self.body(features)).unbind(-1)
        gain = self.bound * torch.sigmoid(gain * 4 / self.bound - math.log(self.bound - 1))
        return gain, _FARTHEST_BACK * torch.tanh(share / _FARTHEST_BACK)

    def bind(self, model: nn.Module, example_inputs: Any = None) -> Forecast:
        """The same for every architecture."""

        def forecast(history: Sequence[State], horizon: int) -> dict[str, Tensor]:
            last, tensors = history[-1], change_scale(history)
            changes = {name: torch.stack([s[name] - value for s in history], -1) for name, value in last.items()}
            slopes = {name: change @ self.slope.to(change.dtype) for name, change in changes.items()}
            features = torch.cat(
                [_features(v, changes[name], slopes[name], tensors[name], horizon) for name, v in last.items()]
            )
            gains, shares = self(features.to(self.head.weight.dtype))
            sizes = [value.numel() for value in last.values()]
            predicted = {}
            for (name, value), gain, share in zip(last.items(), gains.split(sizes), shares.split(sizes), strict=True):
                line = changes[name].mean(-1) + slopes[name] * (self.context - 1) / 2
                rise = horizon * slopes[name]
                predicted[name] = value + share.to(value).view_as(value) * line + gain.to(value).view_as(value) * rise
            return predicted

        return forecast


def _features(value: Tensor, changes: Tensor, slope: Tensor, tensor: Tensor, horizon: int) -> Tensor:
    """[elements, context + 5], which are the same for the mirrored history.

    The history's shape, how straight it is, the value in units of its tensor, how much it changes in units of its
    tensor's change, how much of that is trend, and of the tensor's size, and the horizon.
    """
    sign = torch.where(slope < 0, -1.0, 1.0)
    context = changes.shape[-1]
    own = changes[..., :-1].square().mean(-1).sqrt()
    shape = changes[..., :-1] / own.clamp_min(1e-12).unsqueeze(-1) * sign.unsqueeze(-1)
    spread = changes.std(-1, correction=0).clamp_min(1e-12)
    straight = slope.abs() * math.sqrt((context**2 - 1) / 12) / spread
    size = value.flatten(1).square().mean(1).sqrt().clamp_min(1e-12).view(tensor.shape)
    trend = slope.flatten(1).square().mean(1).sqrt().view(tensor.shape) * (context - 1)
    numbers = [
        straight,
        (value / size).clamp(-5, 5) * sign,
        (own / tensor).clamp_min(1e-3).log() / 3,
        (tensor / size).clamp_min(1e-4).log().expand_as(value) / 3,
        torch.full_like(value, math.log(horizon) / 2 - 0.8),
        (trend / tensor).expand_as(value),
    ]
    return torch.cat([shape, torch.stack(numbers, -1)], -1).flatten(0, -2)
