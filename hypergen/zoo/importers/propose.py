"""Proposes a pattern for files of checkpoints from how they are called."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

_PIECE = re.compile(r"[A-Za-z]+|\d+(?:\.\d+)?(?:e-?\d+)?|[^A-Za-z0-9]+")
_STEPS = ("step", "steps", "iter", "iteration", "epoch", "ep", "e", "checkpoint", "ckpt")
_RUNS = ("run", "trial", "net", "network", "model", "member", "fold", "exp", "experiment", "id")
_METRICS = {"acc": "accuracy", "accuracy": "accuracy", "loss": "loss"}
_SPLITS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
_JOINED = re.compile(rf"({'|'.join(_SPLITS)})?({'|'.join(sorted(_METRICS, key=len, reverse=True))})")
_SUFFIXES = (".pth", ".pt", ".safetensors", ".bin", ".ckpt", ".tar")


def propose(names: Sequence[str], like: str = "") -> str:
    """A pattern for files like one.

    Args:
        names: Paths of files below a folder, with slashes.
        like: The one that describes the others; the first that looks like a checkpoint by default.

    Returns:
        A pattern with fields, for :func:`hypergen.zoo.importers.files.find`. A metric whose name tells no split is
        taken for one on test data.
    """
    tensors = [name for name in names if PurePosixPath(name).suffix in _SUFFIXES] or list(names)
    path = PurePosixPath(like or tensors[0])
    alike = [PurePosixPath(name) for name in tensors if len(PurePosixPath(name).parts) == len(path.parts)]
    alike = [other for other in alike if other.suffix == path.suffix] or [path]
    fields: set[str] = set()
    parts = []
    for number, folder in enumerate(path.parts[:-1]):
        varies = len({other.parts[number] for other in alike}) > 1
        if varies:
            parts.append("{run}" if "run" not in fields else f"{{hyperparameters.folder{number}}}")
            fields.add("run")
        else:
            parts.append(folder)
    return "/".join([*parts, _file(path, alike, fields)])


def _file(path: PurePosixPath, alike: Sequence[PurePosixPath], fields: set[str]) -> str:
    pieces = _PIECE.findall(path.stem)
    others = [_PIECE.findall(other.stem) for other in alike]
    others = [other for other in others if len(other) == len(pieces)]
    text, words = "", list[str]()
    for number, piece in enumerate(pieces):
        if piece[0].isdigit():
            field = _field(words, fields)
            if field in fields:
                field = f"hyperparameters.{'_'.join(words[-1:]) or 'number'}{number}"
            fields.add(field)
            whole = field in ("step", "init_seed")
            text += "{run}" if field == "run" else f"{{{field}:{'d' if whole else 'f'}}}"
            words = []
            continue
        if piece.isalpha():
            if len({other[number] for other in others}) > 1:
                field = "run" if "run" not in fields else f"hyperparameters.word{number}"
                fields.add(field)
                text, words = f"{text}{{{field}}}", []
                continue
            words.append(piece.lower())
        text += piece
    return text + path.suffix


def _field(words: Sequence[str], fields: set[str]) -> str:
    """What a number is, from the words before it."""
    last = words[-1] if words else ""
    if last in _STEPS:
        return "step"
    if last == "seed":
        return "init_seed"
    if joined := _JOINED.fullmatch("".join(words[-2:])) or _JOINED.fullmatch(last):
        return f"{_SPLITS.get(joined[1], 'test')}.{_METRICS[joined[2]]}"
    if last in _RUNS or not words:
        return "run" if "run" not in fields and last not in _STEPS else "step"
    return f"hyperparameters.{last}"
