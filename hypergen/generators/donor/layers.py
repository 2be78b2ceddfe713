"""The layers of a traced network in one form, however the network spells them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from hypergen.graph import ComputationalGraph, OpNode
from hypergen.graph.operations import ATTENTIONS

# Operations that compute the same up to the layout of the weight.
_PRODUCTS = frozenset(("linear", "addmm", "matmul", "mm"))
_MEETING = frozenset(("add", "mul", "cat"))


@dataclass(frozen=True)
class Layer:
    """An operation with parameters, described without its width.

    Projections to queries, keys and values that a network keeps apart are one layer, as are those of
    ``nn.MultiheadAttention``, and a 1×1 convolution is a linear layer, so that spellings of one function match.

    Attributes:
        node: Number of the (first) node in its graph.
        kind: What it computes; layers of another kind never match.
        tensors: Role → names of the parameters that, one behind the other along the output axis, are it.
        settings: Roles, stride, grouping, whether the layer widens or narrows, and where branches meet behind it;
            should agree.
        sizes: Logarithms of the output and input width.
        transposed: Whether the weight is laid out [in, out].
    """

    node: int
    kind: str
    tensors: Mapping[str, tuple[str, ...]]
    settings: tuple[object, ...] = ()
    sizes: tuple[float, float] = (0.0, 0.0)
    transposed: bool = False
    attributes: Mapping[str, object] = field(default_factory=dict)

    @property
    def ends_branch(self) -> bool:
        """Whether its value is added to others before the next layer."""
        return "add" in self.settings[-1]  # type: ignore[operator]


def layers_of(graph: ComputationalGraph) -> list[Layer]:
    """The layers of a network, in the order in which they ran."""
    meets = _meets(graph)
    joined = _joined_projections(graph)
    skipped = {number for group in joined.values() for number in group[1:]}
    found: list[Layer] = []
    for number, node in enumerate(graph.nodes):
        if not node.parameters or number in skipped:
            continue
        if node.op == "multi_head_attention":
            found += _attention_layers(number, node, graph, meets[number])
            continue
        members = [graph.nodes[other] for other in joined.get(number, [number])]
        tensors = {role: tuple(member.parameters[role] for member in members) for role in node.parameters}
        found.append(
            _layer(number, node.op, tensors, node.attributes, graph, () if len(members) > 1 else meets[number])
        )
    return found


def _layer(
    number: int,
    op: str,
    tensors: Mapping[str, tuple[str, ...]],
    attributes: Mapping[str, object],
    graph: ComputationalGraph,
    meets: tuple[str, ...],
) -> Layer:
    shapes = {role: [graph.parameter_shapes[name] for name in names] for role, names in tensors.items()}
    main = max((parts[0] for parts in shapes.values()), key=lambda shape: (len(shape), math.prod(shape)))
    parts = max(map(len, shapes.values()))
    transposed = op in _PRODUCTS and op != "linear"
    rows, columns = (main[0] * parts, main[1]) if len(main) > 1 else (math.prod(main), math.prod(main))
    if transposed:
        rows, columns = main[-1], main[0]
    groups = attributes.get("groups", 1)
    grouping = "dense" if groups == 1 else "depthwise" if groups in (rows, columns) else "grouped"
    kind = "linear" if op in _PRODUCTS else op
    if op.startswith("conv") and grouping == "dense" and all(size == 1 for size in main[2:]):
        kind = "linear"
    widths = len(main) > 1 and grouping == "dense" and op != "embedding"  # a table has as many rows as there are tokens
    direction = (rows > columns) - (rows < columns) if widths else 0
    stride = "" if kind == "linear" else str(attributes.get("stride", ""))
    roles = tuple(sorted(role for role in tensors if role in ("weight", "bias")))
    settings = (roles, stride, grouping, direction, meets)
    sizes = (math.log(max(rows, 1)), math.log(max(columns, 1)))
    return Layer(number, kind, tensors, settings, sizes, transposed, attributes)


def _attention_layers(number: int, node: OpNode, graph: ComputationalGraph, meets: tuple[str, ...]) -> list[Layer]:
    """``nn.MultiheadAttention`` as the projection of queries, keys and values, and that of the output."""
    names = dict(node.parameters)
    inward: dict[str, tuple[str, ...]] = {}
    if "in_proj_weight" in names:
        inward["weight"] = (names["in_proj_weight"],)
    elif "q_proj_weight" in names:
        inward["weight"] = tuple(names[f"{part}_proj_weight"] for part in "qkv")
    if "in_proj_bias" in names:
        inward["bias"] = (names["in_proj_bias"],)
    outward = {
        role: (names[key],) for role, key in (("weight", "out_proj_weight"), ("bias", "out_proj_bias")) if key in names
    }
    found = []
    if inward:
        found.append(_layer(number, "linear", inward, {}, graph, ()))
    if outward:
        found.append(_layer(number, "linear", outward, {}, graph, meets))
    return found


def _joined_projections(graph: ComputationalGraph) -> dict[int, list[int]]:
    """First node → nodes of the linear layers that read one value and whose values one attention takes."""
    joined: dict[int, list[int]] = {}
    for number, node in enumerate(graph.nodes):
        if node.op not in ATTENTIONS:
            continue
        sources = sorted(graph.layers_behind(graph.incoming[number]))
        members = [graph.nodes[source] for source in sources]
        if len(sources) == 3 and all(
            member.op == "linear" and member.parameters.keys() == members[0].parameters.keys() for member in members
        ):
            read = {graph.incoming[source] for source in sources}
            if len(read) == 1:
                joined[sources[0]] = sources
    return joined


def _meets(graph: ComputationalGraph) -> list[tuple[str, ...]]:
    """For every node: the operations in which its value meets another one before the next layer."""
    met: list[frozenset[str]] = [frozenset()] * len(graph.nodes)
    for number in range(len(graph.nodes) - 1, -1, -1):
        here: set[str] = set()
        for end in graph.outgoing[number]:
            node = graph.nodes[end]
            if node.op in _MEETING:
                here.add(node.op)
            elif not node.parameters:
                here |= met[end]
        met[number] = frozenset(here)
    return [tuple(sorted(ops)) for ops in met]
