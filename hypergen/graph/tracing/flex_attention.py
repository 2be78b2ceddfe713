"""Lets PyTorch's flex attention run where it is only looked at: on meta tensors, and without being compiled."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

_MODULE = "torch.nn.attention.flex_attention"


@contextmanager
def flex_attention_anywhere() -> Iterator[None]:
    """Take away what keeps flex attention from meta tensors: a check of the device, and the compiler.

    Both have no public switch. Where PyTorch has changed them, flex attention is traced as far as PyTorch lets it.
    """
    module = sys.modules.get(_MODULE)
    changes = {"_validate_device": lambda *_: None, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG": True}
    present: dict[str, Any] = {name: value for name, value in changes.items() if hasattr(module, name)}
    with patch.multiple(_MODULE, **present) if present else nullcontext():
        yield
