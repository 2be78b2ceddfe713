"""Predict the parameters of any ``torch.nn.Module``.

The public names load when they are first used, so that ``import hypergen`` costs little beyond torch's own import.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hypergen._torchvision import declare_operators

if TYPE_CHECKING:
    from hypergen.api.disk import predict_to_disk
    from hypergen.api.predict import Generator, initialize, list_generators, load_generator, predict_params
    from hypergen.graph import ComputationalGraph, trace

__version__ = "0.1.0"

__all__ = [
    "ComputationalGraph",
    "Generator",
    "__version__",
    "initialize",
    "list_generators",
    "load_generator",
    "predict_params",
    "predict_to_disk",
    "trace",
]

_HOME_OF = {
    "ComputationalGraph": "hypergen.graph",
    "trace": "hypergen.graph",
    "Generator": "hypergen.api",
    "initialize": "hypergen.api",
    "list_generators": "hypergen.api",
    "load_generator": "hypergen.api",
    "predict_params": "hypergen.api",
    "predict_to_disk": "hypergen.api",
}

# Before anything in the package gets to import torchvision, itself or through torchmetrics and Lightning.
declare_operators()


def __getattr__(name: str) -> Any:
    """Import a public name from the module that defines it, once."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'hypergen' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted(set(globals()) | set(__all__))
