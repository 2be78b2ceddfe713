"""Which networks compute something else in training mode, as far as their code tells."""

from __future__ import annotations

from functools import cache
from types import CodeType
from typing import Any

from torch import nn


def mentions_training(module: nn.Module) -> bool:
    """Whether the code of a module looks at ``training``; what dropout and normalisations do there does not count."""
    kind: type = type(module)
    if _class_mentions_training(kind):
        return True
    return any(_looks(getattr(value, "__code__", None)) for value in vars(module).values() if callable(value))


@cache
def _class_mentions_training(kind: type) -> bool:
    own = [base for base in kind.__mro__ if not base.__module__.startswith("torch.")]
    return any(_looks(getattr(function, "__code__", None)) for base in own for function in vars(base).values())


def _looks(code: Any) -> bool:
    if not isinstance(code, CodeType):
        return False
    return "training" in code.co_names or any(map(_looks, code.co_consts))
