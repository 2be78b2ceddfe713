"""What a generator has to write: every parameter of a graph, with its place and the meaning of its axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hypergen.graph import ComputationalGraph, OpNode

NORM_OPS = frozenset(("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "native_layer_norm"))

# Where a parameter sits decides what it starts from. Matrices first, then tables, then vectors.
MATRIX_SITES = (
    "conv",
    "linear",
    "expand",
    "reduce",
    "pointwise",
    "widen",
    "narrow",
    "depthwise",
    "first_conv",
    "first_linear",
    "flat",
    "last",
    "last_flat",
    "table",
)
VECTOR_SITES = ("scale", "shift", "bias", "last_bias", "token", "slope")
SITES = MATRIX_SITES + VECTOR_SITES


@dataclass(frozen=True)
class Slot:
    """One parameter to be predicted, seen as ``[rows, columns, grid]``.

    Attributes:
        name: The parameter's name.
        node: Index of the node that reads it, or of the layer whose weight is computed from it.
        site: One of :data:`SITES`.
        shape: The parameter's own shape.
        rows: Output channels (of one group, where transposed); classes in the last layer; entries of a table; length of
            a vector.
        columns: Input channels (of one group, unless transposed); 1 for vectors and depthwise kernels.
        grid: Kernel positions, or the positions of an image that was flattened before a linear layer.
        transposed: The shape holds columns before rows.
        fan_in: Values that one output sums over.
        groups: Groups of a grouped convolution.
    """

    name: str
    node: int
    site: str
    shape: tuple[int, ...]
    rows: int
    columns: int = 1
    grid: tuple[int, ...] = ()
    transposed: bool = False
    fan_in: int = 1
    groups: int = 1

    @property
    def is_matrix(self) -> bool:
        """Whether the parameter has rows and columns."""
        return self.site in MATRIX_SITES

    @property
    def positions(self) -> int:
        """Number of grid positions."""
        return math.prod(self.grid)


def slots_of(graph: ComputationalGraph) -> tuple[Slot, ...]:
    """Describe every parameter that an operation of ``graph`` reads, in the order of the operations."""
    users = _users(graph)
    weighted = [users[i] == i and _is_weighted(node, graph) for i, node in enumerate(graph.nodes)]
    after_weight = [False] * len(graph.nodes)  # a weight lies upstream
    for i, sources in enumerate(graph.incoming):
        after_weight[i] = any(weighted[s] or after_weight[s] for s in sources)
    before_weight = [False] * len(graph.nodes)
    for i in range(len(graph.nodes) - 1, -1, -1):
        if weighted[i] or before_weight[i]:
            for source in graph.incoming[i]:
                before_weight[source] = True
    slots = []
    for i, node in enumerate(graph.nodes):
        user = users[i]
        first, last = not after_weight[user], not before_weight[user]
        for role, name in node.parameters.items():
            shape = graph.parameter_shapes[name]
            if user != i:
                role = "weight" if len(_long_axes(shape)) > 1 else "gain"
            flattened = _flattened(graph, weighted, user, shape) if role == "weight" else ()
            slots.append(_slot(name, user, graph.nodes[user], role, shape, first, last, flattened))
    return tuple(slots)


def _users(graph: ComputationalGraph) -> list[int]:
    """For each node the layer whose weight it computes from parameters alone, as weight norm does; else the node."""
    users = list(range(len(graph.nodes)))
    reads_data = [node.op == "input" for node in graph.nodes]
    for i, sources in enumerate(graph.incoming):
        reads_data[i] |= any(reads_data[source] for source in sources)
    for target in range(len(graph.nodes) - 1, -1, -1):
        node = graph.nodes[target]
        takes_weight = _is_layer(node) and "weight" not in node.parameters
        for source in graph.incoming[target]:
            computes = not reads_data[source] and not _is_layer(graph.nodes[source])
            if computes and graph.nodes[source].op != "embedding" and (takes_weight or users[target] != target):
                users[source] = users[target]
    return users


def _is_layer(node: OpNode) -> bool:
    """Whether the operation multiplies by a weight; a tied or computed one is not among its parameters."""
    return node.op in ("linear", "addmm", "bilinear") or "conv" in node.op


def _is_weighted(node: OpNode, graph: ComputationalGraph) -> bool:
    shapes = [graph.parameter_shapes[name] for role, name in node.parameters.items() if "weight" in role]
    return _is_layer(node) or any(len(_long_axes(shape)) > 1 for shape in shapes)


def _long_axes(shape: Sequence[int]) -> list[int]:
    return [size for size in shape if size != 1]


def _flattened(
    graph: ComputationalGraph, weighted: list[bool], node: int, shape: tuple[int, ...]
) -> tuple[int, tuple[int, ...]] | tuple[()]:
    """Channels and grid of the image that was flattened into the input of a linear layer, if one was.

    The image is told by its size, because features are made of graphs without the operation that flattened it.
    """
    output = graph.nodes[node].shape
    if graph.nodes[node].op != "linear" or len(shape) != 2 or len(output) != 2:
        return ()  # tokens keep their axes
    current = node
    while graph.incoming[current]:
        current = graph.incoming[current][0]
        image = graph.nodes[current].shape
        if len(image) > 2 and image[0] == output[0] and math.prod(image[1:]) == shape[1]:
            return (image[1], tuple(image[2:])) if image[1] != shape[1] else ()  # one position is no image
        if weighted[current]:
            return ()
    return ()


def _slot(
    name: str,
    index: int,
    node: OpNode,
    role: str,
    shape: tuple[int, ...],
    first: bool,
    last: bool,
    flattened: tuple[int, tuple[int, ...]] | tuple[()],
) -> Slot:
    if 0 in shape:
        return Slot(name, index, "token", shape, 0)
    if node.op in NORM_OPS:
        site = "shift" if "bias" in role else "scale"
        return Slot(name, index, site, shape, math.prod(shape))
    if "bias" in role:
        return Slot(name, index, "last_bias" if last else "bias", shape, math.prod(shape))
    if node.op in ("embedding", "embedding_bag") and len(shape) == 2:
        # An entry is of the size of a weight that sums over it, as the tied head of a language model does.
        return Slot(name, index, "table", shape, shape[0], shape[1], fan_in=shape[1])
    if "weight" in role and len(shape) > 1 and (len(_long_axes(shape)) > 1 or len(shape) == 2 or "conv" in node.op):
        return _weight_slot(name, index, node, shape, first, last, flattened)
    long_axes = _long_axes(shape)
    if len(long_axes) > 1:  # a positional table, or a weight that the network keeps by itself
        return Slot(name, index, "table", shape, math.prod(long_axes[:-1]), long_axes[-1], fan_in=long_axes[-1])
    site = {"cat": "token", "add": "bias", "mul": "scale", "prelu": "slope"}.get(node.op, "token")
    if role == "gain":  # of a weight that is computed
        site = "scale"
    return Slot(name, index, site, shape, math.prod(shape))


def _weight_slot(
    name: str,
    index: int,
    node: OpNode,
    shape: tuple[int, ...],
    first: bool,
    last: bool,
    flattened: tuple[int, tuple[int, ...]] | tuple[()],
) -> Slot:
    transposed = node.op == "addmm" or node.op.startswith("conv_transpose")
    rows, columns = (shape[1], shape[0]) if transposed else (shape[0], shape[1])
    grid: tuple[int, ...] = tuple(shape[2:])
    groups = int(node.attributes.get("groups", 1))
    fan_in = columns * math.prod(grid) // (groups if transposed else 1)
    if "conv" in node.op:
        if groups > 1 and columns == 1:
            site = "depthwise"
        else:
            site = (
                "first_conv"
                if first
                else "conv"
                if math.prod(grid) > 1
                else "last"
                if last
                else "pointwise"
                if rows == columns
                else "widen"
                if rows > columns
                else "narrow"
            )
        return Slot(name, index, site, shape, rows, columns, grid, transposed, fan_in, groups)
    if flattened:
        columns, grid = flattened
        site = "first_linear" if first else "last_flat" if last else "flat"
        return Slot(name, index, site, shape, rows, columns, grid, transposed, fan_in)
    site = "last" if last else "linear" if rows == columns else "expand" if rows > columns else "reduce"
    return Slot(name, index, site, shape, rows, columns, grid, transposed, fan_in)
