"""Reads the calls of a forward pass and works out what every axis is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hypergen.graph.calls import Call, Calls, Value
from hypergen.symmetry.axes import Axis, freeze, frozen
from hypergen.symmetry.liveness import followed_calls, freeze_unread, freeze_unsummed, values_in
from hypergen.symmetry.rules import RULES
from hypergen.symmetry.rules.base import Operand, RuleContext
from hypergen.symmetry.unify import unify

UNSUPPORTED = "unsupported operation "
_EXPANSIONS = ("expand", "expand_as", "broadcast_to")
_CONVERSIONS = ("to", "bool", "contiguous", "clone", "detach")
# Buffers that follow their channels; all others are part of the architecture.
_STATISTICS = ("running_mean", "running_var")


class Solver(RuleContext):
    """Applies the rule of every operation to the axes of its tensors.

    Attributes:
        axes: The axes of every tensor of the pass that is read.
        first_axes: The same of the first pass.
        named: Name of a parameter or buffer → its axes, the same in all passes.
        tensors: The axes of every tensor of all passes.
    """

    def __init__(self, passes: Sequence[Calls], outputs: Sequence[str] | None = None) -> None:
        super().__init__()
        self.passes = passes
        self.counted = outputs
        self.named: dict[str, list[Axis]] = {}
        self.tensors: list[list[Axis]] = []
        self.first_axes: dict[Value, list[Axis]] = {}
        self.read: set[str] = set()

    def solve(self) -> None:
        """Read all calls of all passes."""
        for number, calls in enumerate(self.passes):
            self.random_is_exchangeable = number > 0
            self._solve_pass(calls)
            self.first_axes = self.first_axes or self.axes
        freeze_unread(self.named, [name for name in self.passes[0].parameters if name not in self.read], self.tensors)
        freeze_unsummed(self.named, self.summed, self.read)

    def _solve_pass(self, calls: Calls) -> None:
        self.calls = calls
        self.axes: dict[Value, list[Axis]] = {}
        self.outputs = ()
        self.constant: dict[Value, frozenset[int]] = {}
        names = {value: name for name, value in ({**calls.buffers, **calls.parameters}).items()}
        for value, shape in calls.shapes.items():
            self._set(value, self._given(value, names.get(value, ""), shape))
        counted = list(calls.outputs if self.counted is None else self.counted)
        if not calls.outputs.keys() & {*counted}:  # in training other things may be returned
            counted = list(calls.outputs)
        returned = [calls.outputs[name] for name in counted if name in calls.outputs]
        for call in followed_calls(calls, returned):
            self.outputs = call.shapes
            self.read.update(names[value] for value in values_in((call.args, call.kwargs)) if value in names)
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
        self.read.update(names[value] for value in calls.outputs.values() if value in names)
        self._freeze(returned, "an output of the network")

    def _given(self, value: Value, name: str, shape: tuple[int, ...]) -> list[Axis]:
        """The axes of a tensor that no call made."""
        if name in self.named:
            return self.named[name]
        free = name in self.calls.parameters or name.rsplit(".", 1)[-1] in _STATISTICS
        reason = "an input of the network" if value in self.calls.inputs else "a constant of the network"
        axes = [Axis(size, "" if free else reason) for size in shape]
        if free and len(axes) > 2:  # [heads, width, features], [experts, features, features]
            axes[1].parents.add(axes[0])
            axes[2].parents.update(axes[:2])
        if name:
            self.named[name] = axes
        return axes

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
        self.tensors.append(axes)
        if value in self.calls.opaque:
            self._freeze((value,), "memory that is shared in ways that were not seen")

    @staticmethod
    def _join(ones: Sequence[Axis], others: Sequence[Axis]) -> None:
        if len(ones) != len(others):
            raise ValueError
        for one, other in zip(ones, others, strict=True):
            unify(one, other)
