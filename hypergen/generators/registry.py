"""Generators by name: their classes, and the trained ones that come with the package."""

from __future__ import annotations

import fnmatch
import importlib
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch

from hypergen.errors import CheckpointError, UnknownNameError
from hypergen.generators.checkpoint import WEIGHTS, locate, read_checkpoint

if TYPE_CHECKING:
    from hypergen.generators.generator import Generator

GeneratorClass = TypeVar("GeneratorClass", bound="type[Generator]")

RELEASED = Path(__file__).parent / "pretrained"

# Classes of this package, imported when a checkpoint names them. A checkpoint can only ever name what is registered:
# importing what a file asks for would be running it.
_BUILT_IN = {
    "AutoregressiveGenerator": "hypergen.generators.autoregressive.model",
    "CheckpointTransformer": "hypergen.generators.checkpoint_transformer.model",
    "GraphHypernetwork": "hypergen.generators.ghn.model",
    "HyperRepresentation": "hypergen.generators.hyper_representation.model",
    "LatentDiffusion": "hypergen.generators.latent_diffusion.model",
    "RecurrentDiffusion": "hypergen.generators.recurrent_diffusion.model",
    "ReleasedGraphHypernetwork": "hypergen.generators.published.model",
}
_classes: dict[str, type[Generator]] = {}


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


def generator_class(name: str, source: str = "a checkpoint") -> type[Generator]:
    """The registered class of this name.

    Args:
        name: The class name that a checkpoint gives.
        source: Where the name stands, for the error message.

    Raises:
        CheckpointError: No such class is registered.
    """
    if name not in _classes and name in _BUILT_IN:
        importlib.import_module(_BUILT_IN[name])
    if name not in _classes:
        unknown = UnknownNameError("generator class", name, {*_classes, *_BUILT_IN})
        raise CheckpointError(
            f"{source!r} cannot be loaded. {unknown} If the class is your own, import the module that registers it "
            "(`@register_generator`) first."
        )
    return _classes[name]


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
        UnknownNameError: The name is none of these; the message gives the nearest released names.
        CheckpointError: It was found and cannot be loaded; the message says what to do.
    """
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
    checkpoint = read_checkpoint(path)
    return generator_class(checkpoint.class_name, checkpoint.source).from_checkpoint(checkpoint, device=device)


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
