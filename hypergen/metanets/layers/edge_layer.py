"""Message passing that updates edges, in dense blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from hypergen.metanets.layers.incidences import (
    NUM_RECEIVING_ROLES,
    NUM_ROLES,
    Incidences,
    along,
    gathered,
    others,
    padded,
    updated,
)
from hypergen.symmetry.parameter_graph import Block, BlockAxis

EdgeMessage = Literal["edge", "film", "attention"]
AGGREGATORS = ("mean", "min", "max", "std")


class EdgeLayer(nn.Module):
    r"""Updates every edge from its nodes, then every node from its edges.

    With nodes :math:`x`, edges :math:`e`, and the axes :math:`k` of a block, by their roles:

    .. math:: e' = e + \mathrm{ReLU}(L_e e + \sum_k L_k x_k), \qquad
              x' = x + \mathrm{MLP}[x, \mathrm{mean}_{blocks}\,\mathrm{agg}_{others}\, m]

    ``"edge"`` messages are the edges, :math:`m = e'`, as in graph metanetworks (Lim et al., "Graph Metanetworks for
    Processing Diverse Neural Architectures", 2023, arXiv:2312.04501). ``"film"`` messages are
    :math:`m = \mathrm{scale}(e') \odot \sum_k V_k x_k + \mathrm{shift}(e')`, as in NG-GNN (Kofinas et al., "Graph
    Neural Networks for Learning Equivariant Representations of Neural Networks", 2024, arXiv:2403.12143), with several
    aggregators as in PNA (Corso et al., 2020, arXiv:2004.05718). ``"attention"`` weighs edges by a softmax over those
    that a node has in a block.

    All nodes of a block see the same sums, so that the layer is equivariant to the symmetry of the graph.

    Args:
        hidden: Channels of nodes and edges.
        message: ``"edge"``, ``"film"`` or ``"attention"``.
        aggregators: Aggregators of messages: some of ``"mean"``, ``"min"``, ``"max"``, ``"std"``; attention has its
            own.
        heads: Number of attention heads.

    Shapes:
        - nodes: ``[batch, num_nodes, hidden]``
        - edges: per block ``[batch, *shape, hidden]``
    """

    def __init__(
        self, hidden: int, message: EdgeMessage = "edge", aggregators: Sequence[str] = ("mean",), heads: int = 4
    ) -> None:
        super().__init__()
        unknown = [name for name in aggregators if name not in AGGREGATORS]
        if unknown or not aggregators:
            raise ValueError(f"aggregators must be some of {AGGREGATORS}; got {tuple(aggregators)}")
        if message not in ("edge", "film", "attention"):
            raise ValueError(f"message must be 'edge', 'film' or 'attention'; got {message!r}")
        if hidden % heads:
            raise ValueError(f"hidden must be a multiple of heads; got {hidden} and {heads}")
        self.hidden, self.message, self.heads = hidden, message, heads
        self.aggregators = tuple(aggregators) if message != "attention" else ("mean",)
        self.means_alone = message == "edge" and self.aggregators == ("mean",)
        self.read = nn.Linear(hidden, NUM_ROLES * hidden)
        self.edge = nn.Linear(hidden, hidden)
        if message == "film":
            self.scale_shift = nn.Linear(hidden, 2 * hidden)
            self.value = nn.Linear(hidden, NUM_ROLES * hidden, bias=False)
        if message == "attention":
            self.query = nn.Linear(hidden, NUM_RECEIVING_ROLES * hidden)
            self.key = nn.Linear(hidden, hidden)
        self.node = nn.Sequential(
            nn.LayerNorm(hidden * (1 + NUM_RECEIVING_ROLES * len(self.aggregators))),
            nn.Linear(hidden * (1 + NUM_RECEIVING_ROLES * len(self.aggregators)), 2 * hidden),
            nn.ReLU(),
            nn.Linear(2 * hidden, hidden),
        )

    def forward(self, incidences: Incidences, nodes: Tensor, edges: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """One round of messages."""
        tables = padded(self.read(nodes)).chunk(NUM_ROLES, -1)
        values = padded(self.value(nodes)).chunk(NUM_ROLES, -1) if self.message == "film" else ()
        queries = padded(self.query(nodes)).chunk(NUM_RECEIVING_ROLES, -1) if self.message == "attention" else ()
        result: list[Tensor] = []
        messages: list[list[Tensor]] = [[] for _ in range(NUM_RECEIVING_ROLES)]
        for block, axes, edge in zip(incidences.graph_blocks, incidences.axes, edges, strict=True):
            operands = [along(tables[role], block, axis) for axis, role in axes]
            at = [tuple(1 + dim for dim in others(block, axis)) for axis in block.receivers] if self.means_alone else []
            new, *means = UpdatedEdges.apply(edge, self.edge.weight, self.edge.bias, at, *operands)
            result.append(new)
            if self.means_alone:
                for (axis, role), mean in zip([pair for pair in axes if pair[0].receives], means, strict=True):
                    messages[role] += [mean.flatten(1, -2)] * len(axis.ranges)
                continue
            message = self._message(new, [along(values[role], block, axis) for axis, role in axes] if values else [])
            for axis, role in axes:
                if not axis.receives:
                    continue
                if queries:
                    own = self._attended(new, along(queries[role], block, axis), block, axis)
                else:
                    own = aggregate(message, others(block, axis), self.aggregators)
                messages[role] += [own.flatten(1, -2)] * len(axis.ranges)
        received = gathered(messages, incidences, nodes, self.hidden * len(self.aggregators))
        return updated(nodes, self.node, received, incidences), result

    def _message(self, edge: Tensor, values: Sequence[Tensor]) -> Tensor:
        if not values:
            return edge
        scale, shift = self.scale_shift(edge).chunk(2, -1)
        total = values[0]
        for value in values[1:]:
            total = total + value
        return scale * total + shift

    def _attended(self, edge: Tensor, query: Tensor, block: Block, axis: BlockAxis) -> Tensor:
        dims = others(block, axis)
        if not dims:
            return edge
        by_head = (*edge.shape[:-1], self.heads, self.hidden // self.heads)
        scores = (self.key(edge) * query).view(by_head).sum(-1) / (self.hidden // self.heads) ** 0.5
        at = tuple(dim + 1 for dim in dims)
        weights = (scores - scores.detach().amax(at, keepdim=True)).exp()
        weights = weights / weights.sum(at, keepdim=True)
        return (edge.view(by_head) * weights[..., None]).sum(at).flatten(-2)


class UpdatedEdges(torch.autograd.Function):
    """``edge + ReLU(linear(edge) + sum of operands)`` and its means over axes.

    Edges are what is large here, and this goes over them as seldom as possible: autograd's own steps would read and
    write them about twice as often.
    """

    @staticmethod
    def forward(
        ctx: Any, edge: Tensor, weight: Tensor, bias: Tensor, over: Sequence[tuple[int, ...]], *operands: Tensor
    ) -> tuple[Tensor, ...]:
        """New edges, and their mean over each set of axes in ``over``."""
        ctx.set_materialize_grads(False)
        update = functional.linear(edge, weight, bias)
        for operand in operands:
            update += operand
        update.relu_()
        ctx.save_for_backward(edge, weight, update)
        ctx.over, ctx.shapes = over, [operand.shape for operand in operands]
        new = edge + update
        return new, *(new.mean(dims, keepdim=True) if dims else new.clone() for dims in over)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of edges, weight, bias and operands."""
        edge, weight, update = ctx.saved_tensors
        total = None
        for dims, gradient in zip(((), *ctx.over), gradients, strict=True):
            if gradient is not None:
                share = gradient / math.prod(edge.shape[dim] for dim in dims) if dims else gradient
                total = share.expand_as(edge) if total is None else total + share
        if total is None:
            return (None,) * (4 + len(ctx.shapes))
        masked = torch.ops.aten.threshold_backward(total.contiguous(), update, 0)
        flat = masked.reshape(-1, masked.shape[-1])
        by_edge = torch.addmm(total.reshape(flat.shape), flat, weight).view_as(edge)
        by_weight = flat.t() @ edge.reshape(flat.shape)
        return by_edge, by_weight, flat.sum(0), None, *(masked.sum_to_size(shape) for shape in ctx.shapes)


def aggregate(edges: Tensor, dims: Sequence[int], aggregators: Sequence[str]) -> Tensor:
    """Aggregate edges over axes.

    Args:
        edges: ``[batch, *shape, channels]``.
        dims: Axes of the shape.
        aggregators: What to compute over them.

    Returns:
        ``[batch, *kept, channels · aggregators]``.
    """
    at = tuple(dim + 1 for dim in dims)
    if not at:
        return torch.cat([torch.zeros_like(edges) if name == "std" else edges for name in aggregators], -1)
    return torch.cat([_AGGREGATE[name](edges, at) for name in aggregators], -1)


_AGGREGATE = {
    "mean": lambda edges, dims: edges.mean(dims),
    "min": lambda edges, dims: edges.amin(dims),
    "max": lambda edges, dims: edges.amax(dims),
    # The gradient of a root is infinite at 0.
    "std": lambda edges, dims: (edges.var(dims, correction=0) + 1e-5).sqrt(),
}
