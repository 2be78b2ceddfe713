"""Checks of constructors' arguments, whose errors name the argument, what it may be, and what it is."""

from __future__ import annotations

import math
from typing import Any


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
