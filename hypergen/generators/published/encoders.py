"""How the published graph hypernetworks encode a graph: shapes, then a Graphormer or a gated graph network.

The modules have the names of the released files' tensors.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MAX_DEGREE, MAX_DISTANCE = 100, 1000
_EDGES = 257  # rows of the table of path lengths


def channel_sizes(num_classes: int, language: bool) -> list[int]:
    """The channel counts that have an embedding of their own."""
    sizes = {1, 3, num_classes, *range(8, 64, 8), *range(64, 4096, 16), *range(4096, 8193, 32)}
    return sorted(sizes | ({32000, 50257, 128256} if language else set()))


class ShapeEncoder(nn.Module):
    """Embeds the four axes of a parameter's shape: out, in, height, width; unseen sizes go to the nearest.

    Shapes:
        shapes of n nodes → ``[n, hidden]``.
    """

    def __init__(self, hidden: int, num_classes: int, grid: int, language: bool) -> None:
        super().__init__()
        self.channels = channel_sizes(num_classes, language)
        self.sides = sorted({*range(1, max(12, grid), 2), 14, 16})
        self.embed_spatial = nn.Embedding(len(self.sides) + 1, hidden // 4)
        self.embed_channel = nn.Embedding(len(self.channels) + 1, hidden // 4)

    def forward(self, shapes: Sequence[tuple[int, ...] | None]) -> Tensor:
        """Embed the shape of every node; the last rows of the tables stand for none."""
        none = (len(self.channels), len(self.channels), len(self.sides), len(self.sides))
        rows = [none if shape is None else self._row(four_axes(shape)) for shape in shapes]
        index = torch.tensor(rows, device=self.embed_channel.weight.device)
        parts = [self.embed_channel(index[:, :2]).flatten(1), self.embed_spatial(index[:, 2:]).flatten(1)]
        return torch.cat(parts, 1)

    def _row(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        # 4 to 7 channels count as 8, sides of 2 as 3, as in the published code.
        channels = [_nearest(8 if 4 <= size < 8 else size, self.channels) for size in shape[:2]]
        return (*channels, *(_nearest(3 if size == 2 else size, self.sides) for size in shape[2:]))


def four_axes(shape: Sequence[int]) -> tuple[int, int, int, int]:
    """A shape as out, in, height, width; a position table ``[1, positions, width]`` as an image of its positions."""
    shape = tuple(shape)
    if len(shape) == 3 and shape[0] == 1 and min(shape[1:]) > 1:
        side = math.isqrt(shape[1])
        return 1, shape[2], side, side
    if len(shape) > 4:
        shape = (*shape[:2], math.prod(shape[2:-1]), shape[-1])
    out, *rest = (*shape, *(1,) * (4 - len(shape)))
    return out, rest[0], rest[1], rest[2]


def _nearest(size: int, known: Sequence[int]) -> int:
    above = min(bisect_left(known, size), len(known) - 1)
    below = max(above - 1, 0)
    return below if abs(known[below] - size) <= abs(known[above] - size) else above  # the smaller one on ties


class GatedGNN(nn.Module):
    """One forward and one backward sweep over the nodes with one gated cell (GHN-1, arXiv:1810.05749; GHN-2).

    ``m_v = Σ MLP(h_u) + Σ MLP_ve(h_u) / s_uv`` over direct and virtual edges, ``h_v ← GRU(m_v, h_v)``.

    Shapes:
        nodes: ``[n, hidden]`` → the same; distances: ``[n, n]``.
    """

    def __init__(self, hidden: int, virtual_edges: bool) -> None:
        super().__init__()
        self.mlp = Perceptron(hidden, (hidden // 2 if virtual_edges else hidden, hidden), last=True)
        if virtual_edges:
            self.mlp_ve = Perceptron(hidden, (hidden // 2, hidden), last=True)
        self.gru = nn.GRUCell(hidden, hidden)

    def forward(self, nodes: Tensor, distances: Tensor) -> Tensor:
        """Update the nodes in topological order and back."""
        direct = (distances == 1).to(nodes.dtype)
        shares = torch.where(
            distances > 0, 1 / distances.clamp(min=1).to(nodes.dtype), torch.zeros((), device=nodes.device)
        )
        states = list(nodes.unbind())
        for into, near, far in ((1, direct.t(), shares.t()), (0, direct, shares)):
            order = range(len(states)) if into else range(len(states) - 1, -1, -1)
            said: dict[int, tuple[Tensor, Tensor]] = {}
            for node in order:
                message = torch.zeros_like(states[0])
                senders = near[node].nonzero().flatten().tolist()
                if senders:
                    message = message + torch.stack([said[s][0] for s in senders]).sum(0)
                if hasattr(self, "mlp_ve") and (senders := far[node].nonzero().flatten().tolist()):
                    message = message + far[node][senders] @ torch.stack([said[s][1] for s in senders])
                states[node] = self.gru(message, states[node])
                said[node] = (self.mlp(states[node]), self.mlp_ve(states[node]) if hasattr(self, "mlp_ve") else message)
        return torch.stack(states)


class Perceptron(nn.Module):
    """Linear layers with ReLU between them, and after the last if ``last``."""

    def __init__(self, inputs: int, widths: Sequence[int], last: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, width in enumerate(widths):
            layers += [nn.Linear(inputs, width), nn.ReLU() if last or i < len(widths) - 1 else nn.Identity()]
            inputs = width
        self.fc = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layers."""
        return self.fc(x)


