"""Generators by name, path or Hub id."""

from __future__ import annotations

import fnmatch
import os
import warnings
from pathlib import Path

import torch

from hypergen.errors import GeneratorError, UnknownNameError
from hypergen.generators.checkpoint import WEIGHTS, read_checkpoint
from hypergen.generators.generator import Generator
from hypergen.generators.hub import locate

RELEASED = Path(__file__).parent / "pretrained"


def list_generators(pattern: str = "*") -> list[str]:
    """Names of the trained generators that come with the package.

    Args:
        pattern: Shell-style wildcards, for example ``"digits-*"``.
    """
    names = sorted(file.parent.name for file in RELEASED.glob(f"*/{WEIGHTS}"))
    return fnmatch.filter(names, pattern)


def load_generator(name: str | os.PathLike[str], *, device: str | torch.device | None = None) -> Generator:
    """Load a generator by its name, path or Hub id, in evaluation mode.

    Args:
        name: In this order: a name in :func:`list_generators`; a folder, a safetensors file, or a released file of
            GHN-2, GHN-3 or LoGAH (``.pt``); the name of such a file on the Hub (``"ghn3xlm16.pt"``); ``owner/name`` on
            the Hugging Face Hub; a published system (``"ghn-3-t"``, ``"logah-tiny"``), which is untrained then.
        device: Where to put it; the CPU by default.

    Returns:
        The generator.

    Raises:
        GeneratorError: The name is no text and no path.
        UnknownNameError: The name is none of these; the message gives the nearest released names.
        CheckpointError: It was found and cannot be loaded; the message says what to do.
    """
    if not isinstance(name, (str, os.PathLike)) or not str(name).strip() or "\x00" in str(name):
        raise GeneratorError(
            f"A generator is named by a text or a path, not by {str(name)[:100]!r} ({type(name).__name__}): pass a "
            f"folder, a file, an id on the Hugging Face Hub, or one of {', '.join(list_generators())}."
        )
    released = list_generators()
    path = Path(name).expanduser()
    if isinstance(name, str) and name in released:
        path = RELEASED / name
    elif not path.exists() and isinstance(name, str) and "/" not in name:
        published = _published(name, released)
        return published if device is None else published.to(device)
    elif path.is_file() and path.suffix == ".pt":
        from hypergen.generators.published.files import read_released

        return read_released(path).to(device)
    else:
        path = locate(name)
    return Generator.from_checkpoint(read_checkpoint(path), device=device)


def _published(name: str, released: list[str]) -> Generator:
    """A published system by the name of its released file, or untrained by its own name."""
    from hypergen.generators.published.files import (
        HUB_FILES,
        MAGNITUDE_INVARIANT,
        VARIANTS,
        from_hub,
        read_released,
        untrained,
    )

    if name in HUB_FILES:
        return read_released(from_hub(name))
    if name in VARIANTS or name in MAGNITUDE_INVARIANT:
        warnings.warn(
            f"{name!r} is at seeded initial values: it has not been trained, and what it predicts is of no use but to "
            "measure time and memory, or to train it. Trained ones: a released file's path, or list_generators().",
            stacklevel=3,
        )
        return untrained(name)
    if _looks_like_path(name):
        locate(name)  # says what is expected there
    raise UnknownNameError("generator", name, [*released, *VARIANTS, *MAGNITUDE_INVARIANT, *HUB_FILES])


def _looks_like_path(name: str) -> bool:
    """Whether a missing name was meant as a path or a Hub id, rather than as a released generator."""
    return "/" in name or os.sep in name or name.startswith((".", "~")) or Path(name).suffix != ""
