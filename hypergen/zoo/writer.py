"""Collects checkpoints into a zoo."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet
import torch
from torch import Tensor

from hypergen.errors import CheckpointError, HypergenError, ParameterError
from hypergen.functional.arguments import check_arguments
from hypergen.functional.files import FolderLock, inside, replace_file
from hypergen.zoo.folder import (
    BASE,
    INDEX,
    LOCK,
    SHARDS,
    make_folder,
    read_all_rows,
    read_layouts,
    refuse_other_folder,
    remove_drafts,
    write_layout,
    write_task,
)
from hypergen.zoo.index import (
    DEFAULT_SHARES,
    SCHEMA,
    Split,
    check_shares,
    checked_row,
    kind_of,
    kinds_of,
    split_of,
    uid_of,
)
from hypergen.zoo.layout import Layout, digest, row_bytes
from hypergen.zoo.shards import ADVICE, Shard, write_shard, write_tensors

OnDuplicate = Literal["error", "skip"]


class ZooWriter:
    """Adds checkpoints to a zoo, which it makes if there is none.

    Checkpoints are gathered in memory and written a shard at a time, each in one step: whatever kills the process, the
    zoo holds the shards that were finished, and nothing of those that were not. Several writers, also of several
    processes, may add to one zoo at once, as long as they add different checkpoints.

    Use it as a context manager: on leaving, also by an exception, what was gathered is written.

    Args:
        folder: Folder of the zoo.
        shard_bytes: Write a shard when the gathered checkpoints of a layout take so many bytes.
        shard_rows: Or when there are so many of them.
        shares: Shares of the runs, and of the tasks, that go into each split, where a checkpoint does not name its own.
        on_duplicate: What to do with a checkpoint whose run and step the zoo holds already: ``"error"`` or ``"skip"``.

    Raises:
        CheckpointError: The folder holds something else, a zoo of another version, or a damaged shard.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        shard_bytes: int = 256 * 2**20,
        shard_rows: int = 10_000,
        shares: Mapping[Split, float] = DEFAULT_SHARES,
        on_duplicate: OnDuplicate = "error",
    ) -> None:
        check_shares(shares)
        if on_duplicate not in ("error", "skip"):
            raise ValueError(f"on_duplicate must be 'error' or 'skip'; got {on_duplicate!r}")
        for name, value in (("shard_bytes", shard_bytes), ("shard_rows", shard_rows)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a positive whole number; got {value!r}")
        refuse_other_folder(Path(folder))
        self._lock = FolderLock(folder, LOCK)
        with self._lock.held():
            self.folder = make_folder(Path(folder))
            remove_drafts(self.folder)
            self.layouts = read_layouts(self.folder)
            rows = read_all_rows(self.folder)
            self._known_shards = set(self._shard_names())
        self.shard_bytes, self.shard_rows = shard_bytes, shard_rows
        self.shares, self.on_duplicate = dict(shares), on_duplicate
        self._uids = set(rows["uid"].to_pylist())
        self._kinds = kinds_of(rows)
        self._split_of_run = dict(zip(rows["run"].to_pylist(), rows["split_run"].to_pylist(), strict=True))
        self._others: set[str] = set()
        self._gathered: dict[str, list[tuple[dict[str, Tensor], list[dict[str, Any]]]]] = {}
        self._bytes: dict[str, int] = {}

    def __contains__(self, uid: object) -> bool:
        """Whether the zoo holds a checkpoint, ``"run/step"``, or it has been added."""
        return uid in self._uids

    def __len__(self) -> int:
        return len(self._uids)

    def __enter__(self) -> ZooWriter:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            self.close()
        except HypergenError as second:
            if error is None:
                raise
            # What went wrong first is what the caller should hear of.
            error.add_note(f"What was gathered could not be written either: {second}")

    def locked(self) -> AbstractContextManager[None]:
        """Keep other writers out for a block, for what is written into the folder besides checkpoints."""
        return self._lock.held()

    def add(
        self,
        state: Mapping[str, Tensor],
        *,
        run: str,
        step: int,
        task: str | None = None,
        parent: str | None = None,
        init_hash: str | None = None,
        init_seed: int | None = None,
        data_seed: int | None = None,
        hyperparameters: Mapping[str, Any] | None = None,
        validation: Mapping[str, float] | None = None,
        test: Mapping[str, float] | None = None,
        split_run: Split | None = None,
        split_task: Split | None = None,
        layout: Layout | None = None,
    ) -> str | None:
        """Add one checkpoint.

        Args:
            state: A tensor per name, as ``model.state_dict()`` gives it; copied.
            run: Name of the training run that it is from.
            step: Step number of the run; a run has one checkpoint per step.
            task: What it was trained for.
            parent: The checkpoint that its run started from, ``"run/step"``; its run's split is the parent's then.
            init_hash: sha256 of the initialisation, where it is known.
            init_seed: Seed of the initialisation.
            data_seed: Seed of the order of the data.
            hyperparameters: Numbers, text or truth values, each a column ``hyperparameters.<name>``.
            validation: Metrics on validation data, each a column ``validation.<name>``.
            test: Metrics on test data, each a column ``test.<name>``; never select by these.
            split_run: Split of the run, the same for all of its checkpoints; else drawn by its name.
            split_task: Split of the task; else drawn by its name.
            layout: What the tensors are, where :meth:`Layout.of` does not tell, for example frozen ones.

        Returns:
            The checkpoint's name in the zoo; None if it was there already and is skipped.

        Raises:
            ParameterError: The tensors do not fit the layout, or a value is no number, text or truth value, or of
                another kind than the zoo holds in its column; nothing of the checkpoint is kept.
            CheckpointError: The zoo holds the checkpoint already, or a shard could not be written.
            TypeError: Tensors, hyperparameters or metrics are no mapping, or the layout is none.
            ValueError: Splits contradict each other.
        """
        mappings = {"state": state, "hyperparameters": hyperparameters, "validation": validation, "test": test}
        check_arguments(ZooWriter.add, mappings)
        if layout is not None and not isinstance(layout, Layout):
            raise TypeError(f"add(layout={str(layout)[:100]!r}): expected a Layout, as `Layout.of(state)` makes it.")
        layout = layout or Layout.of(state)
        named: dict[str, Any] = {
            "task": task,
            "parent": parent,
            "init_hash": init_hash,
            "init_seed": init_seed,
            "data_seed": data_seed,
            "split_run": split_run,
            "split_task": split_task,
        }
        for group, values in (("hyperparameters", hyperparameters), ("validation", validation), ("test", test)):
            named |= {f"{group}.{name}": value for name, value in (values or {}).items()}
        held = {key: state[key].detach().unsqueeze(0) for key in layout.keys("generate", "copy") if key in state}
        added = self._add(held, layout, [{"run": run, "step": step, **named}], state)
        return added[0] if added else None

    def add_stacked(
        self,
        stacked: Mapping[str, Tensor],
        *,
        runs: Sequence[str],
        steps: int | Sequence[int],
        layout: Layout | None = None,
        columns: Mapping[str, Any] | None = None,
    ) -> list[str]:
        """Add n checkpoints of one layout at once, as stacked trainers hold them.

        Args:
            stacked: A tensor [n, …] per stored name; copied.
            runs: Names of the n runs.
            steps: Number of steps of all, or one for each.
            layout: What the tensors are, where :meth:`Layout.of` does not tell.
            columns: Further columns of the index by their full names, such as ``task``, ``init_seed``,
                ``hyperparameters.learning_rate`` or ``test.accuracy``: one value for all, or n values.

        Returns:
            The names in the zoo of those that were added.

        Raises:
            ParameterError: The tensors do not fit the layout, or numbers of values differ.
            CheckpointError: The zoo holds a checkpoint already, or a shard could not be written.
            ValueError: Splits contradict each other.
        """
        count = len(runs)
        layout = layout or Layout.of({key: value[0] for key, value in stacked.items()})
        by_column = {"run": list(runs), "step": steps, **(columns or {})}
        values = {name: _column(name, value, count) for name, value in by_column.items()}
        rows = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
        held = {key: stacked[key].detach() for key in layout.keys("generate", "copy") if key in stacked}
        return self._add(held, layout, rows, stacked, check_base=False)

    def add_task(self, name: str, description: Mapping[str, Any]) -> None:
        """Describe a task in ``tasks/<name>.json``: its code, text, classes, data, or anything JSON-able.

        Raises:
            CheckpointError: It could not be written, or the zoo describes the task otherwise.
        """
        with self._lock.held():
            write_task(self.folder, name, description)

    def flush(self) -> None:
        """Write what is gathered; the zoo on disk holds every checkpoint that was added.

        Raises:
            CheckpointError: A shard could not be written; what it would have held is still gathered. Or another writer
                has added checkpoints of the same run and step meanwhile; all others are written.
        """
        for layout_id in list(self._gathered):
            self._flush(layout_id)

    def close(self) -> None:
        """Write what is gathered, and the whole index."""
        try:
            self.flush()
        finally:
            with self._lock.held():
                rows = read_all_rows(self.folder)
                replace_file(self.folder / INDEX, lambda draft: pyarrow.parquet.write_table(rows, draft), ADVICE)

    def _add(
        self,
        stacked: dict[str, Tensor],
        layout: Layout,
        rows: list[dict[str, Any]],
        state: Mapping[str, Tensor],
        check_base: bool = True,
    ) -> list[str]:
        # Everything is checked before anything is kept, on disk or in memory: a checkpoint that cannot be written would
        # make every later one of its shard unwritable, too.
        layout.check(stacked, (len(rows),))
        without_values = [key for key, value in stacked.items() if value.is_meta]
        if without_values:
            raise ParameterError(f"{without_values[0]!r} is on the meta device and has no values to keep.")
        kinds = dict(self._kinds)
        for number, row in enumerate(rows):
            rows[number] = checked_row(row, kinds)
            kinds |= {
                name: kind_of(value)
                for name, value in rows[number].items()
                if name not in SCHEMA.names and value is not None
            }
        kept = self._kept(rows)
        if not kept:
            return []
        splits = [self._splits(rows[i]) for i in kept]
        if layout.base or layout.id not in self.layouts:
            with self._lock.held():
                self._add_base(layout, state, check_base)
                if layout.id not in self.layouts:
                    write_layout(self.folder, layout)
                    self.layouts[layout.id] = layout
        self._kinds = kinds
        if len(kept) == len(rows):
            # A copy: whoever trains goes on changing theirs.
            stacked = {key: value.detach().to("cpu", copy=True).contiguous() for key, value in stacked.items()}
        else:
            index = torch.tensor(kept)
            stacked = {key: value.detach().cpu()[index] for key, value in stacked.items()}
        rows = [{**rows[i], "uid": uid_of(rows[i]["run"], rows[i]["step"]), "layout": layout.id} for i in kept]
        for row, split in zip(rows, splits, strict=True):
            row |= split
            self._split_of_run[row["run"]] = row["split_run"]
        self._uids.update(row["uid"] for row in rows)
        self._gathered.setdefault(layout.id, []).append((stacked, rows))
        size = sum(value.numel() * value.element_size() for value in stacked.values())
        self._bytes[layout.id] = self._bytes.get(layout.id, 0) + size
        count = sum(len(gathered) for _, gathered in self._gathered[layout.id])
        if self._bytes[layout.id] >= self.shard_bytes or count >= self.shard_rows:
            self._flush(layout.id)
        return [row["uid"] for row in rows]

    def _kept(self, rows: Sequence[Mapping[str, Any]]) -> list[int]:
        """Which rows are new."""
        uids = [uid_of(row["run"], row["step"]) for row in rows]
        if len(set(uids)) < len(uids):
            raise CheckpointError(
                "Two of the checkpoints have the same run and step; give every run a name of its own."
            )
        twice = [uid for uid in uids if uid in self._uids]
        if twice and self.on_duplicate == "error":
            raise CheckpointError(
                f"The zoo {str(self.folder)!r} holds {twice[0]!r} already. Give the run another name, or pass "
                "on_duplicate='skip' to go on with an interrupted collection."
            )
        return [i for i, uid in enumerate(uids) if uid not in self._uids]

    def _splits(self, row: Mapping[str, Any]) -> dict[str, Any]:
        run, task = row["run"], row.get("task")
        named = row.get("split_run")
        # A run that goes on from another one is no news about it: both are seen, or neither.
        parent = self._split_of_run.get((row.get("parent") or "").rpartition("/")[0])
        before = self._split_of_run.get(run)
        given = {split for split in (named, parent, before) if split is not None}
        if len(given) > 1:
            raise ValueError(
                f"the run {run!r} would be in several splits: named {named!r}, of its parent {parent!r}, of its "
                f"earlier checkpoints {before!r}. Checkpoints of a run, and of those that go on from it, are in one."
            )
        split_run = given.pop() if given else split_of(run, self.shares)
        split_task = row.get("split_task") or (None if task is None else split_of(task, self.shares))
        return {"split_run": split_run, "split_task": split_task}

    def _flush(self, layout_id: str) -> None:
        with self._lock.held():
            others = self._added_by_others()
            parts = self._gathered[layout_id]
            keys = [entry.key for entry in self.layouts[layout_id].stored]
            stacked = {key: torch.cat([part[key] for part, _ in parts]) for key in keys}
            rows = [row for _, gathered in parts for row in gathered]
            new = [i for i, row in enumerate(rows) if row["uid"] not in others]
            doubled = [row["uid"] for row in rows if row["uid"] in others]
            if new and doubled:
                stacked = {key: value[torch.tensor(new)] for key, value in stacked.items()}
            rows = [rows[i] for i in new]
            if rows:
                self._write(stacked, rows)
            del self._gathered[layout_id], self._bytes[layout_id]
        if doubled and self.on_duplicate == "error":
            raise CheckpointError(
                f"Another writer has added {doubled[0]!r} to {str(self.folder)!r} meanwhile, and {len(doubled) - 1} "
                "more of this one's. Theirs are kept; give runs names of their own, or pass on_duplicate='skip'."
            )

    def _write(self, stacked: Mapping[str, Tensor], rows: list[dict[str, Any]]) -> None:
        # In the order in which they were written; the random part tells apart what is copied together from two zoos.
        name = f"{len(self._known_shards):06d}-{uuid.uuid4().hex[:8]}.safetensors"
        in_bytes = [row_bytes(stacked[key]) for key in sorted(stacked)]
        finite = torch.ones(len(rows), dtype=torch.bool)
        for value in stacked.values():
            if value.is_floating_point() or value.is_complex():
                small = value.is_floating_point() and value.element_size() == 1  # float8 has no such operation
                finite &= (value.float() if small else value).reshape(len(rows), -1).isfinite().all(1)
        for i, row in enumerate(rows):
            row |= {"finite": bool(finite[i]), "sha256": _sha256(in_bytes, i), "shard": name, "row": i}
        write_shard(self.folder / SHARDS / name, stacked, rows)
        self._known_shards.add(name)

    def _shard_names(self) -> list[str]:
        return [file.name for file in (self.folder / SHARDS).glob("[!.]*.safetensors")]

    def _added_by_others(self) -> set[str]:
        """Checkpoints in shards that other writers have added since this one last looked."""
        uids: set[str] = set()
        for name in self._shard_names():
            if name in self._known_shards:
                continue
            self._known_shards.add(name)
            with suppress(CheckpointError):  # damaged; readers name it
                rows = Shard(self.folder / SHARDS / name).rows()
                uids.update(rows["uid"].to_pylist())
                for column, kind in kinds_of(rows).items():
                    self._kinds.setdefault(column, kind)
        self._uids |= uids
        self._others |= uids
        return self._others

    def _add_base(self, layout: Layout, state: Mapping[str, Tensor], check: bool = True) -> None:
        if not layout.base:
            return
        frozen = {key: state[key].detach() for key in layout.keys("frozen") if key in state}
        path = inside(self.folder / BASE, f"{layout.base}.safetensors", "The layout")
        if check and frozen and path.exists():
            if len(frozen) == len(layout.keys("frozen")) and digest(frozen) != layout.base:
                raise ParameterError(
                    "Frozen tensors differ from those of the layout. Make one with Layout.of for these."
                )
        elif not path.exists():
            missing = [key for key in layout.keys("frozen") if key not in frozen]
            if missing:
                raise ParameterError(
                    f"The first checkpoint of a layout brings its frozen tensors; missing: {missing[:5]}."
                )
            write_tensors(path, frozen)


def _sha256(in_bytes: Sequence[Any], row: int) -> str:
    """What :func:`hypergen.zoo.layout.digest` is of one checkpoint of a stack."""
    result = hashlib.sha256()
    for array in in_bytes:
        result.update(array[row])
    return result.hexdigest()


def _column(name: str, value: Any, count: int) -> list[Any]:
    if isinstance(value, Tensor) and value.dim() < 2:
        value = value.tolist()
    if isinstance(value, str) or not isinstance(value, Sequence):
        return [value] * count
    if len(value) != count:
        raise ParameterError(f"{name!r} has {len(value)} values for {count} checkpoints.")
    return list(value)
