"""Computational graph → tensors that a graph hypernetwork reads, one graph or a batch of different sizes."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from hypergen.generators.ghn.addresses import axis_addresses
from hypergen.generators.ghn.canonical import canonical_graph
from hypergen.generators.ghn.canonical_features import addressed_slots, blocked_parameters, canonical_attributes
from hypergen.generators.ghn.layout import BlockedParameter, Layout, layout_of
from hypergen.generators.ghn.slots import SITES, Slot, slots_of
from hypergen.graph import ComputationalGraph
from hypergen.graph.operations import SHAPE_OPS
from hypergen.graph.vocabulary import OPERATIONS

# Axis moves tell token mixing from channel mixing; the other shape operations only add length to paths.
CONTRACTED = SHAPE_OPS - {"transpose", "permute", "swapaxes", "movedim"}
NUM_ATTRIBUTES = 16
GRAPHS = {"as_traced": NUM_ATTRIBUTES, "canonical": NUM_ATTRIBUTES + 3}  # how a graph is read → attributes of a node
PATH_CUTOFF = 50
_SAME = {"addmm": "linear"}  # of canonical graphs; which axis of its weight comes first is no property of a layer


@dataclass(frozen=True)
class GraphFeatures:
    """What a graph hypernetwork reads of one graph; built once per architecture.

    Attributes:
        operations: Operation numbers, ``[num_nodes]``, int64: the place in the vocabulary, its length for all others.
        attributes: Sizes and settings, ``[num_nodes, num_attributes]`` (:data:`GRAPHS`), float32, about unit range.
        distances: Shortest-path lengths, ``[num_nodes, num_nodes]``, int8; -1 where there is no path.
        slot_nodes: The node of each slot, ``[num_slots]``, int64.
        slot_sites: The site of each slot, ``[num_slots]``, int64.
        slots: The parameters to be predicted.
        layout: Their places in one flat vector.
        row_addresses: Name → what its rows are called, where that is not their number.
        column_addresses: The same of its columns.
        blocks: Parameters that are put together from blocks of rows.
    """

    operations: Tensor
    attributes: Tensor
    distances: Tensor
    slot_nodes: Tensor
    slot_sites: Tensor
    slots: tuple[Slot, ...]
    layout: Layout
    row_addresses: Mapping[str, Tensor] = field(default_factory=dict)
    column_addresses: Mapping[str, Tensor] = field(default_factory=dict)
    blocks: tuple[BlockedParameter, ...] = ()

    def of_parameters(self, names: Collection[str]) -> GraphFeatures:
        """The same graph, with some of its parameters to be predicted: each gets the values that it has among all."""
        wanted = {name for blocked in self.blocks if blocked.parameter in names for name in blocked.names}
        wanted.update(names)
        kept = [i for i, slot in enumerate(self.slots) if slot.name in wanted]
        slots = tuple(self.slots[i] for i in kept)
        return replace(
            self,
            slot_nodes=self.slot_nodes[kept],
            slot_sites=self.slot_sites[kept],
            slots=slots,
            layout=layout_of(
                slots,
                dict(zip(self.layout.names, self.layout.starts, strict=True)),
                self.row_addresses,
                self.column_addresses,
                self.blocks,
            ),
        )


def graph_features(
    graph: ComputationalGraph, graphs: str = "as_traced", channel_identity: bool = False
) -> GraphFeatures:
    """Describe ``graph`` for a graph hypernetwork.

    Args:
        graph: The computational graph.
        graphs: ``"canonical"``, so that spellings of one function read alike, or ``"as_traced"``.
        channel_identity: Whether rows and columns of a weight are called by the channel that they stand for, wherever
            it comes to lie; else by their number along the axis. Only of canonical graphs.
    """
    if graphs == "canonical":
        return _canonical_features(graph, channel_identity)
    graph = graph.without(CONTRACTED)
    slots = slots_of(graph)
    number = {op: i for i, op in enumerate(OPERATIONS)}
    return GraphFeatures(
        torch.tensor([number.get(node.op, len(OPERATIONS)) for node in graph.nodes]),
        _attributes(graph, slots),
        graph.shortest_paths(PATH_CUTOFF).to(torch.int8),
        torch.tensor([slot.node for slot in slots], dtype=torch.int64),
        torch.tensor([SITES.index(slot.site) for slot in slots], dtype=torch.int64),
        slots,
        layout_of(slots),
    )


def _canonical_features(graph: ComputationalGraph, channel_identity: bool) -> GraphFeatures:
    axes = axis_addresses(graph)
    canonical = canonical_graph(graph, axes)
    number = {op: i for i, op in enumerate(OPERATIONS)}
    slots, rows, columns = addressed_slots(canonical, axes, channel_identity)
    blocks = blocked_parameters(canonical)
    nodes = canonical.graph.nodes
    return GraphFeatures(
        torch.tensor([number.get(_SAME.get(node.op, node.op), len(OPERATIONS)) for node in nodes]),
        canonical_attributes(canonical, slots),
        canonical.graph.shortest_paths(PATH_CUTOFF).to(torch.int8),
        torch.tensor([slot.node for slot in slots], dtype=torch.int64),
        torch.tensor([SITES.index(slot.site) for slot in slots], dtype=torch.int64),
        slots,
        layout_of(slots, None, rows, columns, blocks),
        rows,
        columns,
        blocks,
    )


def _attributes(graph: ComputationalGraph, slots: Sequence[Slot]) -> Tensor:
    largest = {slot.node: slot for slot in sorted(slots, key=lambda slot: math.prod(slot.shape))}
    count = len(graph.nodes)
    depth, parameters = math.log2(count) / 6 - 1, math.log2(1 + len(slots)) / 3 - 1
    rows = []
    for i, node in enumerate(graph.nodes):
        slot = largest.get(i)
        shape, attributes = node.shape, node.attributes
        channels = shape[1] if len(shape) > 2 else shape[-1] if shape else 1
        positions = math.prod(shape[2:]) if len(shape) > 2 else 1
        kernel = slot.grid if slot else _pair(attributes.get("kernel_size"))[:1]  # of a pooling window the first side
        groups = int(attributes.get("groups", 1))
        rows.append(
            [
                i / max(count - 1, 1),
                depth,
                math.log2(max(channels, 1)) / 4 - 1,
                math.log2(max(positions, 1)) / 4,
                math.log2(max(slot.rows, 1)) / 4 - 1 if slot else 0.0,
                math.log2(max(slot.columns, 1)) / 4 - 1 if slot else 0.0,
                math.log2(slot.fan_in) / 4 - 1 if slot else 0.0,
                math.log2(math.prod(kernel)) / 4 if kernel else 0.0,
                math.log2(max(_pair(attributes.get("stride")))),
                math.log2(groups) / 4,
                float(slot is not None and slot.site == "depthwise"),
                math.log2(max(_pair(attributes.get("dilation")))),
                len(graph.incoming[i]) / 2 - 0.5,
                len(graph.outgoing[i]) / 2 - 0.5,
                len(shape) / 2 - 1,
                parameters,
            ]
        )
    return torch.tensor(rows, dtype=torch.float32)


def _pair(value: object) -> tuple[int, ...]:
    if value is None:  # most nodes have none
        return (1,)
    values = value if isinstance(value, (tuple, list)) else (value,)
    return tuple(v if isinstance(v, int) and v > 0 else 1 for v in values) or (1,)


@dataclass(frozen=True)
class GraphBatch:
    """Graphs of different sizes: nodes padded, slots joined one graph after the other.

    Attributes:
        operations: ``[num_graphs, max_nodes]``; padding reads operation 0.
        attributes: ``[num_graphs, max_nodes, num_attributes]``.
        distances: ``[num_graphs, max_nodes, max_nodes]``; -1 on padding.
        mask: ``[num_graphs, max_nodes]``, True on nodes.
        slot_nodes: Node of each slot in the flattened ``[num_graphs · max_nodes]``, ``[num_slots]``.
        slot_sites: ``[num_slots]``.
        matrices: Which slots are matrices, ``[num_matrices]``.
        fan_in: Values that an output of each matrix sums over, ``[num_matrices]``, float32.
        layouts: The layout of each graph.
    """

    operations: Tensor
    attributes: Tensor
    distances: Tensor
    mask: Tensor
    slot_nodes: Tensor
    slot_sites: Tensor
    matrices: Tensor
    fan_in: Tensor
    layouts: tuple[Layout, ...]

    def joined(self, name: str, step: Sequence[int] | None = None) -> Tensor:
        """An index tensor of all layouts, each raised by the sum of the steps before it."""
        start, tensors = 0, []
        for i, layout in enumerate(self.layouts):
            values = getattr(layout, name)
            tensors.append(values + start if start else values)
            start += step[i] if step else 0
        return (torch.cat(tensors) if i else values).to(self.operations.device)


def batch_graphs(graphs: Sequence[GraphFeatures], device: torch.device | None = None) -> GraphBatch:
    """Pad graphs to the largest one."""
    size = max(len(g.operations) for g in graphs)
    operations = torch.zeros(len(graphs), size, dtype=torch.int64)
    attributes = torch.zeros(len(graphs), size, graphs[0].attributes.shape[1])
    distances = torch.full((len(graphs), size, size), -1, dtype=torch.int64)
    mask = torch.zeros(len(graphs), size, dtype=torch.bool)
    matrices, fan_in, start = [], [], 0
    for i, g in enumerate(graphs):
        n = len(g.operations)
        operations[i, :n], attributes[i, :n], distances[i, :n, :n], mask[i, :n] = (
            g.operations, g.attributes, g.distances, True,
        )  # fmt: skip
        matrices += [start + slot for slot in g.layout.matrices]
        fan_in += [g.slots[slot].fan_in for slot in g.layout.matrices]
        start += len(g.slots)
    return GraphBatch(
        operations.to(device),
        attributes.to(device),
        distances.to(device),
        mask.to(device),
        torch.cat([g.slot_nodes + i * size for i, g in enumerate(graphs)]).to(device),
        torch.cat([g.slot_sites for g in graphs]).to(device),
        torch.tensor(matrices, dtype=torch.int64, device=device),
        torch.tensor(fan_in, dtype=torch.float32, device=device),
        tuple(g.layout for g in graphs),
    )
