"""Products that sum over axes which their operands share."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypergen.symmetry.axes import Axis
from hypergen.symmetry.rules.base import Operand, RuleContext, broadcast
from hypergen.symmetry.unify import unify


def linear(solver: RuleContext, input: Operand, weight: Operand, bias: Operand | None = None) -> list[Axis]:
    """``weight [out, in]`` on the last axis."""
    contract(solver, input.axes[-1], weight.axes[-1])
    for operand in (input, weight):
        solver.mix(operand, [-1])
    outs = weight.axes[:-1]
    if bias is not None:
        unify(outs[0], bias.axes[0])
    return [*input.axes[:-1], *outs]


def contract(solver: RuleContext, one: Axis, other: Axis, shared: list[Axis] | None = None) -> None:
    """Sum the products along an axis of two tensors, for every index of the axes that they share."""
    unify(one, other)
    solver.carriers.append([*(shared or ()), one])
    solver.summed.append(one)


def matmul(solver: RuleContext, input: Operand, other: Operand) -> list[Axis]:
    """Matrix products with broadcast batches; vectors stand for matrices of one row or column."""
    left, right = input.axes, other.axes
    rows, columns = left[:-1][-1:], right[-1:] if len(right) > 1 else []
    batches = [Operand(left[:-2]), Operand(right[:-2])]
    batch = broadcast(batches) if any(operand.axes for operand in batches) else []
    shared = [a for a, b in zip(left[:-2][::-1], right[:-2][::-1], strict=False) if a.size == b.size]
    contract(solver, left[-1], right[-2] if len(right) > 1 else right[-1], shared)
    solver.mix(input, [-1])
    solver.mix(other, [-2 if len(right) > 1 else -1])
    return [*batch, *rows, *columns]


def rmatmul(solver: RuleContext, input: Operand, other: Operand) -> list[Axis]:
    """``other @ input``."""
    return matmul(solver, other, input)


def addmm(solver: RuleContext, input: Operand, mat1: Operand, mat2: Operand, **_: Any) -> list[Axis]:
    """A matrix product on top of a tensor: ``addmm``, ``baddbmm``, ``addmv``."""
    return broadcast([Operand(matmul(solver, mat1, mat2)), input])


def baddbmm(solver: RuleContext, input: Operand, batch1: Operand, batch2: Operand, **_: Any) -> list[Axis]:
    """Matrix products on top of a tensor."""
    return addmm(solver, input, batch1, batch2)


def grouped_mm(solver: RuleContext, input: Operand, mat2: Operand, **_: Any) -> list[Axis]:
    """Rows of a matrix, each times the matrix of its expert."""
    if (input.dim(), mat2.dim()) != (2, 3):
        raise ValueError
    solver.mix(mat2, [0], "experts")
    contract(solver, input.axes[1], mat2.axes[1])
    solver.mix(input, [1])
    solver.mix(mat2, [1])
    return [input.axes[0], mat2.axes[2]]


def outer(solver: RuleContext, input: Operand, vec2: Operand) -> list[Axis]:
    """Products of all pairs."""
    return [*input.axes, *vec2.axes]


def bilinear(
    solver: RuleContext, input1: Operand, input2: Operand, weight: Operand, bias: Operand | None = None
) -> list[Axis]:
    """``weight [out, in1, in2]``."""
    contract(solver, input1.axes[-1], weight.axes[1])
    contract(solver, input2.axes[-1], weight.axes[2])
    for operand, dims in ((input1, [-1]), (input2, [-1]), (weight, [1, 2])):
        solver.mix(operand, dims)
    if bias is not None:
        unify(weight.axes[0], bias.axes[0])
    for one, other in zip(input1.axes[:-1], input2.axes[:-1], strict=True):
        unify(one, other)
    return [*input1.axes[:-1], weight.axes[0]]


def einsum(solver: RuleContext, equation: str, *operands: Any) -> list[Axis]:
    """Sums of products in the notation of Einstein."""
    tensors = list(operands[0]) if len(operands) == 1 and isinstance(operands[0], tuple) else list(operands)
    terms, _, out = equation.replace(" ", "").partition("->")
    labels = [_labels(term, tensor.dim()) for term, tensor in zip(terms.split(","), tensors, strict=True)]
    named: dict[str, Axis] = {}
    for term, tensor in zip(labels, tensors, strict=True):
        if len(set(term)) < len(term):
            raise ValueError  # a diagonal
        for label, axis in zip(term, tensor.axes, strict=True):
            if label in named and axis.size != 1 and named[label].size != 1:
                unify(named[label], axis)
            elif label not in named or named[label].size == 1:
                named[label] = axis
    counts = Counter(label for term in labels for label in term)
    if "->" in equation:
        dots = max((len([label for label in term if label.isdigit()]) for term in labels), default=0)
        result = _labels(out, len(out.replace("...", "")) + (dots if "..." in out else 0))
    else:
        result = sorted(label for label, count in counts.items() if count == 1 or label.isdigit())
    for label in counts.keys() - set(result):
        holders = [set(term) for term in labels if label in term]
        solver.carriers.append([named[shared] for shared in set.intersection(*holders)])
        solver.summed.append(named[label])
    for term, tensor in zip(labels, tensors, strict=True):
        solver.mix(tensor, [dim for dim, label in enumerate(term) if label not in result])
    return [named[label] for label in result]


def _labels(term: str, count: int) -> list[str]:
    """A label per axis; those under the dots are numbered from the last one."""
    before, dots, after = term.partition("...")
    if not dots:
        return list(term)
    hidden = count - len(before) - len(after)
    return [*before, *(str(number) for number in range(hidden - 1, -1, -1)), *after]


RULES: dict[str, Any] = {
    "linear": linear, "matmul": matmul, "rmatmul": rmatmul, "bmm": matmul, "mm": matmul, "mv": matmul, "dot": matmul,
    "addmm": addmm, "addmv": addmm, "baddbmm": baddbmm, "outer": outer, "ger": outer, "bilinear": bilinear,
    "einsum": einsum, "grouped_mm": grouped_mm,
}  # fmt: skip
