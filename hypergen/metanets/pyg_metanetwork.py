"""Models of torch_geometric as metanetworks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hypergen.symmetry.parameter_graph import ParameterGraph

_KINDS, _WAVES = 3, 8


class PyGMetanetwork(nn.Module):
    """Reads the parameters of networks with any model of torch_geometric; invariant to their symmetry.

    A neuron begins with a sum over its weights, ``x_i = W_kind[i] + mean_j MLP(w_ij, place)``; those that stay as they
    are (inputs, outputs) are told apart by waves of their position. The model runs over neurons along and against the
    weights, and the mean over its states is read out.

    Args:
        model: Model, called as ``model(x, edge_index, batch=…)`` with ``x`` ``[num_nodes, hidden]``, and with
            ``edge_attr=`` ``[num_edges, hidden]`` where ``edges`` is set; returns ``[num_nodes, hidden]``.
        hidden: Channels of the model.
        outputs: Numbers that are read out.
        features: Numbers per weight.
        edges: Whether the model takes ``edge_attr``.

    Shapes:
        a network's parameters → ``[outputs]``.
    """

    def __init__(
        self, model: nn.Module, hidden: int = 32, outputs: int = 1, features: int = 1, edges: bool = False
    ) -> None:
        super().__init__()
        self.model: Any = model
        self.edges = edges
        self.kinds = nn.Embedding(_KINDS, hidden)
        self.position = nn.Linear(2 * _WAVES, hidden)
        self.weights = nn.Sequential(nn.Linear(features + 2 * _WAVES, hidden), nn.GELU(), nn.Linear(hidden, hidden))
        self.read = nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, outputs))

    def forward(self, graph: ParameterGraph, tensors: Mapping[str, Tensor]) -> Tensor:
        """Read one network.

        Args:
            graph: Parameter graph of its architecture.
            tensors: Its parameters by name.

        Returns:
            ``[outputs]``.
        """
        from torch_geometric.utils import scatter

        data = graph.to_pyg(tensors).to(self.kinds.weight.device)
        weights = self.weights(torch.cat((data.edge_attr, _waves(data.edge_place, data.edge_attr)), 1))
        incoming, outgoing = (scatter(weights, ends, 0, data.num_nodes, "mean") for ends in data.edge_index.flip(0))
        fixed = (data.x[:, 1:2] >= 0).to(weights)
        nodes = self.kinds(data.x[:, 2]) + fixed * self.position(_waves(data.x[:, 1], weights)) + incoming + outgoing
        both = torch.cat((data.edge_index, data.edge_index.flip(0)), 1)
        options = {"edge_attr": torch.cat((weights, weights))} if self.edges else {}
        states = self.model(nodes, both, batch=torch.zeros_like(data.x[:, 0]), **options)
        return self.read(states.mean(0))


def _waves(numbers: Tensor, like: Tensor) -> Tensor:
    """Sines and cosines of whole numbers, ``[n, 16]``."""
    angles = numbers.to(like)[:, None] * torch.logspace(0, -3, _WAVES, device=like.device, dtype=like.dtype)
    return torch.cat((angles.sin(), angles.cos()), 1)
