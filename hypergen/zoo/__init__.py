"""Zoos: collections of checkpoints with their metadata, loaded when they are used."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hypergen.zoo.layout import Entry, Layout
    from hypergen.zoo.reader import Zoo
    from hypergen.zoo.stacked import Recipe, Snapshot, train_stacked
    from hypergen.zoo.writer import ZooWriter

__all__ = ["Entry", "Layout", "Recipe", "Snapshot", "Zoo", "ZooWriter", "train_stacked"]

_MODULES = {
    "Entry": "layout",
    "Layout": "layout",
    "Recipe": "stacked",
    "Snapshot": "stacked",
    "Zoo": "reader",
    "ZooWriter": "writer",
    "train_stacked": "stacked",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
