"""NiNo's networks, which predict the trajectory of training from its history.

Knyazev, Moudgil, Lajoie, Belilovsky and Lacoste-Julien, "Accelerating Training with Neuron Interaction and Nowcasting
Networks", 2024, arXiv:2409.04434. Each parameter's history is standardised over its tensor; the change from its last
state to that of ``horizon`` intervals later is predicted, for all horizons at once, and scaled back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hypergen.metanets.nowcasting.nino_graph import NeuronGraph, neuron_graph
from hypergen.metanets.nowcasting.nino_kinds import parameter_kinds
from hypergen.metanets.nowcasting.nowcaster import Forecast, NowcastNetwork, State, standardise

KINDS = 15  # Rows of the published embedding.
_ROWS = 2**15  # Parameters at once: what their hidden states take stays in a processor's cache.


class NowcastMLP(NowcastNetwork):
    """Predicts each parameter from its own history and kind (``nino_mlp``); the cheapest by far.

    Args:
        context: States of a history.
        horizons: The farthest horizon.
        hidden: Width.
        layers: Linear layers behind the embedding of the history.
    """

    def __init__(self, context: int = 5, horizons: int = 40, hidden: int = 128, layers: int = 4) -> None:
        super().__init__()
        self.context, self.horizons = context, horizons
        self.kind = nn.Embedding(KINDS, hidden)
        self.history = nn.Linear(context, hidden)
        widths = [hidden] * layers + [horizons]
        self.decoder = _perceptron(widths)
        _initialise(self)

    def forward(self, histories: Tensor, kinds: Tensor) -> Tensor:
        """Standardised histories [N, context] and kinds [N] → standardised changes [N, horizons]."""
        changes: Tensor = self.decoder(self.history(histories) + self.kind(kinds))
        return changes

    def bind(self, model: nn.Module, example_inputs: Any = None) -> Forecast:
        """Look up the kinds of the model's parameters."""
        kinds = parameter_kinds(model)

        def forecast(history: Sequence[State], horizon: int) -> dict[str, Tensor]:
            histories, scales = standardise(history)
            flat = torch.cat([values.flatten(0, -2) for values in histories.values()])
            every = torch.cat([kinds[name].expand(histories[name].shape[:-1]).flatten() for name in histories])
            rows = zip(flat.split(_ROWS), every.to(flat.device).split(_ROWS), strict=True)
            changes = torch.cat([self._change(values, kind, horizon) for values, kind in rows])
            sizes = [last.numel() for last in history[-1].values()]
            return {
                name: last + scales[name] * change.view_as(last).to(last.dtype)
                for (name, last), change in zip(history[-1].items(), changes.split(sizes), strict=True)
            }

        return forecast

    def _change(self, histories: Tensor, kinds: Tensor, horizon: int) -> Tensor:
        """[N]: the changes at one horizon, without computing the others."""
        weight = self.history.weight
        *hidden_layers, last = self.decoder
        hidden = self.history(histories.to(weight.dtype)) + self.kind(kinds)
        for layer in hidden_layers:
            hidden = layer(hidden)
        assert isinstance(last, nn.Linear)
        return hidden @ last.weight[horizon - 1] + last.bias[horizon - 1]


class NowcastGNN(NowcastNetwork):
    """Lets neighbouring neurons interact before it predicts (``nino``).

    Edges carry weights, neurons are nodes with Laplacian eigenvectors as features. Messages ``scale(e) ⊙ L[x_t, x_s] +
    shift(e)`` are averaged at their targets; then every edge is updated from itself and both of its ends.

    Args:
        context: States of a history.
        horizons: The farthest horizon.
        hidden: Width.
        rounds: Number of rounds of message passing and edge updates.
        eigenvectors: Features of each node.
        kernel: Elements of the largest kernel; an edge carries a kernel.
    """

    def __init__(
        self,
        context: int = 5,
        horizons: int = 40,
        hidden: int = 128,
        rounds: int = 2,
        eigenvectors: int = 8,
        kernel: int = 9,
    ) -> None:
        super().__init__()
        self.context, self.horizons, self.kernel, self.eigenvectors = context, horizons, kernel, eigenvectors
        self.kind = nn.Embedding(KINDS, hidden)
        self.position = nn.Linear(eigenvectors, hidden)
        self.history = nn.Linear(kernel * context, hidden)
        self.rounds = nn.ModuleList(_Round(hidden) for _ in range(rounds))
        self.decoder = _perceptron([hidden, hidden, kernel * horizons])
        _initialise(self)

    def forward(self, graph: NeuronGraph, edges: Tensor) -> Tensor:
        """Standardised histories [edges, kernel, context] → standardised changes [edges, kernel, horizons]."""
        weight = self.history.weight
        nodes = self.position(graph.eigenvectors.to(weight))
        hidden = self.history(edges.to(weight.dtype).flatten(1)) + self.kind(graph.kinds)
        for each in self.rounds:
            nodes, hidden = each(nodes, hidden, graph.sources, graph.targets)
        changes: Tensor = self.decoder(hidden)
        return changes.unflatten(1, (self.kernel, self.horizons))

    def bind(self, model: nn.Module, example_inputs: Any = None) -> Forecast:
        """Lay out the model's graph, with its eigenvectors."""
        graph = neuron_graph(model, self.kernel, self.eigenvectors)

        def forecast(history: Sequence[State], horizon: int) -> dict[str, Tensor]:
            histories, scales = standardise(history)
            on_device = graph.to(next(iter(histories.values())).device)
            networks = len(next(iter(histories.values())))
            # One after the other: the edges of one network fill the memory.
            changes = [
                on_device.parameters(
                    self(on_device, on_device.edges({name: value[i] for name, value in histories.items()}))[
                        ..., horizon - 1
                    ]
                )
                for i in range(networks)
            ]
            return {
                name: last + scales[name] * torch.stack([change[name] for change in changes]).to(last.dtype)
                for name, last in history[-1].items()
            }

        return forecast


class _Round(nn.Module):
    """One round of messages to the nodes, then to the edges."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(hidden, 2 * hidden)
        self.message = nn.Linear(2 * hidden, hidden)
        self.update = nn.Linear(2 * hidden, hidden)
        self.output = nn.Linear(hidden, hidden)
        self.edge, self.source, self.target = (nn.Linear(hidden, hidden) for _ in range(3))
        self.edge_output = nn.Linear(hidden, hidden)

    def forward(self, nodes: Tensor, edges: Tensor, sources: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Nodes [nodes, hidden] and edges [edges, hidden] → the same."""
        scale, shift = self.modulation(edges).chunk(2, -1)
        messages = scale * self.message(torch.cat([nodes[targets], nodes[sources]], -1)) + shift
        received = torch.zeros_like(nodes).index_add(0, targets, messages)
        degree = torch.bincount(targets, minlength=len(nodes)).clamp_min(1)
        nodes = F.silu(self.output(self.update(torch.cat([nodes, received / degree[:, None]], -1))))
        hidden = self.edge(edges) + self.source(nodes)[sources] + self.target(nodes)[targets]
        return nodes, self.edge_output(F.silu(hidden))


def _perceptron(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(inputs, outputs), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


def _initialise(module: nn.Module) -> None:
    """The published initialisation, under which an untrained network hardly moves anything."""
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Embedding)):
            nn.init.normal_(part.weight, std=0.02)
        if isinstance(part, nn.Linear):
            nn.init.zeros_(part.bias)
