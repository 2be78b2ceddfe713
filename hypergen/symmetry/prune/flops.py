"""Floating-point operations of a network of any sizes, counted on its graph: two for each product of a sum.

As PyTorch's ``FlopCounterMode`` counts them: matrix products, convolutions and attention, nothing else. No pass is run,
so that networks are counted, too, that cannot be run on shapes alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hypergen.graph.calls import Call, Value

if TYPE_CHECKING:
    from hypergen.symmetry.prune.plan import Plan

Shape = tuple[int, ...]
ShapeOf = Callable[[Value], Shape]


def count_flops(plan: Plan, counts: Mapping[str, int] | None = None) -> int:
    """The operations of one pass.

    Args:
        plan: Plan of the network.
        counts: Group name → how many of its units are left.
    """
    sizes = plan.all_shapes(counts or {})
    return sum(_RULES[call.op](call, sizes.__getitem__) for call in plan.calls if call.op in _RULES)


def _operand(call: Call, place: int, *names: str) -> Any:
    for name in names:
        if name in call.kwargs:
            return call.kwargs[name]
    return call.args[place] if len(call.args) > place else None


def _linear(call: Call, shape: ShapeOf) -> int:
    source, weight = shape(_operand(call, 0, "input")), shape(_operand(call, 1, "weight"))
    return 2 * math.prod(source) * math.prod(weight[:-1])


def _matmul(call: Call, shape: ShapeOf) -> int:
    one, other = _operand(call, 0, "input", "mat1", "batch1"), _operand(call, 1, "other", "mat2", "vec2", "tensor")
    if call.op == "rmatmul":
        one, other = other, one
    if not isinstance(one, Value) or not isinstance(other, Value):
        return 0
    out = shape(call.outputs[0])
    return 2 * math.prod(out) * shape(one)[-1]


def _added(call: Call, shape: ShapeOf) -> int:
    return 2 * math.prod(shape(call.outputs[0])) * shape(_operand(call, 1, "mat1", "batch1"))[-1]


def _convolution(call: Call, shape: ShapeOf) -> int:
    source, weight = shape(_operand(call, 0, "input")), shape(_operand(call, 1, "weight"))
    out = shape(call.outputs[0])
    rank = len(weight) - 2
    space = source if "transpose" in call.op else out
    batch = source[0] if len(source) == rank + 2 else 1
    return 2 * batch * math.prod(space[-rank:]) * math.prod(weight)


def _attention(call: Call, shape: ShapeOf) -> int:
    query, key, value = (shape(_operand(call, i, name)) for i, name in enumerate(("query", "key", "value")))
    batch = math.prod(query[:-2])
    return 2 * batch * query[-2] * key[-2] * (query[-1] + value[-1])


def _multi_head_attention(call: Call, shape: ShapeOf) -> int:
    query, key, value = (shape(_operand(call, i, name)) for i, name in enumerate(("query", "key", "value")))
    out = shape(_operand(call, 11, "out_proj_weight"))
    width = out[1]
    batch = query[1] if len(query) == 3 else 1
    queries, keys = query[0], key[0]
    projections = queries * query[-1] + keys * key[-1] + keys * value[-1]
    return 2 * batch * (projections * width + 2 * queries * keys * width + queries * math.prod(out))


def _recurrent(call: Call, shape: ShapeOf) -> int:
    """Every weight matrix once per step and example; a cell's, once per example."""
    weights = [argument for argument in call.args if isinstance(argument, (tuple, list))]
    tensors = [item for items in weights for item in items if isinstance(item, Value)]
    tensors += [argument for argument in call.args[2:] if isinstance(argument, Value)]
    matrices = [shape(tensor) for tensor in tensors if len(shape(tensor)) == 2]
    source = shape(call.args[0])
    return 2 * math.prod(source[:-1]) * sum(math.prod(matrix) for matrix in matrices)


def _bilinear(call: Call, shape: ShapeOf) -> int:
    weight = shape(_operand(call, 2, "weight"))
    return 2 * math.prod(shape(call.args[0])[:-1]) * math.prod(weight)


def _einsum(call: Call, shape: ShapeOf) -> int:
    """Every index of the product once."""
    equation, *tensors = call.args
    if len(tensors) == 1 and isinstance(tensors[0], (tuple, list)):
        tensors = list(tensors[0])
    if not isinstance(equation, str) or len(tensors) < 2 or not all(isinstance(t, Value) for t in tensors):
        return 0
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    sizes: dict[str, int] = {}
    for term, tensor in zip(terms, tensors, strict=False):
        for label, size in zip(_labels(term, len(shape(tensor))), shape(tensor), strict=False):
            sizes[label] = max(size, sizes.get(label, 1))
    return 2 * (len(tensors) - 1) * math.prod(sizes.values())


def _labels(term: str, count: int) -> Sequence[str]:
    before, dots, after = term.partition("...")
    hidden = count - len(before) - len(after) if dots else 0
    return [*before, *(f".{number}" for number in range(hidden, 0, -1)), *after]


_RULES: dict[str, Callable[[Call, ShapeOf], int]] = {
    "linear": _linear, "bilinear": _bilinear, "einsum": _einsum,
    **dict.fromkeys(("matmul", "rmatmul", "bmm", "mm", "mv", "dot", "grouped_mm"), _matmul),
    **dict.fromkeys(("addmm", "addmv", "baddbmm"), _added),
    **{f"conv{kind}{rank}d": _convolution for kind in ("", "_transpose") for rank in (1, 2, 3)},
    "scaled_dot_product_attention": _attention, "multi_head_attention": _multi_head_attention,
    **dict.fromkeys("lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell".split(), _recurrent),
}  # fmt: skip
