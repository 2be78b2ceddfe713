"""Reads offline runs of Weights & Biases without its library.

A ``.wandb`` file is a log of records in the format of LevelDB: a header of 7 bytes, then blocks of 32 KiB of chunks
(checksum, length, kind, bytes), a record being one chunk or several. Each record is a message of protocol buffers, of
which few fields matter here: the run's name and configuration, and the history.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypergen.errors import CheckpointError

_BLOCK, _HEADER = 32_768, 7
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
# Numbers of fields in wandb's wandb_internal.proto.
_HISTORY, _SUMMARY, _CONFIG, _RUN = 2, 3, 5, 17
_RUN_ID, _RUN_CONFIG, _RUN_NAME = 1, 4, 8
_ITEM_KEY, _ITEM_NESTED_KEY, _ITEM_VALUE = 1, 2, 16


@dataclass
class OfflineRun:
    """What an offline run logged.

    Args:
        id: Id of the run.
        name: Name of the run; its id where it has none.
        config: Hyperparameters.
        history: Values by step.
    """

    id: str = ""
    name: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)


def read_offline_run(file: Path) -> OfflineRun:
    """Read a ``run-….wandb`` file; of one whose run was killed, what is complete.

    Raises:
        CheckpointError: It is no such file.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{str(file)!r} cannot be read: {error}.") from error
    if not content.startswith(b":W&B"):
        raise CheckpointError(f"{str(file)!r} is no log of Weights & Biases: it does not begin with ':W&B'.")
    run = OfflineRun()
    try:
        for record in _records(content):
            _take(run, record)
    except (ValueError, IndexError, struct.error) as error:
        raise CheckpointError(f"{str(file)!r} is damaged: {error}.") from error
    run.id = run.id or file.stem.removeprefix("run-")
    run.name = run.name or run.id
    return run


def _take(run: OfflineRun, record: bytes) -> None:
    for number, value in _fields(record):
        if not isinstance(value, bytes):
            continue
        if number == _RUN:
            for inner, own in _fields(value):
                if inner == _RUN_ID:
                    run.id = _text(own)
                elif inner == _RUN_NAME:
                    run.name = _text(own)
                elif inner == _RUN_CONFIG and isinstance(own, bytes):
                    run.config |= _items(own)
        elif number == _CONFIG:
            run.config |= _items(value)
        elif number == _HISTORY and (row := _items(value)):
            run.history.append(row)
    run.config.pop("_wandb", None)


def _items(message: bytes) -> dict[str, Any]:
    """The values of a configuration or of a row of the history: JSON by key."""
    found: dict[str, Any] = {}
    for number, item in _fields(message):
        if number != 1 or not isinstance(item, bytes):
            continue
        keys, text = [], ""
        for inner, value in _fields(item):
            if inner in (_ITEM_KEY, _ITEM_NESTED_KEY):
                keys.append(_text(value))
            elif inner == _ITEM_VALUE:
                text = _text(value)
        if keys and text:
            try:
                found["/".join(key for key in keys if key)] = json.loads(text)
            except ValueError:  # NaN and infinity are spelt in ways of its own
                continue
    return found


def _records(content: bytes) -> Iterator[bytes]:
    position, parts = _HEADER, b""
    while position + _HEADER <= len(content):
        left = _BLOCK - position % _BLOCK
        if left < _HEADER:  # padding
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + _HEADER])
        chunk = content[position + _HEADER : position + _HEADER + length]
        if len(chunk) < length or kind == 0:  # cut off when the run was killed
            return
        position += _HEADER + length
        if kind == _FULL:
            yield chunk
        elif kind == _FIRST:
            parts = chunk
        elif kind in (_MIDDLE, _LAST):
            parts += chunk
            if kind == _LAST:
                yield parts
        else:
            raise ValueError(f"a chunk of the unknown kind {kind}")


def _fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Numbers and values of the fields of a message of protocol buffers."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, position = _varint(message, position)
            yield number, value
        elif wire in (1, 5):
            position += 8 if wire == 1 else 4
        elif wire == 2:
            length, position = _varint(message, position)
            if position + length > len(message):
                raise ValueError("a field that ends beyond its message")
            yield number, message[position : position + length]
            position += length
        else:
            raise ValueError(f"a field of the unknown kind {wire}")


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position


def _text(value: bytes | int) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
