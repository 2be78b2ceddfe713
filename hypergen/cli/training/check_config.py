"""Checks a Hydra configuration against the signatures of what it binds, before anything is made."""

from __future__ import annotations

import collections.abc
import inspect
import os
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hypergen.errors import HypergenError

_SHOWN = 5
_PLAIN: Mapping[Any, tuple[type, ...]] = {
    int: (int,),
    float: (int, float),
    str: (str,),
    bool: (bool,),
    bytes: (bytes,),
    type(None): (type(None),),
    Path: (str, os.PathLike),
    os.PathLike: (str, os.PathLike),
}
_SEQUENCES = (list, tuple, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
_MAPPINGS = (dict, collections.abc.Mapping)


def check_config(config: Any) -> None:
    """Compare every value below nodes with a ``_target_`` with the type that the target's signature gives it.

    Only numbers, text, truth values, and lists and mappings of these are judged.

    Args:
        config: A node of the configuration, with interpolations.

    Raises:
        HypergenError: Values are of other types; the message names each by its place in the configuration.
    """
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config
    problems = list(dict.fromkeys(_problems(plain, "")))
    if problems:
        more = f"\nand {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise HypergenError("\n".join(problems[:_SHOWN]) + more)


def _problems(node: Any, place: str) -> Iterator[str]:
    if isinstance(node, Mapping):
        hints = _hints(node.get("_target_"))
        for key, value in node.items():
            where = f"{place}.{key}" if place else str(key)
            if key in hints and not _fits(value, hints[key]):
                yield f"{where} is {value!r}, a {type(value).__name__}; expected {_name(hints[key])}."
            yield from _problems(value, where)
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _problems(value, f"{place}[{number}]")


def _hints(target: Any) -> dict[str, Any]:
    """Annotations of the arguments of what a ``_target_`` names; none of what cannot be looked up."""
    if not isinstance(target, str):
        return {}
    from hydra.utils import get_object

    try:
        found = get_object(target)
        function = found.__init__ if inspect.isclass(found) else found
        namespace = getattr(inspect.unwrap(function), "__globals__", {})
        annotations = {name: each.annotation for name, each in inspect.signature(function).parameters.items()}
    except Exception:  # Hydra itself reports targets that do not exist, with their place.
        return {}
    hints = {}
    for name, annotation in annotations.items():
        if isinstance(annotation, str):
            try:
                annotation = eval(annotation, dict(namespace))  # source of an imported module, not of the configuration
            except Exception:  # imported for type checkers alone
                continue
        if annotation is not inspect.Parameter.empty:
            hints[name] = annotation
    return hints


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, each) for each in arguments)
    if origin is typing.Annotated:
        return _fits(value, arguments[0])
    if origin is typing.Literal:
        return value in arguments
    kind = origin or hint
    if kind in _PLAIN:
        if isinstance(value, Mapping) and "_target_" in value:
            return True  # makes the value
        return isinstance(value, _PLAIN[kind]) and not (isinstance(value, bool) and kind in (int, float))
    if kind in _SEQUENCES:
        if isinstance(value, Mapping):
            return "_target_" in value
        if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
            return False
        each = arguments[0] if arguments and (kind is not tuple or arguments[1:] == (...,)) else Any
        return all(_fits(item, each) for item in value)
    if kind in _MAPPINGS:
        return isinstance(value, Mapping)
    return True


def _name(hint: Any) -> str:
    if hint is type(None):
        return "null"
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(repr(value) for value in typing.get_args(hint))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_name(each) for each in typing.get_args(hint))
    return hint.__name__ if inspect.isclass(hint) and not typing.get_args(hint) else str(hint)
