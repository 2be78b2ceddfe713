"""Classes of generators by name: a table of the methods' folders, and of what is registered beside them."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from pathlib import Path
from typing import Any, TypeVar

from hypergen.errors import CheckpointError, UnknownNameError

GeneratorClass = TypeVar("GeneratorClass", bound=type)

_classes: dict[str, Any] = {}


def register_generator(generator: GeneratorClass) -> GeneratorClass:
    """Make a generator class known by its name, so that its checkpoints can be loaded; a class decorator.

    Raises:
        ValueError: Another class has the name.
    """
    name = generator.__name__
    other = _classes.get(name)
    # The same class under a reloaded module is not another one.
    if other is not None and (other.__module__, other.__qualname__) != (generator.__module__, generator.__qualname__):
        raise ValueError(f"a generator class named {name!r} is registered already, by {other.__module__}")
    _classes[name] = generator
    return generator


@functools.cache
def exported_names() -> dict[str, str]:
    """Packages of the methods by the public names that they export; no class is imported for it."""
    folder = Path(__file__).parent
    packages = [f"{__package__}.{info.name}" for info in pkgutil.iter_modules([str(folder)]) if info.ispkg]
    return {name: package for package in packages for name in importlib.import_module(package).__all__}


def registered_names() -> list[str]:
    """Names of all generator classes: those of this package, imported or not, and those registered elsewhere."""
    for name, package in exported_names().items():
        getattr(importlib.import_module(package), name)
    return sorted(_classes)


def generator_class(name: str, source: str = "a checkpoint") -> Any:
    """The registered class of this name.

    A checkpoint can only ever name what is registered: importing what a file asks for would be running it.

    Args:
        name: Class name that a checkpoint gives.
        source: Where the name stands, for the error message.

    Raises:
        CheckpointError: No such class is registered.
    """
    package = exported_names().get(name)
    if name not in _classes and package is not None:
        getattr(importlib.import_module(package), name)
    if name not in _classes:
        unknown = UnknownNameError("generator class", name, registered_names())
        raise CheckpointError(
            f"{source!r} cannot be loaded. {unknown} If the class is your own, import the module that registers it "
            "(`@register_generator`) first."
        )
    return _classes[name]
