"""Imports of modules that have moved fail with the new name; there are no aliases."""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

_TABLE = Path(__file__).with_name("moved_modules.txt")


class MovedModules(MetaPathFinder):
    """The last finder of all: it finds nothing, and says where modules of earlier versions are now."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        """Explain the name of an earlier version.

        Raises:
            ModuleNotFoundError: The module has moved; the message gives its new name.
        """
        if not fullname.startswith("hypergen."):
            return
        new = new_name(fullname)
        if new is not None:
            parts = moved_parts(fullname)
            more = f" Of its modules, {', '.join(f'{old} is {now}' for old, now in parts.items())}." if parts else ""
            raise ModuleNotFoundError(f"{fullname} has moved: import {new} instead.{more}", name=fullname)


def new_name(old: str) -> str | None:
    """Where the module of an earlier version, or the package that it was in, is now."""
    moved = _moved()
    name = old.removeprefix("hypergen.")
    while name:
        if name in moved:
            return moved[name]
        name = name.rpartition(".")[0]
    return None


def moved_parts(package: str) -> dict[str, str]:
    """Where the modules of a package of an earlier version are now: a package is imported before its modules."""
    name = package.removeprefix("hypergen.")
    return {old.removeprefix(f"{name}."): new for old, new in _moved().items() if old.startswith(f"{name}.")}


def _moved() -> dict[str, str]:
    lines = _TABLE.read_text(encoding="utf-8").splitlines()
    table = dict(line.split() for line in lines if line and not line.startswith("#"))
    outside = ("experiments", "benchmarks")
    return {old: new if new.partition(".")[0] in outside else f"hypergen.{new}" for old, new in table.items()}


def explain_moved_modules() -> None:
    """Put the finder behind all others, once."""
    if not any(type(finder).__name__ == MovedModules.__name__ for finder in sys.meta_path):
        sys.meta_path.append(MovedModules())
