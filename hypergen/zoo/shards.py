"""The files that checkpoints lie in: stacked tensors, and the rows of the index that describe them.

A shard is one safetensors file whose metadata repeats its rows of the index. So it appears, with its rows, in one
step; ``index.parquet`` is a copy of all rows for fast reading, and can be made again from the shards at any time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hypergen.errors import CheckpointError
from hypergen.functional.checkpoint_files import check_start, first_line
from hypergen.functional.files import parse_json, replace_file
from hypergen.zoo.index import check_index, table_from_rows
from hypergen.zoo.layout import Layout

ADVICE = "What the zoo held before is still readable; make room and go on."
_ROWS = "rows"
# How safetensors' headers spell the types of torch.
_TYPES = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "BF16": "bfloat16", "BOOL": "bool", "C64": "complex64"}
_TYPES |= {f"F{bits}": f"float{bits}" for bits in (16, 32, 64)}
_TYPES |= {
    f"{letter}{bits}": f"{word}{bits}" for letter, word in (("I", "int"), ("U", "uint")) for bits in (8, 16, 32, 64)
}


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

    replace_file(path, write, ADVICE)


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
        check_start(path)
        try:
            self._file = safe_open(path, framework="pt")
            self._metadata = self._file.metadata() or {}
            self._checked: set[str] = set()
        except (SafetensorError, OSError, ValueError) as error:
            reason = first_line(error)
            raise CheckpointError(
                f"The shard {str(path)!r} is truncated or damaged ({reason}; {path.stat().st_size:,} bytes)."
            ) from error

    def __reduce__(self) -> tuple[type[Shard], tuple[Path]]:
        # A mapped file is not sent to another process, which opens its own.
        return Shard, (self.path,)

    def rows(self) -> pa.Table:
        """Its rows of the index."""
        try:
            columns = parse_json(self._metadata[_ROWS], "its list of rows")
            names = list(columns)
            rows = [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]
            # What a file says of its own name and order is not believed.
            for number, row in enumerate(rows):
                row |= {"shard": self.path.name, "row": number}
            table = check_index(table_from_rows(rows))
            if (count := self._count()) is not None and count != len(rows):
                raise CheckpointError(f"it has {len(rows)} rows for {count} checkpoints")
            return table
        except (
            KeyError,
            ValueError,
            TypeError,
            AttributeError,
            OverflowError,
            CheckpointError,
            pa.ArrowException,
        ) as error:
            raise CheckpointError(
                f"The shard {str(self.path)!r} does not hold its rows of the index ({type(error).__name__}: "
                f"{str(error)[:300]}). Files in shards/ come from ZooWriter; put others elsewhere and import them."
            ) from error

    def _count(self) -> int | None:
        """How many checkpoints its tensors are of; None without any tensor."""
        for key in self._file.keys():  # noqa: SIM118
            shape = self._file.get_slice(key).get_shape()
            return shape[0] if shape else 0
        return None

    def check(self, layout: Layout) -> None:
        """Compare the file's header with a layout, before anything is read.

        Raises:
            CheckpointError: A tensor is missing, or of another shape or type.
        """
        if layout.id in self._checked:
            return
        there, count = set(self._file.keys()), self._count() or 0
        for entry in layout.stored:
            found = self._file.get_slice(entry.key) if entry.key in there else None
            shape = None if found is None else found.get_shape()
            dtype = None if found is None else _TYPES.get(found.get_dtype(), found.get_dtype())
            if shape != [count, *entry.shape] or dtype != entry.dtype:
                raise CheckpointError(
                    f"The shard {str(self.path)!r} holds {entry.key!r} as {shape} {dtype}; its layout {layout.id} "
                    f"expects {[count, *entry.shape]} {entry.dtype}. Restore the shard."
                )
        self._checked.add(layout.id)

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
        if any(not 0 <= row < len(stacked) for row in rows):
            raise CheckpointError(f"The shard {str(self.path)!r} has {len(stacked)} rows; the index names others.")
        return stacked[torch.tensor(rows)]
