"""Graphormer: a transformer over the nodes with shortest paths as attention bias, the encoder of GHN-3."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hypergen.generators.ghn.features import PATH_CUTOFF, GraphBatch


class Graphormer(nn.Module):
    """Pre-norm transformer over nodes; attention is biased by the shortest paths in both directions.

    Attention of node i to node j gets ``bias(d(i, j), d(j, i))`` per head, computed once and used by all layers:
    ``softmax(QKᵀ/√d + B) V`` (Ying et al., "Do Transformers Really Perform Bad for Graph Representation?", 2021,
    arXiv:2106.05234; as the encoder of GHN-3: Knyazev et al., "Can We Scale Transformers to Predict Parameters of
    Diverse ImageNet Models?", 2023, arXiv:2303.04143).

    Shapes:
        nodes: ``[num_graphs, max_nodes, hidden]`` → the same.
    """

    def __init__(self, hidden: int = 64, layers: int = 3, heads: int = 8) -> None:
        super().__init__()
        if hidden % heads:
            raise ValueError(f"heads={heads} doesn't divide hidden={hidden}")
        # On an acyclic graph only one of d(i, j), d(j, i) exists: one table holds all pairs, and the network that
        # turns distances into biases runs on its rows and not on every pair of nodes.
        self.distance = nn.Embedding(2 * PATH_CUTOFF + 2, hidden)
        self.bias = nn.Sequential(nn.ReLU(), nn.Linear(hidden, heads))
        self.blocks = nn.ModuleList(_Block(hidden, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)

    def forward(self, nodes: Tensor, batch: GraphBatch) -> Tensor:
        """Encode the nodes of a batch of graphs."""
        forward, backward = batch.distances, batch.distances.transpose(1, 2)
        pairs = torch.where(
            forward >= 0, forward, torch.where(backward > 0, PATH_CUTOFF + backward, 2 * PATH_CUTOFF + 1)
        )
        bias = F.embedding(pairs, self.bias(self.distance.weight)).permute(0, 3, 1, 2)
        bias = bias.masked_fill(~batch.mask[:, None, None, :], float("-inf"))
        for block in self.blocks:
            nodes = block(nodes, bias)
        return self.norm(nodes)


class _Block(nn.Module):
    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.qkv = nn.Linear(hidden, 3 * hidden, bias=False)
        self.out = nn.Linear(hidden, hidden)
        self.mlp = nn.Sequential(nn.Linear(hidden, 4 * hidden), nn.GELU(), nn.Linear(4 * hidden, hidden))

    def forward(self, nodes: Tensor, bias: Tensor) -> Tensor:
        b, n, d = nodes.shape
        q, k, v = self.qkv(self.norm1(nodes)).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        nodes = nodes + self.out(attended.transpose(1, 2).reshape(b, n, d))
        return nodes + self.mlp(self.norm2(nodes))
