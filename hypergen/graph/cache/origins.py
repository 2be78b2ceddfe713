"""Where code comes from: the standard library, an installed package, or the user."""

from __future__ import annotations

import dis
import hashlib
import os
import sys
import sysconfig
import types
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

# Modules of the standard library that tell nothing about the machine, the time or the disk.
PURE = frozenset(
    """__future__ abc builtins collections contextlib copy dataclasses enum functools inspect itertools logging math
    numbers operator re string typing types warnings""".split()
)
_HOMES = tuple({os.path.realpath(sysconfig.get_path(name)) + os.sep for name in ("stdlib", "purelib", "platlib")})


def is_known(module: types.ModuleType) -> bool:
    """Whether a module's name and version tell its content."""
    file = file_of(module)
    return module.__name__.split(".")[0] in PURE or (is_installed(file) and not is_standard(file))


def file_of(module: types.ModuleType | None) -> str:
    """The file of a module; empty where there is none."""
    return getattr(module, "__file__", None) or ""


@lru_cache(maxsize=4096)
def is_installed(file: str) -> bool:
    """Whether a file belongs to an installed package, whose version says what is in it."""
    return os.path.realpath(file).startswith(_HOMES) or file.startswith("<frozen")


@lru_cache(maxsize=4096)
def is_standard(file: str) -> bool:
    """Whether a file, or its absence, means the standard library."""
    return not file or (is_installed(file) and not any(part.endswith("-packages") for part in Path(file).parts))


@lru_cache(maxsize=4096)
def package_of(module: str | None) -> str:
    """Name and version of the installed package that a module lies in; empty for others."""
    name = (module or "").split(".")[0]
    found = sys.modules.get(name)
    if not found or not is_installed(file_of(found)):
        return ""
    return f"{name} {getattr(found, '__version__', '')}"


def file_facts(file: str) -> Iterable[int]:
    """Size and time of a file of a package: somebody may have edited it."""
    try:
        status = os.stat(file)
    except OSError:
        return ()
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=4096)
def imports_of(code: types.CodeType) -> tuple[str, ...]:
    """The modules that a function imports when it runs."""
    return tuple(step.argval for step in dis.get_instructions(code) if step.opname == "IMPORT_NAME")


@lru_cache(maxsize=1)
def own_code() -> str:
    """A hash of the code that traces."""
    hasher = hashlib.blake2b()
    for file in sorted(Path(__file__).parents[1].rglob("*.py")):
        hasher.update(file.name.encode() + file.read_bytes())
    return hasher.hexdigest()
