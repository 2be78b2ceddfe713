"""Lets torchvision be imported beside a torch that its binary was not built for.

torchvision's default wheel is built for CUDA. Beside a CPU-only torch its C++ extension does not load, so the operators
``torchvision::nms`` and ``torchvision::qnms`` are never defined, and its import fails at the first line that registers
a shape function for them ("operator torchvision::nms does not exist"), taking torchmetrics, Lightning and timm along.
Models and transforms need none of those operators: declaring the two schemas is enough for them to work.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}

# A torch.library.Library takes its declarations back when it is collected.
_library: Any = None


def declare_operators() -> bool:
    """Declare torchvision's missing operators where its C++ extension does not load; else do nothing.

    Whether the extension loads is found out by loading it, as torchvision's import is about to do: versions and build
    tags only hint at it, and a declaration made ahead of a working extension would make that extension fail. Loading
    it twice is a no-op. Calling this again is, too.

    Returns:
        Whether this call, or an earlier one, had to declare the operators.
    """
    global _library
    if _library is not None:
        return True
    if "torchvision" in sys.modules:
        return False  # Already imported, with or without its operators; nothing is left to cure.
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False

    import torch

    if _loads(Path(spec.origin).parent) or hasattr(torch.ops.torchvision, "nms"):
        return False
    # A fragment, because another package may own the namespace's definition.
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)
    _library = library
    return True


def _loads(folder: Path) -> bool:
    """Whether torchvision's C++ extension, if it has one, loads into this process."""
    import torch

    for suffix in ("so", "pyd"):
        extension = folder / f"_C.{suffix}"
        if extension.exists():
            try:
                torch.ops.load_library(str(extension))
            except (ImportError, OSError):
                return False
            return True
    return False
