"""Gated graph neural network: states travel along the operations and back, the encoder of GHN-1 and GHN-2."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hypergen.generators.ghn.features import PATH_CUTOFF, GraphBatch


class GatedGNN(nn.Module):
    """One forward and one backward sweep over the nodes, with messages along one-hop and virtual edges.

    ``m_v = Σ MLP(h_u) [one hop] + Σ MLP_virtual(h_u) / s_uv [s_uv > 1]``, ``h_v = GRU(m_v, h_v)`` with s_uv the length
    of the shortest path (Knyazev et al., "Parameter Prediction for Unseen Deep Architectures", 2021,
    arXiv:2110.13100). Nodes of the same depth do not reach each other, so a sweep takes one step per depth and not
    one per node.

    Shapes:
        nodes: ``[num_graphs, max_nodes, hidden]`` → the same.
    """

    def __init__(self, hidden: int = 32) -> None:
        super().__init__()
        self.near = _message(hidden)
        self.far = _message(hidden)
        self.gru = nn.GRUCell(hidden, hidden)
        self.norm = nn.LayerNorm(hidden)

    def forward(self, nodes: Tensor, batch: GraphBatch) -> Tensor:
        """Encode the nodes of a batch of graphs."""
        for distances in (batch.distances, batch.distances.transpose(1, 2)):
            nodes = self._sweep(nodes, distances, batch.mask)
        return self.norm(nodes)

    def _sweep(self, nodes: Tensor, distances: Tensor, mask: Tensor) -> Tensor:
        near = (distances == 1).float()
        far = torch.where((distances > 1) & (distances < PATH_CUTOFF), 1 / distances.clamp(min=1).float(), 0.0)
        depth = _depths(distances, mask)
        for level in range(int(depth.max()) + 1):
            graph, node = torch.nonzero(depth == level, as_tuple=True)
            sources_near, sources_far = near[graph, :, node], far[graph, :, node]
            messages = torch.einsum("ns,nsd->nd", sources_near, self.near(nodes)[graph])
            messages = messages + torch.einsum("ns,nsd->nd", sources_far, self.far(nodes)[graph])
            nodes = nodes.index_put((graph, node), self.gru(messages, nodes[graph, node]))
        return nodes


def _depths(distances: Tensor, mask: Tensor) -> Tensor:
    """Length of the longest path to each node: ``[num_graphs, max_nodes]``; -1 on padding.

    The longest path to a node is one longer than the longest to any of its ancestors.
    """
    near = distances == 1
    depth = torch.zeros_like(mask, dtype=torch.int64)
    while True:
        reached = torch.where(near, depth[:, :, None] + 1, 0).amax(1)
        if torch.equal(reached, depth):
            return depth.masked_fill(~mask, -1)
        depth = reached


def _message(hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(hidden, hidden // 2), nn.ReLU(), nn.Linear(hidden // 2, hidden), nn.ReLU())
