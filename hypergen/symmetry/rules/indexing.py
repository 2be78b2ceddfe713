"""Operations that pick elements by index."""

from __future__ import annotations

from typing import Any

from hypergen.symmetry.axes import Axis, divide, find, freeze, frozen
from hypergen.symmetry.rules.base import Operand, RuleContext, broadcast
from hypergen.symmetry.rules.shapes import narrow
from hypergen.symmetry.unify import unify

INDEXED = "indexed by data"


def getitem(solver: RuleContext, input: Operand, index: Any) -> list[Axis]:
    """Indexing with integers, ranges, None, an ellipsis and tensors of integers."""
    items = list(index) if isinstance(index, tuple) else [index]
    consumed = sum(item is not None and item is not ... for item in items)
    if ... in [item for item in items if not isinstance(item, Operand)]:
        place = next(i for i, item in enumerate(items) if item is ...)
        items[place : place + 1] = [slice(None)] * (input.dim() - consumed)
    else:
        items += [slice(None)] * (input.dim() - consumed)
    axes, dim = list(input.axes), 0
    tensors: list[tuple[int, Operand]] = []
    for item in items:
        if item is None:
            axes.insert(dim, Axis(1))
        elif isinstance(item, bool):
            raise ValueError
        elif isinstance(item, int):
            axes = narrow(solver, Operand(axes), dim, item, 1)
            del axes[dim]
            dim -= 1
        elif isinstance(item, slice):
            axes = _range(solver, Operand(axes), dim, item)
        elif isinstance(item, Operand):
            tensors.append((dim, item))
        elif isinstance(item, list) and all(type(place) is int for place in item):
            if len(item) == 1:
                axes = narrow(solver, Operand(axes), dim, item[0], 1)
            else:
                tensors.append((dim, Operand([frozen(len(item), INDEXED)])))
        else:
            raise ValueError
        dim += 1
    return _picked(solver, Operand(axes), tensors) if tensors else axes


def _range(solver: RuleContext, input: Operand, dim: int, item: slice) -> list[Axis]:
    size = input.axes[dim].size
    start, stop, step = slice(*(_plain(a) for a in (item.start, item.stop, item.step))).indices(size)
    count = len(range(start, stop, step))
    if count == size:
        return input.axes
    if step == 1 and count:
        return narrow(solver, input, dim, start, count)
    axes = list(input.axes)
    pair = divide(axes[dim], [count, step]) if size == count * step and not find(axes[dim]).reason else None
    if pair is not None and start < step:  # every step-th element: one index of the inner factor
        factored = Operand([*axes[:dim], *pair, *axes[dim + 1 :]])
        axes = narrow(solver, factored, dim + 1, start, 1)
        del axes[dim + 1]
        return axes
    solver.mix(input, [dim], "cut in steps")
    axes[dim] = frozen(count, "cut in steps")
    return axes


def _plain(bound: Any) -> int | None:
    if bound is None or isinstance(bound, int):
        return bound
    raise ValueError  # a tensor's value


def _picked(solver: RuleContext, input: Operand, tensors: list[tuple[int, Operand]]) -> list[Axis]:
    dims = [dim for dim, _ in tensors]
    solver.mix(input, dims, INDEXED)
    chosen = broadcast([tensor for _, tensor in tensors])
    rest = [axis for dim, axis in enumerate(input.axes) if dim not in dims]
    place = dims[0] if dims == list(range(dims[0], dims[0] + len(dims))) else 0
    return [*rest[:place], *chosen, *rest[place:]]


def setitem(solver: RuleContext, input: Operand, index: Any, value: Any) -> list[Axis]:
    """Writing to an index."""
    target = getitem(solver, input, index)
    if isinstance(value, Operand):
        broadcast([Operand(target), value])
    return input.axes


def embedding(solver: RuleContext, input: Operand, weight: Operand, *_: Any, **__: Any) -> list[Axis]:
    """A row of a table per index."""
    solver.mix(weight, [0], INDEXED)
    return [*input.axes, weight.axes[1]]


def embedding_bag(solver: RuleContext, input: Operand, weight: Operand, *_: Any, **__: Any) -> list[Axis]:
    """Sums of rows of a table."""
    solver.mix(weight, [0], INDEXED)
    solver.mix(input, range(input.dim()), INDEXED)
    return [frozen(solver.outputs[0][0], INDEXED), weight.axes[1]]


