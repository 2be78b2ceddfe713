"""Passes over a network that show which integers decide which sizes, and what a smaller one does otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from hypergen.graph.calls import Call
from hypergen.graph.computational_graph import ComputationalGraph, TracingMode
from hypergen.graph.operations import METADATA, operation_name
from hypergen.graph.tracing.recorder import Recorder
from hypergen.graph.tracing.tensors import tensors_in
from hypergen.graph.tracing.trace import trace_with
from hypergen.symmetry.prune.copies import copied
from hypergen.symmetry.prune.tracked_sizes import TrackedInt, track_sizes


class Told(NamedTuple):
    """An argument of a call that attributes of modules decide.

    Attributes:
        call: Number of the call.
        path: Where it is in the call's arguments: positions, keywords, and bounds of slices.
        size: The integer.
    """

    call: int
    path: tuple[Any, ...]
    size: TrackedInt


class _Tracked(Recorder):
    """Notes where tracked integers go, and gives PyTorch plain ones."""

    def __init__(self, *args: Any, made: list[_Tracked]) -> None:
        super().__init__(*args)
        self.notes: list[Told] = []
        made.append(self)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found: list[tuple[tuple[Any, ...], TrackedInt]] = []
        args = tuple(_plain(argument, (place,), found) for place, argument in enumerate(args))
        kwargs = {key: _plain(argument, (key,), found) for key, argument in (kwargs or {}).items()}
        number = len(self.log.calls)
        result = super().__torch_function__(func, types, args, kwargs)
        if found and len(self.log.calls) > number:
            self.notes += [Told(number, path, size) for path, size in found]
        return result


def _plain(value: Any, path: tuple[Any, ...], found: list[tuple[tuple[Any, ...], TrackedInt]]) -> Any:
    if type(value) is TrackedInt:
        found.append((path, value))
        return int(value)
    if type(value) in (tuple, list, torch.Size):
        items = [_plain(item, (*path, place), found) for place, item in enumerate(value)]
        return type(value)(items)
    if type(value) is slice:
        bounds = ("start", "stop", "step")
        return slice(*(_plain(getattr(value, bound), (*path, bound), found) for bound in bounds))
    return value


def tracked_run(model: nn.Module, example_inputs: Any) -> tuple[ComputationalGraph, list[Told]]:
    """The graph of a network, and which attributes decided sizes in its calls.

    Raises:
        TraceError: The network could not be run.
        ParameterError: It cannot be copied.
    """
    made: list[_Tracked] = []
    twin = copied(model, lambda tensor: tensor)  # its own attributes, the same tensors
    track_sizes(twin)
    graph = trace_with(twin, example_inputs, partial(_Tracked, made=made), both_modes=True)
    assert graph.calls is not None
    first = next(iter(graph.calls.calls), None)
    notes = [recorder.notes for recorder in made if recorder.log.calls and recorder.log.calls[0] is first]
    return graph, notes[0] if notes else []


@dataclass
class Mismatch:
    """A call of a smaller network that does not do what was expected.

    Attributes:
        call: Its number.
        reason: What went wrong.
        arguments: What it was called with.
    """

    call: int
    reason: str
    arguments: tuple[Any, ...] = ()


@dataclass
class Rehearsal:
    """What a pass over a smaller network showed.

    Attributes:
        mismatches: The calls with other shapes than expected, or that failed; the pass went on as if they had not.
        followed: How many calls were as those of the whole network.
        error: Why the pass broke off; empty if it did not.
    """

    mismatches: list[Mismatch] = field(default_factory=list)
    followed: int = 0
    error: str = ""


class _Rehearsing(Recorder):
    """Follows a smaller network along the calls of the whole one; failures are noted, and what was expected goes on."""

    def __init__(self, *args: Any, expected: Sequence[tuple[Call, Any]], rehearsal: Rehearsal) -> None:
        super().__init__(*args)
        self.expected, self.rehearsal = expected, rehearsal
        rehearsal.mismatches.clear()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        op = operation_name(func)
        if op in METADATA:
            return super().__torch_function__(func, types, args, kwargs)
        number = len(self.log.calls)
        self.rehearsal.followed = number
        call, shapes = self.expected[number] if number < len(self.expected) else (None, None)
        try:
            result = super().__torch_function__(func, types, args, kwargs)
        except Exception as error:
            if call is None or call.op != op or shapes is None:
                raise
            failure = f"{type(error).__name__}: {error}"
            result = self._pretend(func, call, shapes, args, kwargs or {})
            self._note(number, failure, args)
            return result
        if len(self.log.calls) == number or call is None:
            return result
        if call.op != op:
            raise _Diverged(f"it runs {op!r} where the network runs {call.op!r}")
        made = self.log.calls[-1].shapes
        if shapes is not None and made != shapes:
            self._note(number, f"it has shape {list(made[:1])}, not {list(shapes[:1])}", args)
            if len(made) == len(shapes):
                del self.log.calls[-1]
                result = self._pretend(func, call, shapes, args, kwargs or {})
        return result

    def _note(self, number: int, reason: str, args: Any) -> None:
        self.rehearsal.mismatches.append(Mismatch(number, " ".join(reason.split()), tuple(args)))

    def _pretend(self, func: Any, call: Call, shapes: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
        given = tensors_in((args, kwargs))
        like = next((tensor for tensor in given if tensor.is_floating_point()), given[0] if given else None)
        dtype = like.dtype if like is not None else torch.float32
        if call.op in ("view", "reshape") and given:
            dtype = given[0].dtype
        device = "cpu" if self.values is not None and not dtype.is_floating_point else self.device
        with torch._C.DisableTorchFunction():
            outputs = [torch.zeros(shape, dtype=dtype, device=device) for shape in shapes]
        self.log.add(func, call.op, args, kwargs, outputs)
        for output in outputs:
            self._know(output, ())
        return outputs[0] if len(outputs) == 1 and call.op not in _SEVERAL else tuple(outputs)


class _Diverged(Exception):
    """A smaller network runs other operations than the whole one."""


_SEVERAL = frozenset(("split", "chunk", "unbind", "split_with_sizes", "tensor_split"))


def rehearse(
    small: nn.Module, example_inputs: Any, expected: Sequence[tuple[Call, Any]], mode: TracingMode
) -> Rehearsal:
    """Run a smaller network on shapes alone, or on what else the whole one was traced with.

    Args:
        small: The network.
        example_inputs: What it is called with.
        expected: The calls of the whole network, each with the shapes that its outputs have in the smaller one; None
            where these are not known.
        mode: What the whole network was traced on.
    """
    rehearsal = Rehearsal()
    twin = copied(small, lambda tensor: tensor)
    try:
        recorder = partial(_Rehearsing, expected=expected, rehearsal=rehearsal)
        trace_with(twin, example_inputs, recorder, (mode,))
        rehearsal.followed = len(expected)
    except Exception as error:
        rehearsal.error = " ".join(str(error.__cause__ or error).split())
    return rehearsal
