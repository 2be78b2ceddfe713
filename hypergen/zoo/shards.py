"""The files that checkpoints lie in: stacked tensors, and the rows of the index that describe them.

A shard is one safetensors file whose metadata repeats its rows of the index. So it appears, with its rows, in one
step; ``index.parquet`` is a copy of all rows for fast reading, and can be made again from the shards at any time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hypergen.errors import CheckpointError
from hypergen.zoo.index import table_from_rows

_ROWS = "rows"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file that is whole or not there.

    Raises:
        CheckpointError: It could not be written; nothing of it is left.
    """
    own = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}

    def write(draft: Path) -> None:
        # safetensors makes files for their owner alone; a zoo is for everyone who may read its folder.
        draft.touch()
        mode = draft.stat().st_mode
        save_file(own, draft, dict(metadata or {}))
        draft.chmod(mode)

    replace_file(path, write)


def replace_file(path: Path, write: Any) -> None:
    """Let ``write`` make a draft beside ``path``, and put it in its place in one step.

    Args:
        path: The file.
        write: Called with the path of the draft.

    Raises:
        CheckpointError: It could not be written; what was there before still is.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(draft)
        with open(draft, "rb") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{str(path)!r} could not be written: {error}. What the zoo held before is still readable; make room and "
            "go on."
        ) from error
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def write_shard(path: Path, tensors: Mapping[str, Tensor], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a shard.

    Args:
        path: The file.
        tensors: [n, …] per key.
        rows: n rows of the index.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    # By column, which repeats no names.
    columns = {name: [row.get(name) for row in rows] for name in names}
    write_tensors(path, tensors, {"format": "pt", _ROWS: json.dumps(columns)})


class Shard:
    """An open shard; tensors are mapped into memory, and only what is asked for is read.

    Args:
        path: The file.

    Raises:
        CheckpointError: It is missing, truncated, or no shard.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise CheckpointError(f"The shard {str(path)!r} is missing.")
        try:
            self._file = safe_open(path, framework="pt")
            self._metadata = self._file.metadata() or {}
        except (SafetensorError, OSError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [""])[0][:200]
            raise CheckpointError(
                f"The shard {str(path)!r} is truncated or damaged ({reason}; {path.stat().st_size:,} bytes)."
            ) from error

    def __reduce__(self) -> tuple[type[Shard], tuple[Path]]:
        # A mapped file is not sent to another process, which opens its own.
        return Shard, (self.path,)

    def rows(self) -> pa.Table:
        """Its rows of the index."""
        try:
            columns = json.loads(self._metadata[_ROWS])
            names = list(columns)
            return table_from_rows([dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)])
        except (KeyError, ValueError, TypeError, pa.ArrowException) as error:
            raise CheckpointError(
                f"The shard {str(self.path)!r} does not hold its rows of the index ({type(error).__name__}: {error}). "
                "Files in shards/ come from ZooWriter; put others elsewhere and import them."
            ) from error

    def read(self, key: str, rows: Sequence[int] | None = None) -> Tensor:
        """Read one tensor of some checkpoints.

        Args:
            key: Its name.
            rows: Which checkpoints; None for all.

        Returns:
            [rows, …], in memory of its own.
        """
        try:
            stacked = self._file.get_tensor(key)
        except SafetensorError as error:
            raise CheckpointError(f"The shard {str(self.path)!r} has no tensor {key!r}: {error}.") from error
        if rows is None:
            return stacked.clone()
        first, count = rows[0] if rows else 0, len(rows)
        if all(row == first + i for i, row in enumerate(rows)):
            return stacked[first : first + count].clone()
        return stacked.index_select(0, torch.tensor(rows))
