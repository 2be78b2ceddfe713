"""Reads a zoo: its index, its layouts, one checkpoint, or many of them stacked."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import torch
from safetensors.torch import load_file
from torch import Tensor

from hypergen.errors import CheckpointError, ParameterError, UnknownNameError
from hypergen.functional.checkpoint_files import check_start
from hypergen.functional.files import inside
from hypergen.zoo.folder import BASE, SHARDS, check_folder, read_layouts, read_rows, read_tasks, shards_without_index
from hypergen.zoo.index import SPLITS, join
from hypergen.zoo.layout import Layout, digest
from hypergen.zoo.shards import Shard

OnCorrupt = Literal["raise", "skip"]


class Zoo:
    """Checkpoints with their metadata, some or all of those in a folder.

    Reading maps shards into memory and touches only what is asked for. A zoo may be read while it is written; it is
    what it was when it was opened.

    Args:
        folder: Folder of the zoo.
        on_corrupt: What to do about shards that are missing, truncated or damaged: ``"raise"``, or ``"skip"`` them
            with a warning that names them; :attr:`skipped` lists them.

    Attributes:
        index: A row per checkpoint, with the columns of :data:`hypergen.zoo.index.SCHEMA`, and
            ``hyperparameters.*``, ``validation.*`` and ``test.*``.
        layouts: By their ids.
        skipped: Files that were left out, and why.

    Raises:
        CheckpointError: There is no zoo, or a file is damaged; the message names each damaged shard.
    """

    def __init__(self, folder: str | os.PathLike[str], *, on_corrupt: OnCorrupt = "raise") -> None:
        if on_corrupt not in ("raise", "skip"):
            raise ValueError(f"on_corrupt must be 'raise' or 'skip'; got {on_corrupt!r}")
        self.folder = check_folder(Path(folder))
        self.on_corrupt = on_corrupt
        self._damaged_layouts: dict[str, str] = {}
        self.layouts: Mapping[str, Layout] = read_layouts(self.folder, self._damaged_layouts)
        self.skipped: dict[str, str] = {}
        self._shards: dict[str, Shard] = {}
        self.index: pa.Table = self._read_index()

    def _read_index(self) -> pa.Table:
        rows = read_rows(self.folder)
        tables = [rows]
        for name in shards_without_index(self.folder, rows):
            try:
                self._shards[name] = Shard(inside(self.folder / SHARDS, name, "The index"))
                tables.append(self._shards[name].rows())
            except CheckpointError as error:
                self.skipped[name] = str(error)
        for name in rows["shard"].unique().to_pylist():
            try:
                self._shards[name] = Shard(inside(self.folder / SHARDS, name, "The index"))
            except CheckpointError as error:
                self.skipped[name] = str(error)
        index, notes = join(tables)
        for layout_id in set(index["layout"].unique().to_pylist()) - set(self.layouts):
            why = self._damaged_layouts.get(layout_id, f"Its layout {layout_id!r} is missing.")
            of_layout = index.filter(pc.equal(index["layout"], layout_id))
            self.skipped |= {name: f"{name}: {why}" for name in of_layout["shard"].unique().to_pylist()}
        for note in notes:
            warnings.warn(f"{str(self.folder)!r}: {note}", stacklevel=4)
        if not self.skipped:
            return index
        lost = pc.is_in(index["shard"], pa.array(list(self.skipped), pa.string()))
        self._report(f"{pc.sum(lost).as_py() or 0} checkpoints of the index lie in them.")
        return index.filter(pc.invert(lost))

    def _report(self, consequence: str) -> None:
        message = (
            f"{len(self.skipped)} shards of the zoo cannot be read. {' '.join(self.skipped.values())} {consequence}"
        )
        if self.on_corrupt == "raise":
            raise CheckpointError(f"{message} Restore them, or pass on_corrupt='skip' to go on without them.")
        warnings.warn(f"{message} They are skipped.", stacklevel=4)

    def __len__(self) -> int:
        return self.index.num_rows

    def __repr__(self) -> str:
        return f"Zoo({str(self.folder)!r}: {len(self)} checkpoints of {len(self.layouts)} layouts)"

    @cached_property
    def tasks(self) -> Mapping[str, Any]:
        """What the zoo says about its tasks, by their names."""
        return read_tasks(self.folder)

    def column(self, name: str) -> list[Any]:
        """A column of the index as Python values, None where there is none.

        Raises:
            UnknownNameError: There is no such column.
        """
        if name not in self.index.column_names:
            raise UnknownNameError("column of the zoo", name, self.index.column_names)
        return self.index[name].to_pylist()

    def select(self, condition: pc.Expression | None = None, **equal: Any) -> Zoo:
        """The checkpoints for which a condition holds, as a zoo of their own.

        Args:
            condition: For example ``pyarrow.compute.field("validation.accuracy") > 0.9``.
            **equal: Columns and the value that they are to have, or a list of values:
                ``zoo.select(split_run="train", step=[0, 100])``.

        Raises:
            UnknownNameError: There is no such column.
        """
        for name, value in equal.items():
            if name not in self.index.column_names:
                raise UnknownNameError("column of the zoo", name, self.index.column_names)
            values = value if isinstance(value, (list, tuple, set, frozenset)) else [value]
            kind = self.index.schema.field(name).type
            try:
                of_type = pc.field(name).isin(pa.array(list(values), kind))
            except (pa.ArrowException, TypeError, OverflowError, ValueError) as error:
                raise ParameterError(
                    f"{name}={value!r} does not fit the column, which holds {kind}: {error}"
                ) from error
            condition = of_type if condition is None else condition & of_type
        try:
            return self if condition is None else self._view(self.index.filter(condition))
        except (pa.ArrowException, TypeError) as error:
            raise ParameterError(f"The condition does not fit the zoo's columns: {error}") from error

    def split(self, name: str, by: Literal["run", "task"] = "run") -> Zoo:
        """The checkpoints of a split.

        Args:
            name: ``"train"``, ``"validation"`` or ``"test"``.
            by: Whether unseen runs are held out, or unseen tasks.
        """
        if name not in SPLITS or by not in ("run", "task"):
            raise ValueError(f"expected one of {SPLITS} by 'run' or 'task'; got {name!r} by {by!r}")
        return self.select(**{f"split_{by}": name})

    def take(self, positions: Iterable[int]) -> Zoo:
        """The checkpoints at these positions, in this order, as a zoo of their own."""
        return self._view(self.index.take(pa.array(list(positions), pa.int64())))

    def last(self) -> Zoo:
        """The last checkpoint of every run, as a zoo of its own."""
        latest: dict[str, int] = {}
        steps = self.column("step")
        for position, run in enumerate(self.column("run")):
            if run not in latest or steps[position] > steps[latest[run]]:
                latest[run] = position
        return self.take(sorted(latest.values()))

    def _view(self, index: pa.Table) -> Zoo:
        view = Zoo.__new__(Zoo)
        view.__dict__ |= {**self.__dict__, "index": index.combine_chunks()}
        return view

    @property
    def layout(self) -> Layout:
        """The one layout of all checkpoints.

        Raises:
            ParameterError: They have several, or there are no checkpoints.
        """
        ids = self.index["layout"].unique().to_pylist()
        if len(ids) != 1:
            counts = ", ".join(
                f"{value['values']} ({value['counts']})" for value in self.index["layout"].value_counts().to_pylist()
            )
            raise ParameterError(
                f"These {len(self)} checkpoints have {len(ids)} layouts{': ' if counts else ''}{counts}. Take those of "
                "one with zoo.select(layout=…)."
            )
        return self.layouts[ids[0]]

    def layout_of(self, position: int) -> Layout:
        """The layout of one checkpoint."""
        return self.layouts[self._row(position)["layout"]]

    def parameters(self, position: int) -> dict[str, Tensor]:
        """The parameters of one checkpoint, under the names of ``model.named_parameters()``, frozen ones included.

        Args:
            position: In this zoo, from 0.

        Returns:
            A tensor per name, in the order of the layout.

        Raises:
            IndexError: There is no such checkpoint.
            CheckpointError: Its shard is damaged.
        """
        layout = self.layout_of(position)
        state = self._read_one(position, layout)
        return {entry.key: state[entry.key] for entry in layout.entries if entry.kind == "parameter"}

    def state_dict(self, position: int) -> dict[str, Tensor]:
        """Everything of one checkpoint, as ``model.load_state_dict`` takes it: parameters, buffers and tied names.

        Raises:
            IndexError: There is no such checkpoint.
            CheckpointError: Its shard is damaged.
        """
        layout = self.layout_of(position)
        state = self._read_one(position, layout)
        return state | {alias: state[key] for alias, key in layout.tied.items()}

    def _read_one(self, position: int, layout: Layout) -> dict[str, Tensor]:
        row = self._row(position)
        shard, rows = self._shards[row["shard"]], [row["row"]]
        shard.check(layout)
        own = {entry.key: shard.read(entry.key, rows)[0] for entry in layout.stored}
        if layout.base:
            own |= self.base(layout)
        return {entry.key: own[entry.key] for entry in layout.entries}

    def _row(self, position: int) -> dict[str, Any]:
        if not -len(self) <= position < len(self):
            raise IndexError(f"the zoo has {len(self)} checkpoints; there is none at {position}")
        return self.index.slice(position % len(self), 1).to_pylist()[0]

    def base(self, layout: Layout) -> dict[str, Tensor]:
        """The frozen tensors of a layout.

        Raises:
            CheckpointError: Their file is missing or damaged.
        """
        if not layout.base:
            return {}
        file = self.folder / BASE / f"{layout.base}.safetensors"
        try:
            check_start(file)
            tensors = load_file(file)
        except Exception as error:  # safetensors raises errors of its own kind, which derive from Exception alone.
            raise CheckpointError(f"The frozen tensors {str(file)!r} are missing or damaged: {error}.") from error
        if set(tensors) != set(layout.keys("frozen")):
            raise CheckpointError(f"The frozen tensors {str(file)!r} are not those of layout {layout.id}.")
        return tensors

    def stack(self, rows: Sequence[int] | None = None, keys: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Tensors of many checkpoints of one layout.

        Args:
            rows: Positions in this zoo, in the order wanted; None for all.
            keys: Names of tensors; None for all that checkpoints hold themselves (frozen ones are :meth:`base`'s).

        Returns:
            A tensor [n, …] per name, in memory of its own.

        Raises:
            ParameterError: The checkpoints have several layouts, or a name is not one of theirs.
            CheckpointError: A shard is damaged.
        """
        if rows is not None:
            return self.take(rows).stack(keys=keys)
        layout = self.layout
        known = [entry.key for entry in layout.stored]
        unknown = [key for key in keys or () if key not in known]
        if unknown:
            raise ParameterError(f"Layout {layout.id} stores no {unknown[0]!r}. It stores {', '.join(known[:20])}.")
        places = list(_by_shard(self.column("shard"), self.column("row")))
        for shard, _, _ in places:
            self._shards[shard].check(layout)
        result = {}
        for key in known if keys is None else keys:
            parts = [(positions, self._shards[shard].read(key, own)) for shard, positions, own in places]
            if len(parts) == 1:  # Positions of one shard are in order.
                result[key] = parts[0][1]
                continue
            entry = layout[key]
            result[key] = torch.empty(len(self), *entry.shape, dtype=entry.torch_dtype)
            for positions, part in parts:
                result[key][torch.tensor(positions)] = part
        return result

    def verify(self) -> Zoo:
        """Read every checkpoint and compare it with its sha256.

        Returns:
            The zoo without damaged checkpoints, where they are to be skipped.

        Raises:
            CheckpointError: A checkpoint is damaged, unless they are to be skipped; the message names shards and
                checkpoints.
        """
        damaged: dict[int, str] = {}
        for shard, positions, rows in _by_shard(self.column("shard"), self.column("row")):
            layout = self.layout_of(positions[0])
            self._shards[shard].check(layout)
            for position, row in zip(positions, rows, strict=True):
                values = {entry.key: self._shards[shard].read(entry.key, [row])[0] for entry in layout.stored}
                if digest(values) != self._row(position)["sha256"]:
                    damaged[position] = f"{shard}: {self._row(position)['uid']}"
        if not damaged:
            return self
        names = "; ".join(list(damaged.values())[:10])
        more = f" and {len(damaged) - 10} more" if len(damaged) > 10 else ""
        message = f"{len(damaged)} checkpoints of {str(self.folder)!r} are not what was written: {names}{more}."
        if self.on_corrupt == "raise":
            raise CheckpointError(f"{message} Restore the shards, or pass on_corrupt='skip' to go on without them.")
        warnings.warn(f"{message} They are skipped.", stacklevel=2)
        return self.take(position for position in range(len(self)) if position not in damaged)


def _by_shard(shards: Sequence[str], rows: Sequence[int]) -> Iterator[tuple[str, list[int], list[int]]]:
    """For each shard, positions in the zoo and rows of the shard."""
    places: dict[str, tuple[list[int], list[int]]] = {}
    for position, (shard, row) in enumerate(zip(shards, rows, strict=True)):
        positions, own = places.setdefault(shard, ([], []))
        positions.append(position)
        own.append(row)
    for shard, (positions, own) in places.items():
        yield shard, positions, own
