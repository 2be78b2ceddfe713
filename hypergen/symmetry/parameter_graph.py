"""The parameter graph: neurons as nodes, weights as edges; what metanetworks read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from hypergen.errors import ParameterError
from hypergen.graph.calls import Value
from hypergen.graph.operations import MERGED
from hypergen.symmetry.incidence import INPUT, OUTPUT, Incidence, Occurrence
from hypergen.symmetry.structure import Group

if TYPE_CHECKING:
    from hypergen.graph.computational_graph import ComputationalGraph
    from hypergen.symmetry.symmetry import Symmetry

# Parameters in the graph's form: for each block [*batch, *block.shape, features].
ParameterData = tuple[Tensor, ...]


class NodeSet(NamedTuple):
    """The nodes of one group.

    Attributes:
        group: The group.
        start: The number of its first node.
        size: How many nodes it has: one per index, and per index of its parents.
        is_place: Whether its nodes only say where a weight is, as the places in a kernel, and are told nothing.
    """

    group: Group
    start: int
    size: int
    is_place: bool


@dataclass(frozen=True, eq=False)
class BlockAxis:
    """Nodes along an axis of a block.

    Attributes:
        dim: The axis.
        dims: The axes that decide which nodes, in order: its own, and those that it varies with (the channels within a
            group of a convolution with the group).
        sizes: Their sizes.
        nodes: Node numbers, ``[prod(sizes), slots]``: several where groups lie at one place, as a head and a channel
            in it; the number of nodes stands for none.
        ranges: For each slot the first node where all are consecutive, else None.
        receives: Whether messages are sent to its nodes.
        segments: The segment of a concatenation (queries, keys, values) at every place of the axis, if there are any.
    """

    dim: int
    dims: tuple[int, ...]
    sizes: tuple[int, ...]
    nodes: Tensor
    ranges: tuple[int | None, ...]
    receives: bool
    segments: Tensor | None


@dataclass(frozen=True, eq=False)
class Block:
    """A parameter or buffer as a dense block of edges; one with a single axis, as a bias, belongs to its nodes.

    Attributes:
        name: Name of the parameter or buffer.
        shape: Its shape; axes that are products are divided where another axis varies with a factor; a scalar has one.
        tensor_shape: Its own shape.
        axes: The axes that have nodes or segments.
        op: The operation that reads it.
        role: What it is there.
        depth: Where the operation is among all, from 0 to 1.
    """

    name: str
    shape: tuple[int, ...]
    tensor_shape: tuple[int, ...]
    axes: tuple[BlockAxis, ...]
    op: str
    role: str
    depth: float

    @cached_property
    def receivers(self) -> tuple[BlockAxis, ...]:
        """The axes whose nodes are sent messages."""
        return tuple(axis for axis in self.axes if axis.receives)


@dataclass(frozen=True, eq=False)
class ParameterGraph:
    """The parameters of a network as a graph that every metanetwork reads, built once per architecture.

    A node is an index of a group of the network's symmetry: a neuron, a channel, a head, a channel within a head. What
    stays as it is (inputs, outputs, places in a kernel) has nodes, too, which are told apart by where they are. A
    weight is an edge between the nodes of its axes. Permuting parameters by an element of the symmetry permutes nodes,
    so that a network that treats all nodes of a group alike is equivariant; a permutation that is none of the symmetry
    tears nodes and edges apart.

    Attributes:
        symmetry: The groups.
        blocks: One per parameter, then per buffer that follows groups, as the running statistics of batch norms; none
            for tensors without values.
        node_sets: The nodes, by group; together they are all numbers below :attr:`num_nodes`.
        num_nodes: How many nodes there are.
    """

    symmetry: Symmetry
    blocks: tuple[Block, ...]
    node_sets: tuple[NodeSet, ...]
    num_nodes: int

    @property
    def unsupported(self) -> tuple[str, ...]:
        """Operations without a rule of symmetry; the axes that they touch are told apart by place."""
        return self.symmetry.unsupported

    @cached_property
    def num_edges(self) -> int:
        """The number of scalars."""
        return sum(torch.Size(block.shape).numel() for block in self.blocks)

    def __repr__(self) -> str:
        """Summarise in one line."""
        return (
            f"ParameterGraph({self.num_nodes} nodes in {len(self.node_sets)} groups, {self.num_edges} weights in "
            f"{len(self.blocks)} blocks, unsupported: {', '.join(self.unsupported) or 'none'})"
        )

    def to_data(self, *tensors: Mapping[str, Tensor]) -> ParameterData:
        """Parameters in the graph's form.

        Args:
            *tensors: A mapping per feature: parameters, then for example gradients, an optimiser's state, or older
                parameters. Each has a tensor [*batch, *shape] per name of :attr:`blocks`.

        Returns:
            A tensor [*batch, *block.shape, features] per block; a view, where there is one mapping.

        Raises:
            ParameterError: A tensor is missing, has another shape, or is not finite; the message names it.
        """
        if not tensors:
            raise ParameterError("Pass at least one mapping of parameters.")
        columns = [self._column(own) for own in tensors]
        if len(columns) == 1:
            return tuple(block.unsqueeze(-1) for block in columns[0])
        return tuple(torch.stack(same, -1) for same in zip(*columns, strict=True))

    def _column(self, tensors: Mapping[str, Tensor]) -> list[Tensor]:
        result = []
        batch: tuple[int, ...] | None = None
        for block in self.blocks:
            tensor = tensors.get(block.name)
            if tensor is None:
                buffer = "" if block.name in self.symmetry.parameters else (
                    " It is a buffer: hand buffers over, too, or make the graph with parameter_graph(buffers=False)."
                )  # fmt: skip
                raise ParameterError(f"There is no tensor {block.name!r}, which this architecture has.{buffer}")
            lead = tensor.dim() - len(block.tensor_shape)
            if lead < 0 or tuple(tensor.shape[lead:]) != block.tensor_shape:
                raise ParameterError(
                    f"{block.name!r} has shape {list(tensor.shape)}; expected {list(block.tensor_shape)}, with any "
                    "leading axes for a batch. Are these the parameters of another architecture?"
                )
            batch = tuple(tensor.shape[:lead]) if batch is None else batch
            if tuple(tensor.shape[:lead]) != batch:
                own = list(tensor.shape[:lead])
                raise ParameterError(f"{block.name!r} is a batch of {own}, others of {list(batch)}; batch all alike.")
            # A sum is finite unless a term is not, or it overflows.
            if not tensor.detach().sum().isfinite() and not tensor.isfinite().all():
                raise ParameterError(f"{block.name!r} has values that are NaN or infinite; leave this network out.")
            result.append(tensor.reshape((*batch, *block.shape)))
        return result

    def to_params(self, data: Sequence[Tensor], feature: int = 0) -> dict[str, Tensor]:
        """The inverse of :meth:`to_data`, exact and differentiable.

        Args:
            data: A tensor [*batch, *block.shape, features] per block.
            feature: Which feature to take.

        Returns:
            A tensor [*batch, *shape] per name.

        Raises:
            ParameterError: The tensors do not fit the blocks.
        """
        if len(data) != len(self.blocks):
            raise ParameterError(f"Got {len(data)} tensors; this graph has {len(self.blocks)} blocks.")
        result = {}
        for block, values in zip(self.blocks, data, strict=True):
            lead = values.dim() - len(block.shape) - 1
            if lead < 0 or tuple(values.shape[lead:-1]) != block.shape:
                raise ParameterError(
                    f"The data of {block.name!r} has shape {list(values.shape)}; expected {list(block.shape)}, with "
                    "the batch before and the features after."
                )
            result[block.name] = values[..., feature].reshape((*values.shape[:lead], *block.tensor_shape))
        return result

    def to_pyg(self, *tensors: Mapping[str, Tensor]) -> Any:
        """Parameters of one network as ``torch_geometric.data.Data``.

        A convolution's kernel has an edge for each place; of a head and a channel in it, an edge takes the channel.

        Args:
            *tensors: A mapping per feature, as for :meth:`to_data`, without a batch.

        Returns:
            ``x`` ``[num_nodes, 3]``: group, position where the node stays as it is (else -1), and kind (0 permuted, 1
            input, output or otherwise fixed, 2 a place in a kernel); ``edge_index`` ``[2, num_edges]`` from input to
            output neuron, biases as loops; ``edge_attr`` ``[num_edges, features]``, the weights; ``edge_block``, the
            parameter's number; ``edge_place``, the place in a kernel. :meth:`from_pyg` leads back.
        """
        from hypergen.symmetry.pyg import parameter_data  # torch_geometric takes seconds to import.

        return parameter_data(self.blocks, self.node_sets, self.num_nodes, self.to_data(*tensors))

    def from_pyg(self, data: Any, feature: int = 0) -> dict[str, Tensor]:
        """Parameters by name from the ``edge_attr`` of :meth:`to_pyg`; exact and differentiable.

        Raises:
            ParameterError: The number of edges is not that of this graph.
        """
        sizes = [math.prod(block.shape) for block in self.blocks]
        if len(data.edge_attr) != sum(sizes):
            raise ParameterError(f"The data have {len(data.edge_attr)} edges; this parameter graph has {sum(sizes)}.")
        parts = data.edge_attr.split(sizes)
        values = [part.reshape(*block.shape, -1) for part, block in zip(parts, self.blocks, strict=True)]
        return self.to_params(values, feature)


def build_parameter_graph(
    graph: ComputationalGraph, outputs: Sequence[str] | None = None, buffers: bool = True
) -> ParameterGraph:
    """The parameter graph of a traced network; see :meth:`ComputationalGraph.parameter_graph`."""
    symmetry = graph.symmetry(outputs)
    names = [
        name
        for name, axes in symmetry.axes.items()
        if (buffers or name in symmetry.parameters) and all(axis.size for axis in axes)
    ]
    found = {name: symmetry.incidence(name) for name in names}
    sets = _node_sets(symmetry, found)
    starts = {node_set.group: node_set for node_set in sets}
    count = sets[-1].start + sets[-1].size if sets else 0
    readers = _readers(graph)
    blocks = tuple(
        Block(
            name,
            own.shape or (1,),
            tuple(axis.size for axis in symmetry.axes[name]),
            tuple(
                _block_axis(dim, own.shape, occurrences, own.segments[dim], starts, count)
                for dim, occurrences in enumerate(own.axes)
                if occurrences or own.segments[dim] is not None
            ),
            *readers.get(name, ("unused", name.rpartition(".")[2], 1.0)),
        )
        for name, own in found.items()
    )
    return ParameterGraph(symmetry, blocks, sets, count)


def _node_sets(symmetry: Symmetry, found: Mapping[str, Incidence]) -> tuple[NodeSet, ...]:
    tensors: dict[Group, set[str]] = {}
    for name, own in found.items():
        for occurrences in own.axes:
            for occurrence in occurrences:
                tensors.setdefault(occurrence.group, set()).add(name)
    result, start = [], 0
    for group, names in tensors.items():
        size = torch.Size(group.shape).numel()
        is_place = bool(group.fixed) and group.fixed not in (INPUT, OUTPUT) and len(names) == 1
        result.append(NodeSet(group, start, size, is_place))
        start += size
    return tuple(result)


def _block_axis(
    dim: int,
    shape: tuple[int, ...],
    occurrences: Sequence[Occurrence],
    segments: Tensor | None,
    sets: Mapping[Group, NodeSet],
    none: int,
) -> BlockAxis:
    varies = {dim} | {
        other for own in occurrences for other in range(len(shape)) if own.at.dim() and own.at.shape[other] > 1
    }
    varies |= {
        other
        for own in occurrences
        if own.inside is not None
        for other in range(len(shape))
        if own.inside.shape[other] > 1
    }
    dims = tuple(sorted(varies))
    sizes = tuple(shape[other] for other in dims)
    view = [shape[other] if other in dims else 1 for other in range(len(shape))]
    nodes = torch.full((*view, 1 + max((own.slot for own in occurrences), default=-1)), none)
    for own in occurrences:
        number = own.at + sets[own.group].start
        column = nodes[..., own.slot]
        nodes[..., own.slot] = number if own.inside is None else torch.where(own.inside, number, column)
    flat = nodes.reshape(math.prod(sizes), nodes.shape[-1])
    return BlockAxis(
        dim,
        dims,
        sizes,
        flat,
        tuple(_range(column) for column in flat.unbind(-1)),
        any(not sets[own.group].is_place for own in occurrences),
        segments,
    )


def _range(column: Tensor) -> int | None:
    first = int(column[0])
    return first if torch.equal(column, torch.arange(first, first + len(column))) else None


def _readers(graph: ComputationalGraph) -> dict[str, tuple[str, str, float]]:
    """For each parameter and buffer: the operation that reads it, its role there, and where that operation is."""
    result = {}
    last = max(len(graph.nodes) - 1, 1)
    for name, (number, role) in graph.readers.items():
        result[name] = (graph.nodes[number].op, role, number / last)
    calls = graph.calls
    if calls is None:
        return result
    names = {value: name for name, value in calls.buffers.items() if name not in result}
    for number, call in enumerate(calls.calls):
        for argument in (*call.args, *call.kwargs.values()):
            if isinstance(argument, Value) and argument in names:
                name = names.pop(argument)
                op = MERGED.get(call.op, call.op)
                result[name] = (op, name.rpartition(".")[2], number / max(len(calls.calls) - 1, 1))
    return result
