"""What the parameters of a network must look like, a check that they do, and how many of their values differ."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from hypergen.errors import ParameterError

Parameters: TypeAlias = dict[str, Tensor]
"""A tensor per name of ``dict(target.named_parameters())``, with that parameter's shape; a tied parameter once."""

_SHOWN_PROBLEMS = 10


def expected_shapes(model: nn.Module) -> dict[str, torch.Size]:
    """Give the shape of every parameter of ``model``, in the order of ``model.named_parameters()``.

    Args:
        model: The target network; it may live on the meta device.

    Returns:
        A shape per named parameter; a tied parameter appears once.

    Raises:
        ParameterError: It is no module, or a parameter of a lazy module has no shape yet.
    """
    return {name: parameter.shape for name, parameter in _targets(model).items()}


def _targets(model: nn.Module) -> dict[str, nn.Parameter]:
    """The named parameters. To find them takes as long as to check them, so each caller walks the model once."""
    if not isinstance(model, nn.Module):
        raise ParameterError(
            f"A network is a torch.nn.Module, not {str(model)[:100]!r} ({type(model).__name__}): make an object of its "
            "class, and pass that."
        )
    targets = dict(model.named_parameters())
    lazy = [name for name, parameter in targets.items() if is_lazy(parameter)]
    if lazy:
        raise ParameterError(
            f"{type(model).__name__} has lazy modules, whose parameters have no shape yet: {_listed(lazy)}. "
            "Run one forward pass of the model first."
        )
    return targets


def check_parameters(
    model: nn.Module, parameters: Mapping[str, Tensor], *, finite: bool = True, partial: bool = False
) -> None:
    """Check that ``parameters`` fit ``model``: each name, each shape, each kind of number, each value.

    Args:
        model: The target network; it is only read, and may live on the meta device.
        parameters: What should fit it.
        finite: Also check that every value is finite, and stays so in the data type of the model's parameter.
        partial: Allow parameters of the model to be missing.

    Raises:
        ParameterError: Something does not fit. The message names every entry that is missing, unknown, of the wrong
            shape, of the wrong kind of number, or not finite (the first ten, then a count), or the lazy modules.
    """
    targets = _targets(model)
    problems = []
    for name, target in targets.items():
        if name in parameters:
            problem = _problem(parameters[name], target, finite)
            if problem:
                problems.append(f"{name}: {problem}")
        elif not partial:
            problems.append(f"{name}: missing, expected shape {list(target.shape)}")
    unknown = [name for name in parameters if name not in targets]
    if unknown:
        carriers = _tied_parameters(model)
        for name in unknown:
            reason = f"tied to {carriers[name]}, give that one only" if name in carriers else "not a parameter of it"
            problems.append(f"{name}: {reason}")
    if problems:
        shown = "\n  ".join(problems[:_SHOWN_PROBLEMS])
        more = len(problems) - _SHOWN_PROBLEMS
        raise ParameterError(
            f"The parameters do not fit {type(model).__name__}, which expects exactly the names and shapes of its "
            f"named_parameters():\n  {shown}" + (f"\n  and {more} more" if more > 0 else "")
        )


def _problem(value: Any, target: Tensor, finite: bool) -> str | None:
    """What is wrong with one entry, in words; None when nothing is."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}, expected a torch.Tensor"
    if value.shape != target.shape:
        return f"shape {list(value.shape)}, expected {list(target.shape)}"
    if _kind(value.dtype) != _kind(target.dtype):
        return f"{_kind(value.dtype)} ({value.dtype}), expected {_kind(target.dtype)} ({target.dtype})"
    if not finite:
        return None
    if value.is_meta:
        return "on the meta device, expected values"
    if not is_finite(value):
        return "not finite"
    if value.dtype != target.dtype and not is_finite(value.detach().to(target.dtype)):
        return f"not finite in the model's {target.dtype}"
    return None


def _kind(dtype: torch.dtype) -> str:
    if dtype.is_complex:
        return "complex"
    return "floating point" if dtype.is_floating_point else "integer"


def is_finite(value: Tensor) -> bool:
    """Whether every value is finite."""
    value = value.detach()
    if value.dtype.is_complex or not value.dtype.is_floating_point:
        return bool(torch.isfinite(value).all())
    # A finite sum has finite terms and costs one pass without a mask; a sum may overflow where no term does.
    return math.isfinite(value.sum().item()) or bool(torch.isfinite(value).all())


def _tied_parameters(model: nn.Module) -> dict[str, str]:
    """Map the further names of tied parameters to the name that carries them."""
    carrier_of = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        name: carrier_of[id(parameter)]
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if carrier_of[id(parameter)] != name
    }


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN_PROBLEMS
    return ", ".join(names[:_SHOWN_PROBLEMS]) + (f" and {more} more" if more > 0 else "")


def distinct_value_share(parameters: Mapping[str, Tensor]) -> float:
    """Give the share of values that are distinct, over all parameters together.

    A generator that tiles a small prediction over large tensors repeats itself, which this makes visible. Compare with
    independent random values of the same number and data type, because some of those coincide too: of normally
    distributed float32 values 0.993 are distinct among a million, 0.935 among ten million; bfloat16 has 65,536
    values in all.

    Args:
        parameters: A tensor per name, of any shape.

    Returns:
        Distinct values over number of values, in (0, 1].

    Raises:
        ParameterError: There is not a single value.
    """
    tensors = [value.detach().flatten() for value in parameters.values()]
    total = sum(len(tensor) for tensor in tensors)
    if total == 0:
        raise ParameterError("The share of distinct values needs at least one value; the parameters are empty.")
    # Concatenation promotes mixed data types, which keeps different values of a narrower type different.
    values = torch.cat([tensor.cpu() for tensor in tensors])
    return len(torch.unique(values)) / total
