"""Two spellings of one function become one graph: what a generator reads should be the meaning, not the spelling.

Operations that only move values go, whichever axes they move. A convolution with a kernel of one is a linear layer, a
pooling to one position is a mean. Projections of an attention that are fused, or that belong to
``nn.MultiheadAttention``, become a node each, with a block of rows; each knows whether it makes queries,
keys or values. A linear layer that reads patches is the convolution with that stride.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from hypergen.generators.ghn.addresses import AxisAddresses
from hypergen.graph import ComputationalGraph, OpNode
from hypergen.graph.calls import Call, Calls, Value
from hypergen.graph.computational_graph import edge_tensor
from hypergen.graph.operations import SHAPE_OPS

ATTENTION = "scaled_dot_product_attention"
ROLES = ("query", "key", "value")
_PROJECTIONS = ("linear", "addmm", "conv1d", "conv2d", "conv3d")
_PRODUCTS = ("matmul", "rmatmul", "bmm", "baddbmm", "einsum")
_STEPS = 40  # calls between a projection and its attention at most


@dataclass(frozen=True)
class Block:
    """Rows of a parameter that a node of the canonical graph has to itself.

    Attributes:
        parameter: The parameter's name.
        dim: The axis of the rows.
        rows: Which ones, ``[block size]``, int64.
    """

    parameter: str
    dim: int
    rows: Tensor


@dataclass(frozen=True)
class CanonicalGraph:
    """A graph in canonical form.

    Attributes:
        graph: Its nodes read parameters, or blocks of them under names of their own.
        blocks: Name of a block → the rows that it stands for.
        roles: Node → its place in :data:`ROLES`, for projections of an attention.
        patches: Node → the sides of its patches, for linear layers that read patches of the input.
    """

    graph: ComputationalGraph
    blocks: Mapping[str, Block] = field(default_factory=dict)
    roles: Mapping[int, int] = field(default_factory=dict)
    patches: Mapping[int, tuple[int, int]] = field(default_factory=dict)

    def parameter(self, name: str) -> str:
        """The parameter that a name stands for, or for a block of."""
        return self.blocks[name].parameter if name in self.blocks else name


def canonical_graph(graph: ComputationalGraph, axes: Mapping[str, Sequence[AxisAddresses]]) -> CanonicalGraph:
    """Bring ``graph`` into canonical form.

    Args:
        graph: The graph as it was traced.
        axes: Meaning of the axes of each parameter: what the positions along each axis stand for.
    """
    short = graph.without(SHAPE_OPS)
    roles = {} if graph.calls is None else _projection_roles(graph.calls)
    builder = _Builder(short)
    for node in short.nodes:
        builder.add(node, roles, axes)
    return builder.built(axes)


class _Builder:
    def __init__(self, graph: ComputationalGraph) -> None:
        self.graph = graph
        self.nodes: list[OpNode] = []
        self.edges: list[tuple[int, int]] = []
        self.shapes = dict(graph.parameter_shapes)
        self.blocks: dict[str, Block] = {}
        self.roles: dict[int, int] = {}
        self.ends: list[tuple[int, ...]] = []  # of each node of the graph the canonical ones that give its values

    def add(
        self, node: OpNode, roles: Mapping[str, Mapping[int, None]], axes: Mapping[str, Sequence[AxisAddresses]]
    ) -> None:
        number = len(self.ends)
        sources = [end for source in self.graph.incoming[number] for end in self.ends[source]]
        if node.op == "multi_head_attention" and "in_proj_weight" in node.parameters:
            self.ends.append((self._multi_head(node, sources),))
            return
        weight = node.parameters.get("weight")
        own = tuple(roles.get(weight, ())) if weight and node.op in _PROJECTIONS else ()
        rows = _rows_of_segments(axes.get(weight or "", ()), _row_dim(node), len(own)) if len(own) > 1 else None
        if rows is None:
            self.ends.append((self._append(_renamed(node, self.graph.parameter_shapes), sources),))
            if len(own) == 1:
                self.roles[self.ends[-1][0]] = own[0]
            return
        self.ends.append(self._split(node, node.parameters, _row_dim(node), rows, own, sources))

    def _append(self, node: OpNode, sources: Sequence[int]) -> int:
        self.nodes.append(node)
        self.edges += [(source, len(self.nodes) - 1) for source in dict.fromkeys(sources)]
        return len(self.nodes) - 1

    def _split(
        self,
        node: OpNode,
        parameters: Mapping[str, str],
        dim: int,
        rows: Sequence[Tensor],
        roles: Sequence[int],
        sources: Sequence[int],
    ) -> tuple[int, ...]:
        """A node for each block of rows."""
        made = []
        for role, own in zip(roles, rows, strict=True):
            names = {}
            for argument, name in parameters.items():
                axis = dim if len(self.graph.parameter_shapes[name]) > 1 else 0
                block = f"{name}[{ROLES[role]}]"
                self.blocks[block] = Block(name, axis, own)
                shape = self.graph.parameter_shapes[name]
                self.shapes[block] = (*shape[:axis], len(own), *shape[axis + 1 :])
                names[argument] = block
            last = len(node.shape) - 1 if "conv" not in node.op else 1
            shape = (*node.shape[:last], len(own), *node.shape[last + 1 :])
            part = replace(_renamed(node, self.graph.parameter_shapes), parameters=names, shape=shape)
            made.append(self._append(part, sources))
            self.roles[made[-1]] = role
        return tuple(made)

    def _multi_head(self, node: OpNode, sources: Sequence[int]) -> int:
        """``nn.MultiheadAttention``, written out: three projections, an attention and the projection of its result."""
        parameters = dict(node.parameters)
        inner = {role.removeprefix("in_proj_"): parameters.pop(role) for role in ("in_proj_weight", "in_proj_bias")
                 if role in parameters}  # fmt: skip
        outer = {role.removeprefix("out_proj_"): parameters.pop(role) for role in ("out_proj_weight", "out_proj_bias")
                 if role in parameters}  # fmt: skip
        total = self.graph.parameter_shapes[inner["weight"]][0]
        rows = torch.arange(total).chunk(3)
        linear = OpNode("linear", node.module, {}, (*node.shape[:-1], total))
        made = self._split(linear, inner, 0, rows, (0, 1, 2), sources)
        heads = {name: node.attributes[name] for name in ("num_heads", "head_dim") if name in node.attributes}
        attention = self._append(OpNode(ATTENTION, node.module, parameters, node.shape, heads, node.shared), made)
        if not outer:
            return attention
        return self._append(OpNode("linear", node.module, outer, node.shape), (attention,))

    def built(self, axes: Mapping[str, Sequence[AxisAddresses]]) -> CanonicalGraph:
        """The graph of what was added."""
        patches = _patches(self.nodes, self.edges, axes)
        for i, side in patches.items():
            self.nodes[i] = replace(self.nodes[i], op="conv2d", attributes={"stride": side})
        outputs = tuple(dict.fromkeys(end for output in self.graph.outputs for end in self.ends[output]))
        graph = ComputationalGraph(
            tuple(self.nodes),
            edge_tensor(self.edges),
            self.shapes,
            self.graph.unused_parameters,
            self.graph.tied_parameters,
            outputs,
        )
        return CanonicalGraph(graph, self.blocks, self.roles, patches)


def _renamed(node: OpNode, shapes: Mapping[str, tuple[int, ...]]) -> OpNode:
    """The node under the name of what it computes."""
    weight = node.parameters.get("weight")
    if node.op in ("conv1d", "conv2d", "conv3d") and weight is not None:
        kernel = shapes[weight][2:]
        stride = node.attributes.get("stride", 1)
        strides = stride if isinstance(stride, (tuple, list)) else (stride,)
        if math.prod(kernel) == 1 and all(s == 1 for s in strides) and node.attributes.get("groups", 1) == 1:
            return replace(node, op="linear", attributes={})
    if node.op == "addmm" and weight is not None:
        return node  # its weight holds columns before rows
    if node.op.startswith("adaptive_avg_pool"):
        size = node.attributes.get("output_size")
        sizes = size if isinstance(size, (tuple, list)) else (size,)
        if all(s == 1 for s in sizes):
            return replace(node, op="mean", attributes={})
    return node


def _row_dim(node: OpNode) -> int:
    return 1 if node.op == "addmm" else 0


def _rows_of_segments(axes: Sequence[AxisAddresses], dim: int, count: int) -> list[Tensor] | None:
    """The rows of each segment of the axis that a fused projection writes, if it has that many."""
    if len(axes) <= dim:
        return None
    segments = axes[dim].segments
    numbers = segments.unique()
    if len(numbers) != count:
        return None
    return [torch.nonzero(segments == number).flatten() for number in numbers]


def _patches(
    nodes: Sequence[OpNode], edges: Sequence[tuple[int, int]], axes: Mapping[str, Sequence[AxisAddresses]]
) -> dict[int, tuple[int, int]]:
    """Linear layers that read square patches of the network's input → the patch's sides."""
    shape = nodes[0].shape if nodes and nodes[0].op == "input" else ()
    if len(shape) != 4:
        return {}
    found: dict[int, tuple[int, int]] = {}
    raw = {0}  # nodes that give the input's own values
    for source, target in edges:
        name = nodes[target].parameters.get("weight", "")
        if source in raw and nodes[target].op == "linear" and len(axes.get(name, ())) == 2:
            patch = axes[name][1].patch
            if patch and math.prod(patch) < math.prod(shape[2:]):
                found[target] = (patch[0], patch[1])
    return found


def _projection_roles(calls: Calls) -> dict[str, dict[int, None]]:
    """Weight → the roles in :data:`ROLES` of what it projects, in their order."""
    makers: dict[Value, Call] = {}
    for call in calls.calls:
        for value in call.outputs:
            makers.setdefault(value, call)  # what hands its input on, as dropout does, makes nothing
    names = {value: name for name, value in calls.parameters.items()}
    found: dict[str, dict[int, None]] = {}

    def note(value: object, role: int) -> None:
        weight = _projection(value, makers, names)
        if weight is not None:
            found.setdefault(weight, {})[role] = None

    after: dict[Value, Call] = {}  # what reads the weights of an attention
    for call in calls.calls:
        if call.op in (ATTENTION, "flex_attention"):
            for role, value in enumerate(call.args[:3]):
                note(value, role)
        elif call.op in ("softmax", "special_softmax"):
            product = _back_to(_first_value(call), makers, _PRODUCTS)
            operands = _operands(product) if product is not None else []
            if product is not None and len(operands) >= 2:
                after[call.outputs[0]] = call
                note(operands[-2], 0)
                note(operands[-1], 1)
        elif call.op in _PRODUCTS:
            operands = _operands(call)
            for i, value in enumerate(operands):
                softmax = _back_to(value, makers, ("softmax",), steps=6)
                if softmax is not None and softmax.outputs[0] in after and len(operands) >= 2:
                    note(operands[1 - i if i < 2 else 0], 2)
    return {name: dict.fromkeys(sorted(roles)) for name, roles in found.items()}


def _operands(call: Call) -> list[Value]:
    values = [value for value in call.args if isinstance(value, Value)]
    for argument in call.args:
        if isinstance(argument, (tuple, list)):
            values += [value for value in argument if isinstance(value, Value)]
    return values[::-1] if call.op == "rmatmul" else values


def _first_value(call: Call) -> Value | None:
    """What a call works on: its first operand; of a concatenation the last, behind what a cache holds."""
    operands = _operands(call) or [value for value in call.kwargs.values() if isinstance(value, Value)]
    return None if not operands else operands[-1 if call.op in ("cat", "concat") else 0]


def _back_to(value: object, makers: Mapping[Value, Call], ops: Sequence[str], steps: int = _STEPS) -> Call | None:
    """The call of one of these operations that a value was made from, along first operands."""
    for _ in range(steps):
        call = makers.get(value) if isinstance(value, Value) else None
        if call is None:
            return None
        if call.op in ops:
            return call
        if call.op in _PROJECTIONS or call.op in _PRODUCTS:
            return None
        value = _first_value(call)
    return None


def _projection(value: object, makers: Mapping[Value, Call], names: Mapping[Value, str]) -> str | None:
    """The weight of the projection that a value was made by."""
    call = _back_to(value, makers, _PROJECTIONS)
    if call is None:
        return None
    place = 2 if call.op == "addmm" else 1
    weight = call.args[place] if len(call.args) > place else call.kwargs.get("weight")
    return names.get(weight) if isinstance(weight, Value) else None
