"""Between nodes and dense blocks of edges: reading nodes along axes, and gathering messages at nodes."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from functools import cached_property
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from hypergen.errors import ParameterError
from hypergen.graph.vocabulary import OPERATIONS
from hypergen.symmetry.parameter_graph import INPUT, OUTPUT, Block, BlockAxis, ParameterGraph

# What an axis is to its block: the only one that is sent messages (biases, norms), the first, the second, a further
# one, or one that only says where a weight is.
OWN, FIRST, SECOND, FURTHER, PLACE = range(5)
NUM_ROLES = 5
NUM_RECEIVING_ROLES = 4

PARAMETER_ROLES = (
    "weight", "bias", "running_mean", "running_var", "in_proj_weight", "in_proj_bias", "out_proj_weight",
    "out_proj_bias", "weight_ih", "weight_hh", "bias_ih", "bias_hh",
)  # fmt: skip
_FREQUENCIES = 6
INDEX_FEATURES = 2 * _FREQUENCIES + 2
NODE_FEATURES = 6 + INDEX_FEATURES
BLOCK_FEATURES = 4 + 2 * _FREQUENCIES
_ROWS = 8192


class Incidences:
    """What every layer needs of a parameter graph, worked out once.

    Attributes:
        axes: For each block its axes with their roles.
        targets: For each role that is sent messages, the nodes to which the messages along all axes of that role go, in
            the order of blocks and axes, slot by slot.
        node_features: What is known of nodes besides weights, ``[num_nodes, NODE_FEATURES]``.
        block_features: What is known of blocks, ``[num_blocks, BLOCK_FEATURES]``.
        operations: The operation that reads each block, by its place in the vocabulary; one more for all others.
        parameter_roles: What each block is to its operation, by its place in a list; one more for all others.
    """

    def __init__(self, graph: ParameterGraph) -> None:
        self.graph_blocks = graph.blocks
        self.num_nodes = graph.num_nodes
        self.axes = tuple(_with_roles(block) for block in graph.blocks)
        targets: list[list[Tensor]] = [[] for _ in range(NUM_RECEIVING_ROLES)]
        for axes in self.axes:
            for axis, role in axes:
                if axis.receives:
                    targets[role] += axis.nodes.unbind(-1)
        self.targets = tuple(torch.cat(own) if own else torch.empty(0, dtype=torch.int64) for own in targets)
        self.node_features = _node_features(graph)
        last = max(len(graph.blocks) - 1, 1)
        self.block_features = torch.tensor(
            [
                [
                    len(block.receivers) / 2,
                    math.log(max(math.prod(block.shape), 1)) / 10,
                    math.log(max(math.prod(block.shape[1:]), 1)) / 10,
                    number / last,
                    *_waves(4 * block.depth),
                ]
                for number, block in enumerate(graph.blocks)
            ]
        )
        known = {op: number for number, op in enumerate(OPERATIONS)}
        self.operations = torch.tensor([known.get(block.op, len(OPERATIONS)) for block in graph.blocks])
        self.parameter_roles = torch.tensor(
            [
                PARAMETER_ROLES.index(block.role) if block.role in PARAMETER_ROLES else len(PARAMETER_ROLES)
                for block in graph.blocks
            ]
        )
        self.kinds = torch.zeros(graph.num_nodes, dtype=torch.int64)  # 0 hidden, 1 inputs, 2 outputs, 3 places
        for nodes in graph.node_sets:
            kind = 3 if nodes.is_place else {INPUT: 1, OUTPUT: 2}.get(nodes.group.fixed, 0)
            self.kinds[nodes.start : nodes.start + nodes.size] = kind

    @cached_property
    def counts(self) -> tuple[Tensor, ...]:
        """How many messages each node is sent, by role: ``[num_nodes, 1]``, at least 1."""
        return tuple(
            torch.bincount(own, minlength=self.num_nodes + 1)[: self.num_nodes, None].clamp(min=1)
            for own in self.targets
        )

    @cached_property
    def kind_masks(self) -> Tensor:
        """Which nodes are hidden, inputs and outputs, each normalised to sum to 1: ``[3, num_nodes]``."""
        masks = torch.stack([self.kinds == kind for kind in range(3)]).float()
        return masks / masks.sum(1, keepdim=True).clamp(min=1)

    def segments(self, axis: BlockAxis) -> Tensor | None:
        """Waves of the segment at every place of an axis, ``[size, 2 · frequencies]``."""
        return None if axis.segments is None else _index_waves(axis.segments.float())


SEGMENT_FEATURES = 2 * _FREQUENCIES
_KNOWN: WeakKeyDictionary[ParameterGraph, Incidences] = WeakKeyDictionary()


def incidences_of(graph: ParameterGraph) -> Incidences:
    """The incidences of a graph, from memory where they were asked for before."""
    if graph not in _KNOWN:
        _KNOWN[graph] = Incidences(graph)
    return _KNOWN[graph]


def others(block: Block, axis: BlockAxis) -> tuple[int, ...]:
    """The axes of a block that messages to the nodes of one are summed over."""
    return tuple(dim for dim in range(len(block.shape)) if dim not in axis.dims)


def view_of(block: Block, dims: Collection[int]) -> list[int]:
    """The shape of a block with size 1 in all axes but some."""
    return [size if dim in dims else 1 for dim, size in enumerate(block.shape)]


def ends_of(nodes: Tensor, incidences: Incidences, count: int) -> Tensor:
    """The nodes of inputs and outputs in a row, ``[batch, count · channels]``.

    Raises:
        ParameterError: There are more or fewer.
    """
    ends = nodes[:, (incidences.kinds == 1) | (incidences.kinds == 2)]
    if ends.shape[1] != count:
        raise ParameterError(f"This metanetwork reads {count} inputs and outputs; got {ends.shape[1]}.")
    return ends.flatten(1)


def along(table: Tensor, block: Block, axis: BlockAxis) -> Tensor:
    """Read nodes along an axis.

    Args:
        table: ``[batch, num_nodes + 1, channels]``; the last row, which stands for none, is zero.
        block: The block.
        axis: Its axis.

    Returns:
        ``[batch, *view, channels]`` with the axis's sizes at its dims and else 1, summed over the groups there.
    """
    total: Tensor | None = None
    for slot, start in enumerate(axis.ranges):
        if start is None:
            own = table.index_select(1, axis.nodes[:, slot].to(table.device))
        else:
            own = table[:, start : start + len(axis.nodes)]
        total = own if total is None else total + own
    view = view_of(block, axis.dims)
    if total is None:
        return table.new_zeros(1, *[1] * len(view), table.shape[-1])
    return total.reshape(len(table), *view, table.shape[-1])


def gathered(messages: Sequence[list[Tensor]], incidences: Incidences, nodes: Tensor, channels: int) -> list[Tensor]:
    """The sums of the messages that each node is sent, by role.

    Args:
        messages: For each role, messages ``[batch, places, channels]`` in the order of blocks and axes, slot by slot.
        incidences: Incidences of the graph.
        nodes: ``[batch, num_nodes, …]``.
        channels: Number of channels of messages.

    Returns:
        For each role ``[batch, num_nodes + 1, channels]``.
    """
    received = []
    for own, targets in zip(messages, incidences.targets, strict=True):
        total = nodes.new_zeros(nodes.shape[0], incidences.num_nodes + 1, channels)
        if own:
            total.index_add_(1, targets.to(nodes.device), torch.cat(own, 1))
        received.append(total)
    return received


def updated(nodes: Tensor, update: nn.Module, received: Sequence[Tensor], incidences: Incidences) -> Tensor:
    """Add to each node what a module makes of it and of the means of its messages, by role.

    Args:
        nodes: ``[batch, num_nodes, hidden]``.
        update: ``[…, hidden + roles · channels]`` → ``[…, hidden]``.
        received: Sums of messages, from :func:`gathered`.
        incidences: Incidences of the graph.

    Returns:
        ``[batch, num_nodes, hidden]``.
    """
    result = []
    for start in range(0, incidences.num_nodes, _ROWS):  # in parts: what the module keeps is several times the nodes
        rows = slice(start, min(start + _ROWS, incidences.num_nodes))
        means = [own[:, rows] / count[rows].to(nodes) for own, count in zip(received, incidences.counts, strict=True)]
        result.append(nodes[:, rows] + update(torch.cat([nodes[:, rows], *means], -1)))
    return torch.cat(result, 1)


def padded(table: Tensor) -> Tensor:
    """A table of nodes with a row of zeros at the end, which stands for none."""
    return torch.cat([table, table.new_zeros(table.shape[0], 1, table.shape[2])], 1)


def _with_roles(block: Block) -> tuple[tuple[BlockAxis, int], ...]:
    receiving = len(block.receivers)
    result, number = [], 0
    for axis in block.axes:
        if not axis.receives:
            result.append((axis, PLACE))
            continue
        result.append((axis, OWN if receiving == 1 else min(FIRST + number, FURTHER)))
        number += 1
    return tuple(result)


def _node_features(graph: ParameterGraph) -> Tensor:
    """Kind, depth in the wreath, size; for nodes that stay, their places."""
    result = torch.zeros(graph.num_nodes, NODE_FEATURES)
    for nodes in graph.node_sets:
        group, rows = nodes.group, slice(nodes.start, nodes.start + nodes.size)
        kind = {INPUT: 1, OUTPUT: 2}.get(group.fixed, 3) if group.fixed else 0
        result[rows, kind] = 1
        result[rows, 4] = len(group.parents)
        result[rows, 5] = math.log(group.size) / 10
        if group.fixed:
            index = torch.arange(group.size, dtype=torch.float32)
            waves = _index_waves(index)
            place = torch.stack([index / group.size, torch.full_like(index, 1 / group.size)], 1)
            result[rows, 6:] = torch.cat([waves, place], 1).repeat(nodes.size // group.size, 1)
    return result


def _index_waves(index: Tensor) -> Tensor:
    """Sines and cosines of an index, ``[size, 2 · frequencies]``."""
    frequencies = 2.0 ** -torch.arange(_FREQUENCIES, dtype=torch.float32) * math.pi
    angles = index[:, None] * frequencies * 0.98  # not a full turn, at which indices would look alike
    return torch.cat([angles.sin(), angles.cos()], 1)


def _waves(value: float) -> list[float]:
    return [function(value * 2.0**number) for function in (math.sin, math.cos) for number in range(_FREQUENCIES)]
