"""What a hypernetwork has to know of its target: names, shapes, data types, and which parameters are trained."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hypergen.errors import ParameterError, UnknownNameError
from hypergen.functional import expected_shapes

Layout = dict[str, Any]


def read_layout(target: nn.Module) -> Layout:
    """Describe a network in plain JSON types, so that a hypernetwork can be rebuilt without it.

    Args:
        target: Network with values, not on the meta device.

    Returns:
        ``parameters``: shape, data type and whether it is trained, by name, tied parameters once; ``buffers``: shape
        and data type of the persistent ones; ``aliases``: further names of tied parameters.

    Raises:
        ParameterError: The network has no parameters, lazy ones, some without values, or copies of itself.
    """
    if not expected_shapes(target):
        raise ParameterError(f"{type(target).__name__} has no parameters, so there is nothing for a hypernetwork.")
    if any(isinstance(module, nn.DataParallel) for module in target.modules()):
        raise ParameterError(
            f"{type(target).__name__} has an nn.DataParallel, whose copies take no generated parameters. Pass what it "
            "wraps, its `.module`."
        )
    own = dict(target.named_parameters())
    if empty := [name for name, value in own.items() if value.is_meta]:
        raise ParameterError(
            f"{type(target).__name__} is on the meta device ({', '.join(empty[:3])}, …), and a hypernetwork starts at "
            "the network's own values. Build the network on a real device, or call `to_empty` and initialise it."
        )
    names = {id(value): name for name, value in own.items()}
    every = target.named_parameters(remove_duplicate=False)
    return {
        "parameters": {name: [list(p.shape), _dtype_name(p.dtype), p.requires_grad] for name, p in own.items()},
        "buffers": {name: [list(b.shape), _dtype_name(b.dtype)] for name, b, kept in buffers_of(target) if kept},
        "aliases": {name: names[id(value)] for name, value in every if name not in own},
    }


def buffers_of(target: nn.Module) -> Iterator[tuple[str, Tensor, bool]]:
    """Name, value and persistence of each buffer of a network, shared ones once."""
    seen: set[int] = set()
    for prefix, module in target.named_modules():
        for name, value in module._buffers.items():
            if value is not None and id(value) not in seen:
                seen.add(id(value))
                full = f"{prefix}.{name}" if prefix else name
                yield full, value, name not in module._non_persistent_buffers_set


def select(layout: Layout, patterns: str | Sequence[str], *, matrices: bool, frozen: bool) -> list[str]:
    """Names of the parameters that are generated.

    Args:
        layout: What :func:`read_layout` gives.
        patterns: Names, or shell-style patterns of names; those of tied parameters stand for all their names.
        matrices: Whether only parameters with at least two axes can be.
        frozen: Whether parameters that are not trained can be.

    Raises:
        UnknownNameError: A pattern matches no name; the message has the nearest ones.
        ParameterError: None of what the patterns match can be generated.
    """
    names = {name: name for name in layout["parameters"]} | layout["aliases"]
    matched: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        found = {names[name] for name in fnmatch.filter(names, pattern)}
        if not found:
            raise UnknownNameError("parameter name or pattern", pattern, names)
        matched |= found
    chosen = [
        name
        for name, (shape, _, trained) in layout["parameters"].items()
        if name in matched and (len(shape) > 1 or not matrices) and (trained or frozen)
    ]
    if not chosen:
        problems = ["are frozen"] * (not frozen) + ["have fewer than two axes"] * matrices
        raise ParameterError(
            f"All parameters that {patterns!r} matches {' or '.join(problems)}: {', '.join(sorted(matched)[:5])}. Name "
            "others" + ("" if frozen else ', unfreeze them, or change frozen values with base="target"') + "."
        )
    return chosen


def refuse_other_target(layout: Layout, target: nn.Module) -> None:
    """Complain about a network that is not the one whose layout was read."""
    found = expected_shapes(target)
    problems = [
        f"{name}: {'missing' if name not in found else list(found[name])}, expected {shape}"
        for name, (shape, _, _) in layout["parameters"].items()
        if name not in found or list(found[name]) != shape
    ] + [f"{name}: not expected" for name in found if name not in layout["parameters"]]
    if problems:
        more = f"\n  and {len(problems) - 5} more" if len(problems) > 5 else ""
        shown = "\n  ".join(problems[:5])
        raise ParameterError(
            f"{type(target).__name__} is not the network that this hypernetwork was made for:\n  {shown}{more}"
        )


def dtype_of(name: str) -> torch.dtype:
    """The data type of a name in a layout."""
    return getattr(torch, name)  # type: ignore[no-any-return]


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def layout_of(target: Any) -> Layout:
    """The layout of a network; a layout stays what it is.

    Raises:
        TypeError: It is neither.
    """
    if isinstance(target, nn.Module):
        return read_layout(target)
    if isinstance(target, Mapping) and {"parameters", "buffers", "aliases"} <= set(target):
        return dict(target)
    raise TypeError(f"HyperNetwork(target={type(target).__name__}): expected a torch.nn.Module, or its layout.")
