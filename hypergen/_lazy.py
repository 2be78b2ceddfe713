"""Public names of a package that load when they are first used, so that importing the package costs little."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import sys
from collections.abc import Callable
from typing import Any


def lazy_exports(
    package: str, subpackages: bool = False
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Make a package re-export names of its modules without importing them.

    The package states its names once, where type checkers and editors look::

        if TYPE_CHECKING:
            from hypergen.generators.latent_diffusion.model import LatentDiffusion as LatentDiffusion

        __getattr__, __dir__, __all__ = lazy_exports(__name__)

    Args:
        package: Name of the package.
        subpackages: Whether what its subpackages export is exported as well.

    Returns:
        The package's ``__getattr__``, ``__dir__`` and ``__all__``.
    """
    module = sys.modules[package]
    homes = _stated(package)
    if subpackages:
        for info in pkgutil.iter_modules(module.__path__, f"{package}."):
            if info.ispkg:
                exported = getattr(importlib.import_module(info.name), "__all__", ())
                homes |= {name: (info.name, name) for name in exported}

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home, original = homes[name]
        value = getattr(importlib.import_module(home), original)
        setattr(module, name, value)
        return value

    return load, lambda: sorted({*vars(module), *homes}), sorted(homes)


def _stated(package: str) -> dict[str, tuple[str, str]]:
    """Module, and name there, by public name, of the imports under ``if TYPE_CHECKING`` in a package's source."""
    spec = sys.modules[package].__spec__
    source = getattr(spec and spec.loader, "get_source")(package)  # noqa: B009  # Also from a zip file.
    return {
        alias.asname or alias.name: (node.module, alias.name)
        for block in ast.parse(source).body
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for node in block.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
        if alias.name != "*"
    }
