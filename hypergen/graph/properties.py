"""What a right graph has to fulfil, checked on any traced network."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from hypergen.graph.computational_graph import ComputationalGraph, OpNode

_FIELD_TERM = re.compile(r"[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*")

_CONV = ("stride", "padding", "dilation", "groups")
_POOL = ("kernel_size", "stride", "padding")

# Operation → the attributes without which nobody can tell what it computes.
REQUIRED_ATTRIBUTES: dict[str, tuple[str, ...]] = {
    **{f"conv{n}d": _CONV for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": (*_CONV, "output_padding") for n in (1, 2, 3)},
    **{f"max_pool{n}d": _POOL for n in (1, 2, 3)},
    **{f"avg_pool{n}d": _POOL for n in (1, 2, 3)},
    **{f"adaptive_{kind}_pool{n}d": ("output_size",) for n in (1, 2, 3) for kind in ("avg", "max")},
    "group_norm": ("num_groups",),
    "layer_norm": ("normalized_shape",),
    "rms_norm": ("normalized_shape",),
    "cat": ("dim",),
    "stack": ("dim",),
    "softmax": ("dim",),
    "log_softmax": ("dim",),
    "chunk": ("chunks", "dim"),
    "split": ("split_size", "dim"),
    "unbind": ("dim",),
    "transpose": ("dim0", "dim1"),
    "permute": ("dims",),
    "flatten": ("start_dim", "end_dim"),
    "squeeze": (),
    "unsqueeze": ("dim",),
    "einsum": ("equation",),
    "topk": ("k", "dim"),
    "scaled_dot_product_attention": ("num_heads", "head_dim"),
    "multi_head_attention": ("num_heads", "head_dim"),
}


def violations(graph: ComputationalGraph, model: nn.Module | None = None) -> list[str]:
    """Say in which ways a graph is not a right one.

    Checked are the order of the nodes, that each of them comes from an input or a parameter and matters to an output,
    that every parameter lies on one node or is unused, that shapes fit those of parameters and operands, and that
    operations have field terms as names and the attributes that decide what they compute.

    Args:
        graph: The graph.
        model: The network that it was traced from, to compare the parameters and modules with.

    Returns:
        A sentence per violation; none for a right graph.
    """
    return [*_order(graph), *_reachability(graph), *_parameters(graph, model), *_shapes(graph), *_vocabulary(graph)]


def _called(graph: ComputationalGraph, index: int) -> str:
    node = graph.nodes[index]
    return f"node {index} ({node.op}{f' in {node.module!r}' if node.module else ''})"


def _order(graph: ComputationalGraph) -> Iterator[str]:
    pairs = graph.edges.t().tolist()
    for source, target in pairs:
        if not 0 <= source < target < len(graph.nodes):
            yield f"edge {source} → {target} does not go forwards"
    for (source, target), count in Counter(map(tuple, pairs)).items():
        if count > 1:
            yield f"edge {source} → {target} is there {count} times"


def _reachability(graph: ComputationalGraph) -> Iterator[str]:
    fed = set(graph.edges[1].tolist())
    for i, node in enumerate(graph.nodes):
        if i not in fed and node.op != "input" and not node.parameters and not node.shared:
            yield f"{_called(graph, i)} comes from no input and no parameter"
        if i in fed and node.op == "input":
            yield f"{_called(graph, i)} is an input that something feeds"
    if graph.outputs:
        # What an operation reads is named even where its result goes nowhere.
        matters = set(graph.outputs) | {i for i, node in enumerate(graph.nodes) if node.parameters or node.shared}
        for source, target in sorted(graph.edges.t().tolist(), reverse=True):
            if target in matters:
                matters.add(source)
        for i, node in enumerate(graph.nodes):
            if i not in matters and node.op != "input":
                yield f"{_called(graph, i)} reaches no output and no parameter"


def _parameters(graph: ComputationalGraph, model: nn.Module | None) -> Iterator[str]:
    owners: dict[str, list[int]] = {}
    for i, node in enumerate(graph.nodes):
        for name in node.parameters.values():
            owners.setdefault(name, []).append(i)
        for name in node.shared.values():
            if not owners.get(name) or i in owners[name]:
                yield f"{_called(graph, i)} shares {name!r}, which no earlier node owns"
    for name, indices in owners.items():
        if len(indices) > 1:
            yield f"{name!r} is on {len(indices)} nodes: {', '.join(_called(graph, i) for i in indices)}"
        if name not in graph.parameter_shapes:
            yield f"{name!r} on {_called(graph, indices[0])} is no parameter of the network"
    for name in graph.parameter_shapes:
        if (name in owners) == (name in graph.unused_parameters):
            yield f"{name!r} is {'on a node and' if name in owners else 'neither on a node nor'} listed as unused"
    if model is None:
        return
    expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    if expected != dict(graph.parameter_shapes):
        wrong = [name for name in {**expected, **graph.parameter_shapes} if _differ(name, expected, graph)]
        yield f"the parameters are not those of the model: {', '.join(wrong[:5])}"
    modules = {name for name, _ in model.named_modules()}
    for i, node in enumerate(graph.nodes):
        if node.module not in modules:
            yield f"{_called(graph, i)} names a module that the model does not have"


def _differ(name: str, expected: dict[str, tuple[int, ...]], graph: ComputationalGraph) -> bool:
    return expected.get(name) != graph.parameter_shapes.get(name)


def _shapes(graph: ComputationalGraph) -> Iterator[str]:
    for i, node in enumerate(graph.nodes):
        # Further outputs of an operation may have other shapes than its first, which the node tells.
        sources = [graph.nodes[s].shape for s in graph.incoming[i] if graph.nodes[s].op not in _SEVERAL_OUTPUTS]
        weight = graph.parameter_shapes.get(node.parameters.get("weight") or node.shared.get("weight", ""))
        for complaint in _complaints(node, sources if len(sources) == len(graph.incoming[i]) else [], weight):
            yield f"{_called(graph, i)} of shape {node.shape} {complaint}"


_SEVERAL_OUTPUTS = frozenset(
    ("chunk", "split", "split_with_sizes", "tensor_split", "topk", "max", "min", "lstm", "gru")
)


def _complaints(node: OpNode, sources: list[tuple[int, ...]], weight: tuple[int, ...] | None) -> Iterator[str]:
    shape, groups = node.shape, int(node.attributes.get("groups", 1))
    one = sources[0] if len(sources) == 1 else None
    if weight and node.op == "linear" and len(weight) == 2:
        if shape[-1] != weight[0]:
            yield f"has other features than its weight {weight}"
        if one and one[-1] != weight[1]:
            yield f"reads {one}, which does not fit its weight {weight}"
    elif weight and re.fullmatch(r"conv(_transpose)?\dd", node.op) and len(weight) > 2:
        axis = 1 - len(weight)
        inside, outside = (weight[1] * groups, weight[0])
        if "transpose" in node.op:
            inside, outside = weight[0], weight[1] * groups
        if shape[axis] != outside:
            yield f"has other channels than its weight {weight}"
        if one and len(one) >= len(weight) - 1 and one[axis] != inside:
            yield f"reads {one}, which does not fit its weight {weight} in {groups} groups"
    elif weight and node.op == "embedding" and len(weight) == 2 and shape[-1] not in weight:
        yield f"has other features than its table {weight}"
    elif weight and node.op == "layer_norm" and node.attributes["normalized_shape"] != weight:
        yield f"does not fit its weight {weight}"
    elif (
        weight
        and node.op in ("batch_norm", "group_norm", "instance_norm")
        and len(weight) == 1
        and shape[1:2] != weight
    ):
        yield f"does not fit its weight {weight}"
    elif node.op == "cat" and len(sources) > 1 and not node.parameters and not node.shared:
        # Constants among the parts are not nodes, so there may be more than the sources tell.
        axis = node.attributes.get("dim", 0) % len(shape)
        if sum(source[axis] for source in sources if len(source) == len(shape)) > shape[axis]:
            yield f"joins {sources} along axis {axis}"
    elif node.op in ("reshape", "flatten", "permute", "transpose") and one and math.prod(one) != math.prod(shape):
        yield f"has not the values of {one}"


def _vocabulary(graph: ComputationalGraph) -> Iterator[str]:
    for i, node in enumerate(graph.nodes):
        if not _FIELD_TERM.fullmatch(node.op):
            yield f"{_called(graph, i)} has a name that is no field term"
        if missing := [key for key in REQUIRED_ATTRIBUTES.get(node.op, ()) if key not in node.attributes]:
            yield f"{_called(graph, i)} lacks the attributes {', '.join(missing)}"
