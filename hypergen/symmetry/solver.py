"""Reads the calls of a forward pass and works out what every axis is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hypergen.graph.calls import Call, Calls, Value
from hypergen.symmetry.axes import Axis, freeze, frozen
from hypergen.symmetry.unify import unify

UNSUPPORTED = "unsupported operation "
_EXPANSIONS = ("expand", "expand_as", "broadcast_to")
_CONVERSIONS = ("to", "bool", "contiguous", "clone", "detach")
# Buffers that follow their channels; all others are part of the architecture.
_STATISTICS = ("running_mean", "running_var")


class Operand:
    """A tensor that an operation reads: one axis per dimension.

    Attributes:
        axes: The axes.
        constant: Dimensions along which the tensor is known to be constant, though they have many indices.
    """

    __slots__ = ("axes", "constant")

    def __init__(self, axes: Sequence[Axis], constant: frozenset[int] = frozenset()) -> None:
        self.axes = list(axes)
        self.constant = constant

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the axes."""
        return tuple(axis.size for axis in self.axes)

    def dim(self) -> int:
        """The number of axes."""
        return len(self.axes)


class Solver:
    """Applies the rule of every operation to the axes of its tensors.

    Attributes:
        axes: The axes of every tensor.
        carriers: Sets of axes of which any that varies with another must find that one in the same set: those of the
            tensors, and of the products and sums that operations work out inside.
    """

    def __init__(self, calls: Calls, outputs: Sequence[str] | None = None) -> None:
        self.calls = calls
        self.returned = list(calls.outputs if outputs is None else outputs)
        self.axes: dict[Value, list[Axis]] = {}
        self.carriers: list[Sequence[Axis]] = []
        self.outputs: Sequence[tuple[int, ...]] = ()
        self.constant: dict[Value, frozenset[int]] = {}
        free = {*calls.parameters.values()}
        free.update(value for name, value in calls.buffers.items() if name.rsplit(".", 1)[-1] in _STATISTICS)
        given = {value: "an input of the network" for value in calls.inputs}
        for value, shape in calls.shapes.items():
            reason = "" if value in free else given.get(value, "a constant of the network")
            axes = [Axis(size, reason) for size in shape]
            if value in free and len(axes) > 2:  # [heads, width, features], [experts, features, features]
                axes[1].parents.add(axes[0])
                axes[2].parents.update(axes[:2])
            self._set(value, axes)

    def solve(self) -> None:
        """Read all calls."""
        from hypergen.symmetry.rules import RULES

        for call in self._live_calls():
            self.outputs = call.shapes
            rule = RULES.get(call.op)
            results = self._apply(rule, call) if rule else None
            if results is None or tuple(tuple(a.size for a in axes) for axes in results) != call.shapes:
                self._give_up(call)
                continue
            for value, axes in zip(call.outputs, results, strict=True):
                if value in self.axes:  # written in place
                    self._join(self.axes[value], axes)
                else:
                    self._set(value, axes)
                    self._note_constant(call, value)
        self._freeze([self.calls.outputs[name] for name in self.returned], "an output of the network")

    def _live_calls(self) -> list[Call]:
        """The calls on which the outputs depend: of others, as of checks of sizes, only shapes are read."""
        live = {*self.calls.opaque, *(self.calls.outputs[name] for name in self.returned)}
        seen = set(self.calls.shapes)
        writes = set()
        for number, call in enumerate(self.calls.calls):
            if not seen.isdisjoint(call.outputs) or not call.outputs:
                writes.add(number)
            seen.update(call.outputs)
        kept = []
        for number in range(len(self.calls.calls) - 1, -1, -1):
            call = self.calls.calls[number]
            if number in writes or not live.isdisjoint(call.outputs):
                live.update(values_in((call.args, call.kwargs)))
                kept.append(call)
        return kept[::-1]

    def _apply(self, rule: Callable[..., Any], call: Call) -> list[list[Axis]] | None:
        try:
            lists = call.op in ("getitem", "setitem")  # an index that is a list is not one that is a tuple
            args = [self._operand(argument, lists) for argument in call.args]
            kwargs = {key: self._operand(argument, lists) for key, argument in call.kwargs.items()}
            result = rule(self, *args, **kwargs)
        except (ValueError, TypeError, IndexError, KeyError, AttributeError, AssertionError):
            return None  # not called as the rule expects
        if result is None:
            return None
        return result if result and isinstance(result[0], list) else [result]

    def _operand(self, argument: Any, lists: bool = False) -> Any:
        if isinstance(argument, Value):
            return Operand(self.axes[argument], self.constant.get(argument, frozenset()))
        if isinstance(argument, (tuple, list)):
            items = [self._operand(item, lists) for item in argument]
            return items if lists and isinstance(argument, list) else tuple(items)
        if isinstance(argument, slice):
            return slice(*(self._operand(a) for a in (argument.start, argument.stop, argument.step)))
        return argument

    def _note_constant(self, call: Call, value: Value) -> None:
        """Note along which dimensions a mask that was just expanded, or converted after that, is constant."""
        source = next(iter(values_in(call.args)), None)
        if call.op in _EXPANSIONS and source is not None:
            before = [axis.size for axis in self.axes[source]]
            after = call.shapes[0]
            before = [1] * (len(after) - len(before)) + before
            self.constant[value] = frozenset(dim for dim, size in enumerate(after) if before[dim] != size)
        elif call.op in _CONVERSIONS and source in self.constant:
            self.constant[value] = self.constant[source]

    def _give_up(self, call: Call) -> None:
        reason = UNSUPPORTED + call.op
        self._freeze(values_in((call.args, call.kwargs)), reason)
        for value, shape in zip(call.outputs, call.shapes, strict=True):
            axes = self.axes.get(value)
            if axes is None or tuple(axis.size for axis in axes) != shape:
                self._set(value, [frozen(size, reason) for size in shape])
            else:
                self._freeze((value,), reason)

    def _freeze(self, values: Any, reason: str) -> None:
        for value in values:
            for axis in self.axes[value]:
                freeze(axis, reason)

    def _set(self, value: Value, axes: list[Axis]) -> None:
        self.axes[value] = axes
        self.carriers.append(axes)
        if value in self.calls.opaque:
            self._freeze((value,), "memory that is shared in ways that were not seen")

    @staticmethod
    def _join(ones: Sequence[Axis], others: Sequence[Axis]) -> None:
        if len(ones) != len(others):
            raise ValueError
        for one, other in zip(ones, others, strict=True):
            unify(one, other)

    # What rules need

    def mix(self, operand: Operand, dims: Sequence[int], reason: str = "") -> None:
        """Note that an operation mixes the elements along some axes of a tensor.

        Nothing may then vary with these axes. With a reason, they are also frozen.
        """
        count = operand.dim()
        mixed = {dim % count for dim in dims}
        self.carriers.append([axis for dim, axis in enumerate(operand.axes) if dim not in mixed])
        for dim in mixed if reason else ():
            freeze(operand.axes[dim], reason)


def values_in(argument: Any) -> list[Value]:
    """The tensors in nested arguments."""
    if isinstance(argument, Value):
        return [argument]
    if isinstance(argument, dict):
        argument = tuple(argument.values())
    if isinstance(argument, slice):
        argument = (argument.start, argument.stop, argument.step)
    return [value for item in argument for value in values_in(item)] if isinstance(argument, (tuple, list)) else []


def broadcast(operands: Sequence[Operand]) -> list[Axis]:
    """The axes of what is computed element by element from tensors of shapes that broadcast."""
    tensors = [operand for operand in operands if isinstance(operand, Operand)]
    count = max(tensor.dim() for tensor in tensors)
    result: list[Axis] = []
    for dim in range(-count, 0):
        aligned = [tensor.axes[dim] for tensor in tensors if tensor.dim() >= -dim]
        wide = [axis for axis in aligned if axis.size != 1]
        for axis in wide[1:]:
            unify(wide[0], axis)
        result.append(wide[0] if wide else aligned[0])
    return result
