"""Integers that remember which attribute of which module they came from, through arithmetic.

A network that is run with them shows which attribute decides which size in which operation: that of ``num_heads`` in
``view(batch, tokens, num_heads, -1)``, and that no operation reads ``max_length``, though it may have the same value.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from hypergen.symmetry.prune.copies import copied

_DEPTH = 3  # of objects in attributes, such as configurations


@dataclass(frozen=True)
class Attribute:
    """An integer that an object notes down.

    Attributes:
        owner: Path of the object in the network, as attribute names, keys and indices.
        key: Name, key or index of the integer in it.
        value: The integer.
    """

    owner: tuple[Any, ...]
    key: Any
    value: int = field(compare=False)

    def __str__(self) -> str:
        """The path as it would be written."""
        return ".".join(map(str, (*self.owner, self.key)))


class TrackedInt(int):
    """An integer with the attributes that it was computed from.

    Attributes:
        sources: The attributes.
        exact: Whether it is the attribute's own value.
    """

    sources: frozenset[Attribute]
    exact: bool

    @staticmethod
    def of(value: int, sources: frozenset[Attribute], exact: bool = False) -> TrackedInt:
        """A tracked integer."""
        made = TrackedInt(value)
        made.sources, made.exact = sources, exact
        return made

    @property
    def attribute(self) -> Attribute:
        """The only attribute that an exact one comes from."""
        (only,) = self.sources
        return only

    def __deepcopy__(self, memo: Any) -> TrackedInt:
        return self

    def __reduce__(self) -> Any:
        return int, (int(self),)


def _tracked(function: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: TrackedInt, *others: Any) -> Any:
        if any(not isinstance(other, int) for other in others):
            return NotImplemented
        result = function(int(self), *map(int, others))
        sources: list[frozenset[Any]] = [getattr(operand, "sources", frozenset()) for operand in (self, *others)]
        return TrackedInt.of(result, frozenset().union(*sources)) if type(result) is int else result

    return method


for _name in ("add", "sub", "mul", "floordiv", "mod", "neg"):
    _plain = getattr(operator, _name)
    setattr(TrackedInt, f"__{_name}__", _tracked(_plain))
    if _name != "neg":
        setattr(TrackedInt, f"__r{_name}__", _tracked(lambda one, other, plain=_plain: plain(other, one)))


def track_sizes(model: nn.Module) -> None:
    """Let every integer over 1 that the modules of a network and their configurations hold be tracked, in place."""
    for attribute, container in integers_of(model):
        container[attribute.key] = TrackedInt.of(attribute.value, frozenset((attribute,)), exact=True)


def integers_of(model: nn.Module) -> Iterator[tuple[Attribute, Any]]:
    """The integers that a network holds, each with the dictionary or list that has it."""
    seen: set[int] = set()
    for path, module in model.named_modules(remove_duplicate=True):
        owner = tuple(path.split(".")) if path else ()
        yield from _integers(vars(module), owner, seen, 0)


def _integers(container: Any, owner: tuple[Any, ...], seen: set[int], depth: int) -> Iterator[tuple[Attribute, Any]]:
    if id(container) in seen:
        return
    seen.add(id(container))
    for key, value in list(container.items() if isinstance(container, dict) else enumerate(container)):
        if key in ("_parameters", "_buffers", "_modules", "training"):
            continue
        if type(value) is int and value > 1:
            yield Attribute(owner, key, value), container
        elif type(value) is tuple and any(type(item) is int for item in value):
            items = list(value)
            yield from _integers(items, (*owner, key), seen, depth)
            container[key] = tuple(items)
        elif depth < _DEPTH and type(value) in (list, dict):
            yield from _integers(value, (*owner, key), seen, depth + 1)
        elif depth < _DEPTH and _holds_settings(value):
            yield from _integers(vars(value), (*owner, key), seen, depth + 1)


def _holds_settings(value: Any) -> bool:
    if isinstance(value, (nn.Module, Tensor, type)) or callable(value) or not hasattr(value, "__dict__"):
        return False
    return type(value).__module__.partition(".")[0] not in ("torch", "builtins", "collections", "functools", "logging")


def set_integers(model: nn.Module, values: Mapping[Attribute, int]) -> None:
    """Change integers that a network holds, in place.

    Args:
        model: The network, or a copy of it.
        values: Attribute → new value.
    """
    for attribute, new in values.items():
        _set_in(model, (*attribute.owner, attribute.key), new)


def changed_integers(model: nn.Module, other: nn.Module) -> tuple[tuple[tuple[Any, ...], int], ...]:
    """Where two networks of one architecture hold other integers, and those of the second."""
    found = []
    for attribute, _ in integers_of(copied(model, lambda tensor: tensor)):
        path = (*attribute.owner, attribute.key)
        value: Any = other
        for key in path:
            value = value[key] if isinstance(value, tuple) else _get(value, key)
        if value != attribute.value:
            found.append((path, int(value)))
    return tuple(found)


def _set_in(holder: Any, path: tuple[Any, ...], new: int) -> None:
    key, *rest = path
    if rest:
        child = _get(holder, key)
        if isinstance(child, tuple):
            items = list(child)
            items[rest[0]] = new
            _put(holder, key, tuple(items))
        else:
            _set_in(child, tuple(rest), new)
    else:
        _put(holder, key, new)


def _get(holder: Any, key: Any) -> Any:
    if isinstance(holder, nn.Module) and key in holder._modules:
        return holder._modules[key]
    return holder[key] if isinstance(holder, (dict, list)) else vars(holder)[key]


def _put(holder: Any, key: Any, value: Any) -> None:
    if isinstance(holder, (dict, list)):
        holder[key] = value
    else:
        vars(holder)[key] = value
