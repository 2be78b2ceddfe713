"""Predicts the trajectory of training with a metanetwork on the network's parameter graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hypergen.graph import trace
from hypergen.metanets.metanetwork import EquivariantMetanetwork, GraphMetanetwork, Message
from hypergen.metanets.nowcasting.nowcaster import Forecast, NowcastNetwork, State, change_scale


class EquivariantNowcaster(NowcastNetwork):
    """Lets neurons interact before each weight's change is predicted, on any network that can be traced.

    As NiNo's graph network, but on the parameter graph that tracing and ``symmetry()`` give, with nothing laid out per
    architecture. What it reads of each weight is its value, in units of its tensor, and its changes over the history,
    in units of theirs. Each prediction is a sum of a few parts with a factor per horizon; untrained it is no change.

    Args:
        context: States of a history.
        horizons: The farthest horizon.
        hidden: Width.
        layers: Rounds of messages.
        message: Kind of message, one of :class:`~hypergen.metanets.GraphMetanetwork`; ``"product"`` is the cheapest.
        parts: Numbers that are predicted for every weight.
    """

    def __init__(
        self,
        context: int = 5,
        horizons: int = 40,
        hidden: int = 16,
        layers: int = 2,
        message: Message = "product",
        parts: int = 4,
    ) -> None:
        super().__init__()
        self.context, self.horizons = context, horizons
        encoder = GraphMetanetwork(features=context, hidden=hidden, layers=layers, message=message)
        self.metanetwork = EquivariantMetanetwork(encoder, outputs=parts, relative=False)
        self.factors = nn.Parameter(torch.zeros(horizons, parts))

    def bind(self, model: nn.Module, example_inputs: Any = None) -> Forecast:
        """Trace the model, which needs example inputs where the model does not tell them.

        Raises:
            TraceError: The model could not be traced.
        """
        graph = trace(model, example_inputs).parameter_graph(buffers=False)

        def forecast(history: Sequence[State], horizon: int) -> dict[str, Tensor]:
            last, scales = history[-1], change_scale(history)
            features = [
                {name: (state[name] - value) / scales[name] for name, value in last.items()} for state in history[:-1]
            ]
            values = {name: value / _size(value) for name, value in last.items()}
            parts = self.metanetwork(graph, values, *features)
            changes = graph.to_params([part @ self.factors[horizon - 1, :, None] for part in parts])
            # A parameter that no operation reads is no part of the graph; it has no trajectory either.
            return {name: v + scales[name] * changes[name] if name in changes else v for name, v in last.items()}

        return forecast


def _size(value: Tensor) -> Tensor:
    """The root mean square of each network's tensor, [B, 1, …]."""
    size = value.flatten(1).square().mean(1).sqrt().clamp_min(1e-12)
    return size.view([-1] + [1] * (value.dim() - 1))