class GraphormerLayer(nn.Module):
    """A pre-norm transformer layer over nodes; the first one of a stack turns path lengths into biases for all.

    Shapes:
        nodes: ``[n, hidden]``; bias: ``[heads, n, n]``.
    """

    def __init__(self, hidden: int, heads: int, first: bool) -> None:
        super().__init__()
        self.heads = heads
        self.ln1, self.ln2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.attn: Any = nn.Module()
        self.attn.to_qkv = nn.Linear(hidden, 3 * hidden, bias=False)
        self.attn.to_out = nn.Sequential(nn.Linear(hidden, hidden))
        self.ff: Any = nn.Module()
        self.ff.net = nn.Sequential(
            nn.Linear(hidden, 4 * hidden), nn.GELU(), nn.Identity(), nn.Linear(4 * hidden, hidden)
        )
        if first:
            self.attn.edge_embed = nn.Module()
            self.attn.edge_embed.embed = nn.Embedding(_EDGES, hidden)
            self.attn.edge_embed.embed.weight.data = _sinusoids(hidden)
            self.attn.proj_e = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.ReLU(), nn.Linear(hidden, heads))

    def bias(self, distances: Tensor) -> Tensor:
        """Attention biases of all pairs: ``[n, n]`` → ``[heads, n, n]``.

        A pair's two lengths, there and back, have few values: the network runs on the distinct pairs only.
        """
        pairs = distances * _EDGES + distances.t()
        distinct, places = pairs.unique(return_inverse=True)
        rows = torch.stack((distinct // _EDGES, distinct % _EDGES), -1) + 2
        values = self.attn.proj_e(self.attn.edge_embed.embed(rows.clamp(max=_EDGES - 1)).flatten(1))
        return values[places].permute(2, 0, 1)

    def forward(self, nodes: Tensor, bias: Tensor) -> Tensor:
        """Attend and transform."""
        count, hidden = nodes.shape
        q, k, v = self.attn.to_qkv(self.ln1(nodes)).view(count, 3, self.heads, hidden // self.heads).permute(1, 2, 0, 3)
        mixed = F.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=bias[None])[0]
        nodes = nodes + self.attn.to_out(mixed.transpose(0, 1).reshape(count, hidden))
        return nodes + self.ff.net(self.ln2(nodes))


def _sinusoids(hidden: int) -> Tensor:
    angle = torch.arange(_EDGES)[:, None] * torch.exp(torch.arange(0, hidden, 2) * (-math.log(10000.0) / hidden))
    table = torch.stack((angle.sin(), angle.cos()), -1).flatten(1)
    table[0] = 0
    return table
