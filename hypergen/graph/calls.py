"""A record of the calls of a forward pass, complete enough to work out a network's symmetry without running it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor


class Value(int):
    """The number of a tensor in a record of calls: stands in an argument's place for the tensor."""

    __slots__ = ()


class Call(NamedTuple):
    """One call of a function of PyTorch.

    Attributes:
        op: The operation's name; a reflected matrix product is ``rmatmul``.
        args: Positional arguments; tensors are :class:`Value`, what is no plain data is None.
        kwargs: Keyword arguments.
        outputs: The tensors in the result, in order; what was written into, for an assignment to an index.
        shapes: The shapes of the outputs.
    """

    op: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[Value, ...]
    shapes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Calls:
    """The calls of one forward pass.

    Attributes:
        calls: In the order in which they ran.
        shapes: The shape of every tensor that no call made: parameters, buffers, inputs and constants.
        parameters: Name → parameter.
        buffers: Name → buffer, those that were read.
        inputs: What the network was given.
        outputs: What it returned, by its place: ``logits``, ``0``, ``features.1``; empty for a single tensor.
        opaque: Tensors whose making was not seen, though they share memory with others or are batched by ``vmap``.
    """

    calls: tuple[Call, ...]
    shapes: Mapping[Value, tuple[int, ...]]
    parameters: Mapping[str, Value]
    buffers: Mapping[str, Value]
    inputs: tuple[Value, ...]
    outputs: Mapping[str, Value]
    opaque: frozenset[Value]


class CallLog:
    """Writes down calls while they run.

    Args:
        relatives: The tensors seen so far that may share memory with this one.
    """

    def __init__(self, relatives: Callable[[Tensor], Iterable[Tensor]]) -> None:
        self.relatives = relatives
        self.calls: list[Call] = []
        self.values: dict[int, Value] = {}  # by the id of a tensor
        self.kept: list[Tensor] = []  # so that ids stay unique
        self.made: set[Value] = set()
        self.opaque: set[Value] = set()
        self.inputs: list[Value] = []

    def value(self, tensor: Tensor) -> Value:
        """The number of a tensor; a new one for a tensor that is not known and no alias of one that is."""
        value = self.values.get(id(tensor))
        if value is None:
            relatives = [other for other in self.relatives(tensor) if id(other) in self.values]
            if not relatives and not is_functorch_wrapped_tensor(tensor):
                return self._new(tensor)
            alias = next((other for other in relatives if _same_elements(tensor, other)), None)
            if alias is not None:
                value = self.values[id(tensor)] = self.values[id(alias)]
                self.kept.append(tensor)
                return value
            value = self._new(tensor)
            if is_functorch_wrapped_tensor(tensor):  # what is inside is seen nowhere else
                self.opaque.add(self.value(get_unwrapped(tensor)))
            self.opaque.update((value, *(self.values[id(other)] for other in relatives)))
        return value

    def _new(self, tensor: Tensor) -> Value:
        value = self.values[id(tensor)] = Value(len(self.kept))
        self.kept.append(tensor)
        return value

    def add(self, func: Any, op: str, args: Any, kwargs: Mapping[str, Any], outputs: list[Tensor]) -> None:
        """Note a call that has run."""
        if op == "matmul" and func is Tensor.__rmatmul__:
            op = "rmatmul"
        arguments = tuple([self._stored(argument) for argument in args])
        options = {key: self._stored(argument) for key, argument in kwargs.items()} if kwargs else {}
        values = self.values
        numbers = []
        for output in outputs:
            value = values.get(id(output))
            if value is None:
                value = self._new(output)
                self.made.add(value)
            numbers.append(value)
        shapes = tuple([tuple(output.shape) for output in outputs])
        self.calls.append(Call(op, arguments, options, tuple(numbers), shapes))

    def _stored(self, argument: Any) -> Any:
        value = self.values.get(id(argument))
        if value is not None:
            return value
        if argument is None or type(argument) in _PLAIN:
            return argument
        if isinstance(argument, Tensor):
            return self.value(argument)
        if isinstance(argument, (tuple, list)):
            items = [self._stored(item) for item in argument]
            return items if isinstance(argument, list) else tuple(items)
        if isinstance(argument, Mapping):
            return {key: self._stored(item) for key, item in argument.items()}
        if isinstance(argument, slice):
            return slice(self._stored(argument.start), self._stored(argument.stop), self._stored(argument.step))
        return None

    def finish(self, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], result: Any) -> Calls:
        """The record of a pass that returned ``result``, without the tensors."""
        named = {name: self.value(parameter) for name, parameter in parameters.items()}
        read = {name: self.values[id(buffer)] for name, buffer in buffers.items() if id(buffer) in self.values}
        returned = {name: self.value(output) for name, output in named_tensors(result)}
        given = {value: tuple(self.kept[value].shape) for value in self.values.values() if value not in self.made}
        return Calls(tuple(self.calls), given, named, read, tuple(self.inputs), returned, frozenset(self.opaque))


def named_tensors(result: Any, name: str = "") -> list[tuple[str, Tensor]]:
    """The tensors in nested tuples, lists and mappings, each with its place in words."""
    if isinstance(result, Tensor):
        return [(name, result)]
    if isinstance(result, Mapping):
        items = list(result.items())
    else:
        items = list(enumerate(result)) if isinstance(result, (tuple, list)) else []
    return [pair for key, item in items for pair in named_tensors(item, f"{name}.{key}" if name else str(key))]


_PLAIN = frozenset((bool, int, float, complex, str, type(...), torch.dtype, torch.Size))


def _same_elements(one: Tensor, other: Tensor) -> bool:
    return (
        one.shape == other.shape and one.stride() == other.stride() and one.storage_offset() == other.storage_offset()
    )
