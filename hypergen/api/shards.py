"""Parameters → sharded safetensors files, written as they are made: a network never has to fit into memory."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from hypergen.errors import ParameterError

INDEX = "model.safetensors.index.json"
JOURNAL = ".hypergen-shards.json"  # says whose shards lie in a folder that is not finished
DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
# Buffers keep their own type: counters, masks and tables of indices are integers.
BUFFER_DTYPES = DTYPES | {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}

_DRAFT = ".saving"
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


@dataclass(frozen=True)
class Shard:
    """One file of a sharded checkpoint.

    Attributes:
        file: Its name.
        names: The parameters in it, in order, then the buffers.
        header: Its first bytes, which tell names, types, shapes and places.
        size: Bytes of the whole file.
    """

    file: str
    names: tuple[str, ...]
    header: bytes
    size: int


def parse_size(size: int | str) -> int:
    """Bytes of ``5_000_000_000``, ``"5GB"`` or ``"500MiB"``.

    Raises:
        ParameterError: It is neither, or not positive.
    """
    match = re.fullmatch(r"\s*(\d{1,18}(?:\.\d{1,9})?)\s*([KMG]I?)?B?\s*", str(size).upper())
    number = int(float(match[1]) * _UNITS[match[2] or ""]) if match else 0
    if number <= 0:
        raise ParameterError(
            f"max_shard_size={str(size)[:100]!r} is no size: give bytes as a number, or a text such as '5GB'."
        )
    return number


def plan_shards(
    shapes: Mapping[str, Sequence[int]],
    dtype: torch.dtype,
    max_shard_size: int,
    buffers: Mapping[str, Tensor] | None = None,
) -> tuple[Shard, ...]:
    """Share parameters, and after them buffers, out over files, in order; a tensor is never split.

    Args:
        shapes: Shape of each parameter.
        dtype: ``torch.float32``, ``float16`` or ``bfloat16``.
        max_shard_size: Bytes of values in a file; a larger tensor gets a file of its own.
        buffers: Tensors that are written in their own data types.

    Raises:
        ParameterError: Another data type, or no parameters.
    """
    if not isinstance(dtype, torch.dtype) or dtype not in DTYPES:
        raise ParameterError(f"dtype={str(dtype)[:100]} is not written: choose one of {', '.join(map(str, DTYPES))}.")
    if not shapes:
        raise ParameterError("There are no parameters to write.")
    entries = {name: (tuple(shape), dtype) for name, shape in shapes.items()}
    entries |= {name: (tuple(value.shape), value.dtype) for name, value in (buffers or {}).items()}
    groups: list[list[str]] = [[]]
    filled = 0
    for name, (shape, of_entry) in entries.items():
        size = math.prod(shape) * of_entry.itemsize
        if groups[-1] and filled + size > max_shard_size:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    count = len(groups)
    files = [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    if count == 1:
        files = ["model.safetensors"]  # the name by which libraries find a checkpoint without an index
    return tuple(_shard(file, names, entries) for file, names in zip(files, groups, strict=True))


def _shard(file: str, names: Sequence[str], entries: Mapping[str, tuple[tuple[int, ...], torch.dtype]]) -> Shard:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name in names:
        shape, dtype = entries[name]
        end = place + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": BUFFER_DTYPES[dtype], "shape": list(shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format aligns values to 8 bytes
    first_bytes = len(text).to_bytes(8, "little") + text
    return Shard(file, tuple(names), first_bytes, len(first_bytes) + place)


class ShardedCheckpoint:
    """Writes a planned checkpoint into a folder, file after file, and goes on where an earlier writer stopped.

    A file gets its final name when it is whole and on the disk; the index is written last, so a folder with an index
    is a whole checkpoint.

    Args:
        folder: Where to; made if it is missing.
        shards: The plan.
        dtype: Data type of the values.
        fingerprint: What the values depend on. Files of a writer with the same fingerprint are kept; with another one
            they would be mixed up.
        buffers: Values of those names of the plan that are no parameters.

    Raises:
        ParameterError: The folder holds other files, or the disk has not enough room.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        shards: Sequence[Shard],
        dtype: torch.dtype,
        fingerprint: str,
        buffers: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.folder, self.shards, self.dtype = Path(folder), tuple(shards), dtype
        self.buffers = dict(buffers or {})
        if self.folder.exists() and not self.folder.is_dir():
            raise ParameterError(f"{str(folder)!r} is a file, and shards are written into a folder: name another one.")
        present = {path.name for path in self.folder.iterdir()} if self.folder.exists() else set()
        own = {shard.file for shard in shards} | {INDEX, JOURNAL, "config.json", "generation_config.json"}
        ours = JOURNAL in present and (self.folder / JOURNAL).read_text(encoding="utf-8") == fingerprint
        others = sorted(name for name in present - (own if ours else set()) if not name.endswith(_DRAFT))
        if others:
            more = f" and {len(others) - 5} more" if len(others) > 5 else ""
            raise ParameterError(
                f"{str(folder)!r} already holds {', '.join(others[:5])}{more}. Shards are written into an empty "
                "folder, or one where the same generator was writing the same network and was stopped: name another "
                "folder, or empty this one."
            )
        self.missing = tuple(shard for shard in shards if not self._is_whole(shard))
        self._check_room()
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._errors():
            self._write_text(JOURNAL, fingerprint)

    def _is_whole(self, shard: Shard) -> bool:
        path = self.folder / shard.file
        if not path.is_file() or path.stat().st_size != shard.size:
            return False
        with open(path, "rb") as file:
            return file.read(len(shard.header)) == shard.header

    def _check_room(self) -> None:
        home = next(path for path in (self.folder, *self.folder.absolute().parents) if path.exists())
        needed, free = sum(shard.size for shard in self.missing), shutil.disk_usage(home).free
        if needed > free:
            raise ParameterError(
                f"The checkpoint takes {needed:,} more bytes, and the disk of {str(home)!r} has {free:,} free: make "
                "room, choose a smaller dtype or name another folder."
            )

    def parts(self, max_values: int) -> list[tuple[str, ...]]:
        """The parameters of the missing files in portions of at most this many values (a larger one by itself)."""
        parts: list[tuple[str, ...]] = []
        for shard in self.missing:
            entries = json.loads(shard.header[8:])
            part: list[str] = []
            filled = 0
            for name in shard.names:
                if name in self.buffers:
                    continue
                size = math.prod(entries[name]["shape"])
                if part and filled + size > max_values:
                    parts.append(tuple(part))
                    part, filled = [], 0
                part.append(name)
                filled += size
            if part:
                parts.append(tuple(part))
        return parts

    def write(self, portions: Iterable[Mapping[str, Tensor]]) -> Iterator[int]:
        """Write the missing files from the parameters of :meth:`parts`, in their order.

        The disk works beside the processor: while a portion is written, the next one may be made.

        Yields:
            The bytes written, after each portion.

        Raises:
            ParameterError: The disk is full or fails; whole files stay, and the next writer goes on after them.
        """
        values = iter(portions)
        with self._errors(), ThreadPoolExecutor(1) as disk:
            for shard in self.missing:
                draft = self.folder / (shard.file + _DRAFT)
                try:
                    with open(draft, "wb") as file:
                        file.write(shard.header)
                        written, left = None, set(shard.names) - self.buffers.keys()
                        while left:
                            portion = next(values)
                            left -= portion.keys()
                            data = [self._as_bytes(name, value) for name, value in portion.items()]
                            del portion
                            if written is not None:
                                yield written.result()
                            written = disk.submit(_write_all, file, data)
                            del data
                        if written is not None:
                            yield written.result()
                        fixed = [_bytes_of(self.buffers[name]) for name in shard.names if name in self.buffers]
                        yield _write_all(file, fixed)
                        file.flush()
                        os.fsync(file.fileno())
                    os.replace(draft, self.folder / shard.file)
                finally:
                    draft.unlink(missing_ok=True)
            self._write_index()

    def _as_bytes(self, name: str, value: Tensor) -> NDArray[Any]:
        converted = value.detach().to(self.dtype)
        if self.dtype == torch.float16 and not converted.isfinite().all():
            raise ParameterError(
                f"Values of {name!r} are too large for float16. Write bfloat16 or float32 into an empty folder."
            )
        return _bytes_of(converted)

    def _write_index(self) -> None:
        if len(self.shards) > 1:
            total = sum(shard.size - len(shard.header) for shard in self.shards)
            places = {name: shard.file for shard in self.shards for name in shard.names}
            index = {"metadata": {"total_size": total}, "weight_map": places}
            self._write_text(INDEX, json.dumps(index, indent=2) + "\n")
        (self.folder / JOURNAL).unlink()

    def _write_text(self, name: str, text: str) -> None:
        draft = self.folder / (name + _DRAFT)
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, self.folder / name)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ParameterError(
                f"{str(self.folder)!r} could not be written: {error}. Files that are whole stay there; make room and "
                "write again into the same folder to go on after them."
            ) from error


def _bytes_of(value: Tensor) -> NDArray[Any]:
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def _write_all(file: IO[bytes], data: Sequence[Any]) -> int:
    return sum(file.write(values) for values in data)
