"""Zoos: collections of checkpoints with their metadata, loaded when they are used."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hypergen.zoo.layout import Entry, Layout
    from hypergen.zoo.reader import Zoo
    from hypergen.zoo.writer import ZooWriter

__all__ = ["Entry", "Layout", "Zoo", "ZooWriter"]

_MODULES = {
    "Entry": "layout",
    "Layout": "layout",
    "Zoo": "reader",
    "ZooWriter": "writer",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
