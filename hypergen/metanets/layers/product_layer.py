"""Message passing without edge states: messages are products of weights and nodes, summed as matrix products."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hypergen.metanets.layers.incidences import (
    NUM_RECEIVING_ROLES,
    NUM_ROLES,
    SEGMENT_FEATURES,
    Incidences,
    along,
    gathered,
    others,
    padded,
    updated,
    view_of,
)
from hypergen.symmetry.parameter_graph import Block, BlockAxis

_LETTERS = "acdefgijklmnopqrstuvwxyz"


class ProductLayer(nn.Module):
    r"""Sends every node the sum of its weights times what lies at their other ends.

    .. math:: m_k = \frac{g_b}{\sqrt{n}} \odot \sum_{others} w \prod_{j \ne k} V_j x_j, \qquad
              x' = x + \mathrm{MLP}[x, \mathrm{mean}_{blocks}\, m]

    with a gate :math:`g_b` per block and :math:`n` summands. Nothing is kept per weight: a layer reads every weight
    once per direction and writes nodes, :math:`O(P)` read and :math:`O(N \cdot hidden)` memory, which is what lets a
    metanetwork read networks of a hundred million weights.

    Args:
        hidden: Channels of nodes.
        features: Features per weight; each has its own products.
        explicit: Make a message per weight and sum them: the same result, for tests and comparison.

    Shapes:
        - nodes: ``[batch, num_nodes, hidden]``
        - data: per block ``[batch, *shape, features]``
        - sizes: per block ``[batch, features]``, the root mean square; weights are read in units of it
        - blocks: ``[batch, num_blocks, hidden]``
    """

    def __init__(self, hidden: int, features: int = 1, explicit: bool = False) -> None:
        super().__init__()
        self.hidden, self.features, self.explicit = hidden, features, explicit
        self.read = nn.ModuleList(nn.Linear(hidden, hidden * features) for _ in range(NUM_ROLES))
        self.segments = nn.Linear(SEGMENT_FEATURES, hidden * features, bias=False)
        self.gate = nn.Linear(hidden, hidden * features)
        width = hidden * (1 + NUM_RECEIVING_ROLES)
        self.node = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * hidden), nn.ReLU(), nn.Linear(2 * hidden, hidden)
        )

    def forward(
        self, incidences: Incidences, nodes: Tensor, data: Sequence[Tensor], sizes: Sequence[Tensor], blocks: Tensor
    ) -> Tensor:
        """One round of messages; returns the new nodes."""
        table = padded(nodes)
        gates = self.gate(blocks)
        messages: list[list[Tensor]] = [[] for _ in range(NUM_RECEIVING_ROLES)]
        for number, (block, axes, values) in enumerate(
            zip(incidences.graph_blocks, incidences.axes, data, strict=True)
        ):
            operands = [(axis, self._operand(table, incidences, block, axis, role)) for axis, role in axes]
            sent: dict[int, Tensor] = {}
            # What varies with others comes first: their messages are made of its own.
            for axis, _ in sorted(axes, key=lambda pair: -len(pair[0].dims)):
                if axis.receives:
                    sent[axis.dim] = self._message(block, axis, values, operands, sent)
            for axis, role in axes:
                if axis.receives:
                    # Scaling sums of weights instead of weights saves a copy of the network.
                    unit = (
                        gates[:, number].unflatten(-1, (self.features, self.hidden))
                        / (sizes[number] + 1e-12)[..., None]
                    )
                    own = (sent[axis.dim].unflatten(-1, (self.features, self.hidden)) * unit[:, None]).sum(-2)
                    messages[role] += [own] * len(axis.ranges)
        received = gathered(messages, incidences, nodes, self.hidden)
        return updated(nodes, self.node, received, incidences)

    def _operand(self, table: Tensor, incidences: Incidences, block: Block, axis: BlockAxis, role: int) -> Tensor:
        operand = self.read[role](along(table, block, axis))
        segments = incidences.segments(axis)
        if segments is None:
            return operand
        return operand + self.segments(segments.to(operand)).reshape(1, *view_of(block, (axis.dim,)), -1)

    def _message(
        self,
        block: Block,
        axis: BlockAxis,
        values: Tensor,
        operands: Sequence[tuple[BlockAxis, Tensor]],
        sent: dict[int, Tensor],
    ) -> Tensor:
        """``[batch, places, features · hidden]``."""
        inner = next(
            (other for other, _ in operands if other.dim in sent and set(axis.dims) < set(other.dims)),
            None,
        )
        if inner is not None:
            by_place = sent[inner.dim].unflatten(1, inner.sizes)
            return by_place.mean([1 + i for i, dim in enumerate(inner.dims) if dim not in axis.dims]).flatten(1, -2)
        rest = [(other.dims, operand) for other, operand in operands if other is not axis]
        count = math.prod(block.shape[dim] for dim in others(block, axis))
        function = _explicit if self.explicit else contract
        parts = []
        for feature in range(self.features):
            columns = slice(feature * self.hidden, (feature + 1) * self.hidden)
            own = [(dims, operand[..., columns]) for dims, operand in rest]
            message = function(values[..., feature], own, axis.dims, self.hidden)
            parts.append(message.flatten(1, -2) / count**0.5)
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def contract(
    weights: Tensor, operands: Sequence[tuple[tuple[int, ...], Tensor]], keep: tuple[int, ...], channels: int
) -> Tensor:
    """Sum weights times operands over all axes but some, by matrix products.

    Args:
        weights: ``[batch, *shape]``.
        operands: Axes on which each depends, and its values ``[batch, *view, channels]``, of size 1 in all other axes.
        keep: The axes that stay, in order.
        channels: Number of channels of the operands.

    Returns:
        ``[batch, *kept sizes, channels]``.
    """
    shape = weights.shape[1:]
    covered = {dim for dims, _ in operands for dim in dims}
    bare = [dim for dim in range(len(shape)) if dim not in covered and dim not in keep]
    if bare:
        weights = weights.sum([dim + 1 for dim in bare], keepdim=True)
    if not operands:
        kept = weights.reshape(len(weights), *(shape[dim] for dim in keep))
        return kept[..., None].expand(*kept.shape, channels)
    first = _first(weights, operands, keep, channels)
    done = operands[first] if first is not None else _joint(operands)
    left = [operand for number, operand in enumerate(operands) if number != first] if first is not None else []
    dims = tuple(dim for dim in range(len(shape)) if dim in done[0])
    contracted = {dim for dim in dims if dim not in keep and all(dim not in other for other, _ in left)}
    stays = [dim for dim in range(len(shape)) if dim not in contracted]
    result = torch.einsum(
        f"b{_letters(range(len(shape)))},b{_letters(dims)}h->b{_letters(stays)}h",
        weights,
        done[1]
        .reshape(done[1].shape[0], *(done[1].shape[1 + dim] for dim in dims), channels)
        .expand(len(weights), *(shape[dim] if dim not in bare else 1 for dim in dims), channels),
    )
    if left:
        _, joint = _joint(left)
        result = result * joint.reshape(joint.shape[0], *(joint.shape[1 + dim] for dim in stays), channels)
    over = [1 + i for i, dim in enumerate(stays) if dim not in keep]
    return result.sum(over) if over else result


def _letters(dims: Sequence[int] | range) -> str:
    return "".join(_LETTERS[dim] for dim in dims)


def _joint(operands: Sequence[tuple[tuple[int, ...], Tensor]]) -> tuple[tuple[int, ...], Tensor]:
    total = operands[0][1]
    for _, operand in operands[1:]:
        total = total * operand
    return tuple(sorted({dim for dims, _ in operands for dim in dims})), total


def _first(
    weights: Tensor, operands: Sequence[tuple[tuple[int, ...], Tensor]], keep: tuple[int, ...], channels: int
) -> int | None:
    """The operand to sum over before the others, where that is cheaper than with all of them at once."""
    shape = weights.shape[1:]
    if keep == tuple(range(len(keep))):
        return None  # weights need not be moved
    alone = [
        number
        for number, (dims, _) in enumerate(operands)
        if not set(dims) & set(keep) and all(not set(dims) & set(other) for other, _ in operands if other is not dims)
    ]
    if not alone:
        return None
    size = {number: math.prod(shape[dim] for dim in operands[number][0]) for number in alone}
    best = max(alone, key=lambda number: size[number])
    jointly = math.prod(shape[dim] for dim in {dim for dims, _ in operands for dim in dims})
    return best if math.prod(shape) // size[best] <= jointly else None


def _explicit(
    weights: Tensor, operands: Sequence[tuple[tuple[int, ...], Tensor]], keep: tuple[int, ...], channels: int
) -> Tensor:
    """The same with a message per weight."""
    message = weights[..., None].expand(*weights.shape, channels)
    for _, operand in operands:
        message = message * operand
    over = [1 + dim for dim in range(weights.dim() - 1) if dim not in keep]
    return message.sum(over) if over else message
