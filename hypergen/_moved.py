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
            raise ModuleNotFoundError(f"{fullname} has moved: import {new} instead.", name=fullname)


def new_name(old: str) -> str | None:
    """Where the module of an earlier version, or the package that it was in, is now."""
    lines = _TABLE.read_text(encoding="utf-8").splitlines()
    moved = dict(line.split() for line in lines if line and not line.startswith("#"))
    name = old.removeprefix("hypergen.")
    while name:
        if name in moved:
            new = moved[name]
            return new if new.partition(".")[0] in ("experiments", "benchmarks") else f"hypergen.{new}"
        name = name.rpartition(".")[0]
    return None


def explain_moved_modules() -> None:
    """Put the finder behind all others, once."""
    if not any(type(finder).__name__ == MovedModules.__name__ for finder in sys.meta_path):
        sys.meta_path.append(MovedModules())
