"""First features of nodes, edges and blocks of a parameter graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hypergen.graph.vocabulary import OPERATIONS
from hypergen.metanets.layers.incidences import (
    BLOCK_FEATURES,
    NODE_FEATURES,
    PARAMETER_ROLES,
    SEGMENT_FEATURES,
    Incidences,
)

_STATISTICS = 5
_TINY = 1e-12


class Embedding(nn.Module):
    """Embeds what is known before any message: kinds and places of nodes, weights, and what blocks are.

    Weights are given as they are and in units of their tensor's root mean square, which is given, too.

    Args:
        features: Per weight: 1 for weights alone, more with gradients or older weights.
        hidden: Channels.
        statistics: Whether blocks are told the moments of their weights.
        edges: Whether edges are embedded.
    """

    def __init__(self, features: int, hidden: int, statistics: bool = True, edges: bool = True) -> None:
        super().__init__()
        self.statistics = statistics
        self.nodes = nn.Linear(NODE_FEATURES, hidden)
        self.operation = nn.Embedding(len(OPERATIONS) + 1, hidden)
        self.parameter_role = nn.Embedding(len(PARAMETER_ROLES) + 1, hidden)
        self.block = nn.Linear(BLOCK_FEATURES, hidden)
        self.scale = nn.Linear(features * (_STATISTICS if statistics else 1), hidden)
        if edges:
            self.edges = nn.Linear(2 * features, hidden)
            self.segments = nn.Linear(SEGMENT_FEATURES, hidden, bias=False)

    def of_nodes(self, incidences: Incidences, like: Tensor) -> Tensor:
        """``[num_nodes, hidden]``."""
        return self.nodes(incidences.node_features.to(like))

    def of_blocks(self, incidences: Incidences, data: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """What blocks are, ``[batch, num_blocks, hidden]``; for each the size of its weights, ``[batch, features]``."""
        statistics, sizes = zip(*(self._statistics(values) for values in data), strict=True)
        device = data[0].device
        fixed = (
            self.operation(incidences.operations.to(device))
            + self.parameter_role(incidences.parameter_roles.to(device))
            + self.block(incidences.block_features.to(data[0]))
        )
        return fixed + self.scale(torch.stack(statistics, 1)), list(sizes)

    def of_edges(self, values: Tensor, size: Tensor, block: Tensor) -> Tensor:
        """Edges of one block.

        Args:
            values: ``[batch, *shape, features]``.
            size: ``[batch, features]``.
            block: ``[batch, hidden]``.

        Returns:
            ``[batch, *shape, hidden]``.
        """
        return self.edges(torch.cat([values, scaled(values, size)], -1)) + spread(block, values)

    def _statistics(self, values: Tensor) -> tuple[Tensor, Tensor]:
        flat = values.flatten(1, -2)
        size = flat.square().mean(1).sqrt()
        logarithm = (size + 1e-8).log() / 4
        if not self.statistics:
            return logarithm, size
        unit = flat / (size[:, None] + _TINY)
        square = unit.square()
        moments = [
            unit.mean(1),
            unit.abs().mean(1),
            (square * unit).mean(1) / 4,
            (square.square().mean(1) + 1e-8).log(),
        ]
        return torch.cat([logarithm, *moments], -1), size


def scaled(values: Tensor, size: Tensor) -> Tensor:
    """Weights ``[batch, *shape, features]`` in units of their root mean square ``[batch, features]``."""
    return values / (spread(size, values) + _TINY)


def spread(vector: Tensor, like: Tensor) -> Tensor:
    """``[batch, channels]`` → ``[batch, 1, …, channels]`` with as many axes as ``like``."""
    return vector.reshape(len(vector), *[1] * (like.dim() - 2), vector.shape[-1])
