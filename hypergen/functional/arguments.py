"""Checks of constructors' arguments, whose errors name the argument, what it may be, and what it is."""

from __future__ import annotations

import collections.abc
import functools
import inspect
import math
import os
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Range(NamedTuple):
    """The numbers that an argument may be."""

    low: float
    high: float
    whole: bool


_LAYERS = Range(0, 10_000, True)
_SIZE = Range(1, 2**24, True)
_SIZE_OR_NONE = Range(0, 2**24, True)
_COUNT = Range(1, 2**53, True)
_COUNT_OR_NONE = Range(0, 2**53, True)
_STRENGTH = Range(0, 1e30, False)
_SHARE = Range(0, 1, False)
# What an argument of this name may be wherever it is found: one word means one thing throughout the package.
_RANGES: Mapping[str, Range] = {
    **dict.fromkeys(("layers", "blocks", "head_layers", "denoiser_layers"), _LAYERS),
    **dict.fromkeys(
        ("hidden", "heads", "head_hidden", "token_size", "token_hidden", "denoiser_hidden", "latent_size"),
        _SIZE,
    ),
    **dict.fromkeys(("image_size", "patch_size", "kernel_size", "vocabulary", "components"), _SIZE),
    **dict.fromkeys(("channels", "num_classes", "rank", "metric_size", "code_size", "condition_size"), _SIZE_OR_NONE),
    **dict.fromkeys(("batch_size", "inputs_per_step", "sampling_steps", "group_size"), _COUNT),
    "calibration_batches": _COUNT,
    "depth": Range(1, 10_000, True),
    **dict.fromkeys(("codes_per_token", "codebook_size"), _SIZE),
    "width": Range(1e-6, 2**24, False),  # of channels, or a factor on them
    **dict.fromkeys(("steps", "num_train_timesteps", "save_every"), _COUNT),
    **dict.fromkeys(("warmup_steps", "workers", "num_workers", "networks_per_step"), _COUNT_OR_NONE),
    **dict.fromkeys(("learning_rate", "weight_decay", "input_noise", "latent_noise", "temperature"), _STRENGTH),
    **dict.fromkeys(("dropout", "label_smoothing", "average_decay"), _SHARE),
}
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


def problem_of(name: str, value: Any, hint: Any = Any) -> str:
    """What is wrong with the value of an argument, as "expected …"; empty where nothing is known to be.

    Args:
        name: Name of the argument, which may have a range.
        value: Its value; only numbers, text, truth values, and lists and mappings of these are judged.
        hint: Its annotation.
    """
    if not fits(value, hint):
        return f"expected {in_words(hint)}, not a {type(value).__name__}"
    if any(isinstance(each, float) and not math.isfinite(each) for each in _numbers(value)):
        return "expected finite numbers"
    allowed = _RANGES.get(name)
    if allowed is None or all(allowed.low <= each <= allowed.high for each in _numbers(value)):
        return ""
    return f"expected {_range(allowed.low, allowed.high)}"


def check_arguments(function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Complain about arguments of another type than their annotations, or out of the range of their names.

    Args:
        function: The function or class that takes them.
        arguments: Values by name.

    Raises:
        TypeError: A value is of another type.
        ValueError: A value is out of range, or not finite.
    """
    hints = annotations_of(function)
    for name, value in arguments.items():
        hint = hints.get(name, Any)
        if problem := problem_of(name, value, hint):
            kind = ValueError if fits(value, hint) else TypeError
            raise kind(f"{function.__name__}({name}={_shown(value)}): {problem}.")


@functools.cache
def annotations_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Annotations of the arguments of a function or class; those that cannot be looked up are left out."""
    called: Any = function.__init__ if inspect.isclass(function) else function
    namespace = getattr(inspect.unwrap(called), "__globals__", {})
    hints = {}
    for name, parameter in inspect.signature(called).parameters.items():
        annotation = parameter.annotation
        if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            continue
        if isinstance(annotation, str):
            try:
                annotation = eval(annotation, dict(namespace))  # source of an imported module, not of a file
            except Exception:  # imported for type checkers alone
                continue
        if annotation is not inspect.Parameter.empty:
            hints[name] = annotation
    return hints


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value is of a type; anything else than plain values fits."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, each) for each in arguments)
    if origin is typing.Annotated:
        return fits(value, arguments[0])
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
        return all(fits(item, each) for item in value)
    if kind in _MAPPINGS:
        return isinstance(value, Mapping)
    return True


def in_words(hint: Any) -> str:
    """A type as it is written, without the word for a class."""
    if hint is type(None):
        return "null"
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(repr(value) for value in typing.get_args(hint))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(in_words(each) for each in typing.get_args(hint))
    return hint.__name__ if inspect.isclass(hint) and not typing.get_args(hint) else str(hint)


def _numbers(value: Any) -> list[float]:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return [value]
    return [number for item in value for number in _numbers(item)] if isinstance(value, (list, tuple)) else []


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"


def check_numbers(
    owner: object, *, low: float = -math.inf, high: float = math.inf, whole: bool = False, **values: Any
) -> None:
    """Complain about arguments that are no numbers or out of range; None stands for an argument that was left out.

    Args:
        owner: Object, or its class's name, that the arguments belong to.
        low: Least value allowed.
        high: Greatest value allowed.
        whole: Whether only whole numbers are.
        **values: Arguments by name.

    Raises:
        TypeError: A value is no number, or no whole one.
        ValueError: A value is out of range.
    """
    name_of_owner = owner if isinstance(owner, str) else type(owner).__name__
    for name, value in values.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            kind = "a whole number" if whole else "a number"
            raise TypeError(f"{name_of_owner}({name}={value!r}): expected {kind}, not a {type(value).__name__}.")
        if not low <= value <= high:  # False for NaN, too
            raise ValueError(f"{name_of_owner}({name}={value!r}): expected {_range(low, high)}.")


def _range(low: float, high: float) -> str:
    if high == math.inf:
        return f"at least {low:g}"
    return f"at most {high:g}" if low == -math.inf else f"a value from {low:g} to {high:,.10g}"
