"""What importers find, and how it gets into a zoo."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from hypergen.errors import CheckpointError, HypergenError
from hypergen.zoo.importers.networks import KnownNetworks
from hypergen.zoo.index import plain_value, uid_of
from hypergen.zoo.layout import Layout, digest
from hypergen.zoo.writer import ZooWriter

OnError = Literal["raise", "skip"]
Measure = Callable[[Mapping[str, Tensor], Layout, Mapping[str, Any]], Mapping[str, Any]]
Logged = Callable[[str, int], Mapping[str, Any]]
# How prefixes of metrics' names are spelt, and the split that they mean.
_SPLITS = {"train": "train", "training": "train", "val": "validation", "valid": "validation", "test": "test"}
_SPLITS |= {"validation": "validation", "eval": "validation"}
_NAMES = {"acc": "accuracy"}


@dataclass(frozen=True)
class Found:
    """A checkpoint somewhere, not yet read.

    Args:
        path: Its file or folder, for messages.
        run: Run of the checkpoint.
        step: Step number of the run; None to find out by reading.
        read: Reads tensors, and further columns of the index by their full names (also ``step``).
        columns: Those that are known without reading.
        metadata: Metadata of the layout.
    """

    path: Path
    run: str
    step: int | None
    read: Callable[[], tuple[Mapping[str, Tensor], Mapping[str, Any]]]
    columns: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ImportReport:
    """What came of an import.

    Attributes:
        added: Names of the checkpoints in the zoo.
        known: Number of those that the zoo held already.
        failed: Files that could not be read, and why.
        layouts: Number of checkpoints added per layout id.
    """

    added: tuple[str, ...]
    known: int
    failed: Mapping[str, str]
    layouts: Mapping[str, int]


def unreadable(path: Path, error: CheckpointError) -> Found:
    """What stands for a checkpoint whose description cannot be read: an import may go on without it."""

    def read() -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        raise error

    return Found(path, path.name, None, read)


def add_found(
    found: Iterator[Found],
    folder: Path,
    source: str,
    on_error: OnError,
    networks: KnownNetworks | None = None,
    measure: Measure | None = None,
    logged: Logged | None = None,
) -> ImportReport:
    """Read checkpoints and add them to a zoo.

    Args:
        found: The checkpoints.
        folder: Folder of the zoo.
        source: Where they are, for messages.
        on_error: What to do about a file that cannot be read.
        networks: The networks that they are of.
        measure: Further columns of a checkpoint, from its tensors and their layout.
        logged: Further columns of a checkpoint, from its run and step.
    """
    added: list[str] = []
    failed: dict[str, str] = {}
    layouts: dict[str, int] = {}
    known, seen = 0, dict[str, tuple[Path, str]]()
    checkpoints = list(found)
    if on_error == "raise":
        check_names(checkpoints, networks)
    with ZooWriter(folder) as writer:
        for checkpoint in checkpoints:
            try:
                if checkpoint.step is not None and _is_known(writer, checkpoint, checkpoint.step, seen):
                    known += 1
                    continue
                state, columns = checkpoint.read()
                columns = {**checkpoint.columns, **columns}
                step = _step(columns.pop("step", checkpoint.step))
                columns = {**(logged(checkpoint.run, step) if logged else {}), **columns}
                uid = uid_of(checkpoint.run, step)
                content = digest(state)
                if uid in seen and seen[uid][1] == content:  # as last.ckpt often is a copy of the best one
                    known += 1
                    continue
                if _is_known(writer, checkpoint, step, seen):
                    known += 1
                    continue
                if networks is None:
                    layout = Layout.of(state, metadata=checkpoint.metadata)
                else:
                    state, layout = networks.layout_of(state, checkpoint.metadata)
                columns = {**(measure(state, layout, columns) if measure else {}), **columns}
                stacked = {entry.key: state[entry.key].unsqueeze(0) for entry in layout.entries}
                names = writer.add_stacked(stacked, runs=[checkpoint.run], steps=step, layout=layout, columns=columns)
            except (HypergenError, OSError) as error:
                message = str(error) if str(checkpoint.path) in str(error) else f"{str(checkpoint.path)!r}: {error}"
                if on_error == "raise":
                    raise CheckpointError(message) from error
                failed[str(checkpoint.path)] = message
                continue
            seen[names[0]] = checkpoint.path, content
            added += names
            layouts[layout.id] = layouts.get(layout.id, 0) + 1
    if not added and not known and not failed:
        raise CheckpointError(f"{str(source)!r} holds no checkpoint of this kind.")
    return ImportReport(tuple(added), known, failed, layouts)


def check_names(checkpoints: Sequence[Found], networks: KnownNetworks | None = None) -> None:
    """Find out before anything is written whether two files would be one checkpoint, or are of no known network.

    Raises:
        CheckpointError: They would, or one is; the message names the files.
    """
    seen: dict[str, Found] = {}
    for each in checkpoints:
        if each.step is not None:
            other = seen.setdefault(uid_of(each.run, each.step), each)
            if other is not each and digest(each.read()[0]) != digest(other.read()[0]):
                raise CheckpointError(_both(each.path, other.path, uid_of(each.run, each.step)))
    for each in checkpoints if networks is not None else ():
        assert networks is not None
        try:
            networks.layout_of(each.read()[0], each.metadata)
        except CheckpointError as error:
            message = str(error) if str(each.path) in str(error) else f"{str(each.path)!r}: {error}"
            raise CheckpointError(message) from error


def _both(path: Path, other: Path, uid: str) -> str:
    return (
        f"{str(path)!r} and {str(other)!r} would both be {uid!r}, a run and a step. Tell them apart, for example by a "
        "pattern that reads both from the files' names."
    )


def _step(step: Any) -> int:
    value = plain_value("step", step)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value or int(value) != value:
        raise CheckpointError(f"The step is {step!r}; expected a whole number.")
    return int(value)


def _is_known(writer: ZooWriter, found: Found, step: int, seen: Mapping[str, tuple[Path, str]]) -> bool:
    """Whether the zoo holds a checkpoint; but two files of one import must not be taken for the same."""
    uid = uid_of(found.run, step)
    if uid in seen:
        if found.step is not None and found.read is not None and seen[uid][1] == digest(found.read()[0]):
            return True
        raise CheckpointError(_both(found.path, seen[uid][0], uid))
    return uid in writer


def columns_of(hyperparameters: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Columns of the index from what somebody logged.

    Args:
        hyperparameters: By name; lists and the like become JSON text, and None is left out.
        metrics: By names such as ``val_acc`` or ``test/loss``: those whose first word is no split are left out.
    """
    columns: dict[str, Any] = {}
    for name, value in hyperparameters.items():
        if value is not None:
            plain = isinstance(value, (bool, int, float, str))
            columns[f"hyperparameters.{name}"] = value if plain else _as_text(value)
    for name, value in metrics.items():
        word, _, rest = name.replace("/", "_").partition("_")
        if word in _SPLITS and rest and isinstance(value, (int, float)) and not isinstance(value, bool):
            columns[f"{_SPLITS[word]}.{_NAMES.get(rest, rest)}"] = value
    return columns


def _as_text(value: Any) -> str:
    try:
        return json.dumps(value, default=lambda other: f"<{type(other).__name__}>", skipkeys=True)
    except (TypeError, ValueError, RecursionError):
        return f"<{type(value).__name__}>"