def index_select(solver: RuleContext, input: Operand, dim: int, index: Operand) -> list[Axis]:
    """Rows of a tensor."""
    dim %= input.dim()
    solver.mix(input, [dim], INDEXED)
    return [*input.axes[:dim], *(index.axes or [Axis(1)]), *input.axes[dim + 1 :]]


def gather(solver: RuleContext, input: Operand, dim: int, index: Operand, **_: Any) -> list[Axis]:
    """An index per element of the output."""
    dim %= input.dim()
    solver.mix(input, [dim], INDEXED)
    solver.mix(index, [dim], INDEXED)
    _along(index, input, dim)
    return index.axes


def scatter(
    solver: RuleContext, input: Operand, dim: int, index: Operand, src: Any = None, *_: Any, **__: Any
) -> list[Axis]:
    """Writes, one index per element."""
    dim %= input.dim()
    for tensor in (input, index, src):
        if isinstance(tensor, Operand):
            solver.mix(tensor, [dim], INDEXED)
            _along(index, tensor, dim)
    return input.axes


def index_add(
    solver: RuleContext, input: Operand, dim: int, index: Operand, source: Any, *_: Any, **__: Any
) -> list[Axis]:
    """Rows added to, or copied into, a tensor."""
    solver.mix(input, [dim], INDEXED)
    solver.mix(index, [0], INDEXED)
    if isinstance(source, Operand):
        solver.mix(source, [dim], INDEXED)
        _along(source, input, dim % input.dim())
    return input.axes


def masked_scatter(solver: RuleContext, input: Operand, mask: Operand, source: Operand) -> list[Axis]:
    """Rows of a tensor put where a mask tells, the same for all features."""
    same_for_all = mask.dim() - 1 in mask.constant or mask.axes[-1].size == 1
    if input.dim() < 2 or source.shape[-1:] != input.shape[-1:] or not same_for_all:
        raise ValueError
    unify(input.axes[-1], source.axes[-1])
    for tensor in (input, mask, source):
        solver.mix(tensor, range(tensor.dim() - 1), INDEXED)
    return input.axes


def _along(one: Operand, other: Operand, dim: int) -> None:
    for place, (a, b) in enumerate(zip(one.axes, other.axes, strict=True)):
        if place == dim:
            continue
        if a.size == b.size:
            unify(a, b)
        else:
            freeze(a, INDEXED)
            freeze(b, INDEXED)


def ordered(solver: RuleContext, input: Operand, *args: Any, **kwargs: Any) -> list[list[Axis]]:
    """Sorting: ``topk``, ``sort`` and ``argsort`` tell where the elements were."""
    numbers = [argument for argument in args if type(argument) is int]
    dim = kwargs.get("dim", numbers[-1] if numbers else -1)
    return _sorted(solver, input, dim)


def topk(solver: RuleContext, input: Operand, k: int, dim: int = -1, *_: Any, **__: Any) -> list[list[Axis]]:
    """The largest elements, and where they were."""
    return _sorted(solver, input, dim)


def _sorted(solver: RuleContext, input: Operand, dim: int) -> list[list[Axis]]:
    dim %= input.dim()
    solver.mix(input, [dim], "put in order")
    place = frozen(solver.outputs[0][dim], "put in order")
    return [[*input.axes[:dim], place, *input.axes[dim + 1 :]] for _ in solver.outputs]


def one_hot(solver: RuleContext, input: Operand, *_: Any, **__: Any) -> list[Axis]:
    """A new axis of classes."""
    return [*input.axes, frozen(solver.outputs[0][-1], "classes")]


RULES: dict[str, Any] = {
    "getitem": getitem, "setitem": setitem, "embedding": embedding, "embedding_bag": embedding_bag,
    "index_select": index_select, "gather": gather, "take_along_dim": gather,
    "scatter": scatter, "scatter_add": scatter, "scatter_reduce": scatter,
    "index_add": index_add, "index_copy": index_add, "index_fill": index_add,
    "masked_scatter": masked_scatter,
    "topk": topk, "sort": ordered, "argsort": ordered, "one_hot": one_hot,
}  # fmt: skip
