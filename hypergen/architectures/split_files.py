"""Training architectures, and the split files under ``datasets/``, which travel inside an installed package."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from hypergen.architectures.architecture import JSON, Architecture
from hypergen.architectures.image_classifiers import ImageClassifierSpace
from hypergen.architectures.language_models import LANGUAGE_MODEL_SPLITS, language_model_split

SPLITS = ("validation", "test", "wide", "deep", "no_norm", "new_family")
_DATASET = "image_classifiers_digits"
_INSTALLED = Path(__file__).parent / "splits" / "digits"
_REPOSITORY = Path(__file__).parents[2] / "datasets" / _DATASET


def load_split(name: str, root: str | Path | None = None) -> list[Architecture]:
    """Load the architectures of a split of the digits space.

    Args:
        name: One of ``SPLITS``. Training has no file: see :class:`TrainingStream`.
        root: The folder of the split files; None for the ones that come with hypergen.

    Raises:
        ValueError: The name is unknown, or the file is not a split file.
        FileNotFoundError: The file is missing.
    """
    return [Architecture.from_json(entry) for entry in _read(name, root)["architectures"]]


def load_split_space(name: str, root: str | Path | None = None) -> ImageClassifierSpace:
    """The space that a split was drawn from; arguments and errors as in :func:`load_split`."""
    return ImageClassifierSpace(**_read(name, root)["space"])


def _read(name: str, root: str | Path | None) -> dict[str, Any]:
    if name not in SPLITS:
        raise ValueError(f"unknown split {name!r}; expected one of {SPLITS}")
    folders = [_INSTALLED, _REPOSITORY] if root is None else [Path(root)]
    for folder in folders:
        path = folder / f"{name}.json"
        if path.is_file():
            break
    else:
        raise FileNotFoundError(
            f"no file {name}.json in {' or '.join(str(folder) for folder in folders)}; "
            "pass the folder of the split files as root, or write them with `python -m hypergen.architectures.splits`"
        )
    try:
        content = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is not valid JSON ({error}); write it again with `python -m hypergen.architectures.splits`"
        ) from error
    if not isinstance(content, dict) or not {"space", "architectures"} <= set(content):
        raise ValueError(f"{path} is not a split file: it needs the keys 'space' and 'architectures'")
    return content


@lru_cache(maxsize=1)
def held_out_names() -> frozenset[str]:
    """The names of all architectures in the splits that come with hypergen."""
    image_classifiers = (architecture for split in SPLITS for architecture in load_split(split))
    language_models = (architecture for split in LANGUAGE_MODEL_SPLITS for architecture in language_model_split(split))
    return frozenset(architecture.name for architecture in chain(image_classifiers, language_models))


class Space(Protocol):
    """A distribution of architectures, such as :class:`ImageClassifierSpace`."""

    def sample(self, seed: int) -> Architecture:
        """Draw an architecture; the same for the same seed."""
        ...

    def to_json(self) -> dict[str, JSON]:
        """The keyword arguments that make an equal space."""
        ...


class TrainingStream:
    """An endless sequence of training architectures that never shows one of a split.

    Args:
        space: Where architectures are drawn from.
        offset: Index 0 is drawn with this seed, index 1 with the next.
        held_out: Names never to show; None for all splits that come with hypergen.
    """

    def __init__(self, space: Space, offset: int = 0, held_out: frozenset[str] | None = None) -> None:
        self.space = space
        self.offset = offset
        self.held_out = held_out_names() if held_out is None else held_out

    def __getitem__(self, index: int) -> Architecture:
        """The architecture at an index from 0; the same one on every machine."""
        if index < 0:
            raise IndexError(f"training architectures are counted from 0; got {index}")
        architecture = self.space.sample(self.offset + index)
        redraw = 0
        while architecture.name in self.held_out:
            redraw += 1
            # Seeds far away from any index, so that the stream does not repeat itself.
            architecture = self.space.sample((redraw << 64) + self.offset + index)
        return architecture

    def __iter__(self) -> Iterator[Architecture]:
        index = 0
        while True:
            yield self[index]
            index += 1
