"""The files of a zoo besides its shards: ``zoo.json``, ``layouts/``, ``tasks/``, ``base/`` and ``index.parquet``."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from hypergen.errors import CheckpointError, ParameterError
from hypergen.functional.files import read_json, replace_file
from hypergen.zoo.index import SCHEMA, check_index, join
from hypergen.zoo.layout import Layout
from hypergen.zoo.shards import ADVICE, Shard

VERSION = 1
DESCRIPTION, INDEX, LOCK = "zoo.json", "index.parquet", "lock"
SHARDS, LAYOUTS, TASKS, BASE, BUILDS = "shards", "layouts", "tasks", "base", "builds"
_DRAFT = re.compile(r"\..+\.\d+")


def make_folder(folder: Path) -> Path:
    """Make an empty zoo, unless there is one.

    Raises:
        CheckpointError: The folder holds something else, or cannot be made.
    """
    refuse_other_folder(folder)
    if not (folder / DESCRIPTION).exists():
        write_json(folder / DESCRIPTION, {"format": "hypergen zoo", "version": VERSION})
    check_folder(folder)
    try:
        for name in (SHARDS, LAYOUTS, TASKS, BASE):
            (folder / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{str(folder)!r} cannot be written: {error}. Name another folder.") from error
    return folder


def refuse_other_folder(folder: Path) -> None:
    """Complain about a folder that is no zoo and not empty; only reads.

    Raises:
        CheckpointError: It holds something else, or cannot be read.
    """
    try:
        if not folder.exists() or (folder / DESCRIPTION).exists():
            return
        # A draft of the description and the lock are all that a writer leaves that was killed before there was a zoo.
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else [folder.name]
    except OSError as error:
        raise CheckpointError(f"{str(folder)!r} cannot be read: {error}. Name another folder.") from error
    if not folder.is_dir() or any(name != LOCK and not name.startswith(f".{DESCRIPTION}.") for name in names):
        raise CheckpointError(
            f"{str(folder)!r} is neither a zoo (it has no {DESCRIPTION}) nor an empty folder. Name another folder."
        )


def remove_drafts(folder: Path) -> None:
    """Remove what killed writers left; the folder must be locked, so that none is at it."""
    for place in (folder, *(folder / name for name in (SHARDS, LAYOUTS, TASKS, BASE, BUILDS))):
        for draft in place.glob(".*.*"):
            if _DRAFT.fullmatch(draft.name):
                with suppress(OSError):
                    draft.unlink()


def check_folder(folder: Path) -> Path:
    """Make sure that a folder is a zoo that this version reads.

    Raises:
        CheckpointError: It is not.
    """
    file = folder / DESCRIPTION
    if not file.is_file():
        raise CheckpointError(
            f"There is no zoo in {str(folder)!r}: it has no {DESCRIPTION}. Build one with `hypergen zoo build`, or make"
            " one of a folder of checkpoints with `hypergen zoo import`."
        )
    version = read_json(file).get("version")
    if version != VERSION:
        newer = isinstance(version, int) and version > VERSION
        raise CheckpointError(
            f"{str(folder)!r} is a zoo of version {version!r}; this hypergen reads version {VERSION}. "
            + ("Upgrade hypergen." if newer else f"{DESCRIPTION} is damaged; a zoo's own says {VERSION}.")
        )
    return folder


def read_rows(folder: Path) -> pa.Table:
    """The rows of ``index.parquet``; none if there is no such file yet, or if it is damaged.

    The shards hold all rows, too, so a damaged copy is made again from them.
    """
    try:
        # In one piece, as another process may replace the file.
        content = (folder / INDEX).read_bytes()
        return check_index(pyarrow.parquet.read_table(pa.BufferReader(content)))
    except (OSError, pa.ArrowException, CheckpointError, ValueError, KeyError, TypeError):
        return SCHEMA.empty_table()


def shards_without_index(folder: Path, rows: pa.Table) -> list[str]:
    """The shards that ``index.parquet`` does not list yet, because their writer is still at it or was killed."""
    listed = set(rows["shard"].unique().to_pylist())
    # Drafts begin with a dot.
    there = (file.name for file in (folder / SHARDS).glob("[!.]*.safetensors"))
    return sorted(name for name in there if name not in listed)


def read_all_rows(folder: Path) -> pa.Table:
    """Every row of the zoo, from the index and from shards that it does not list yet, but for damaged shards."""
    rows = read_rows(folder)
    tables = [rows]
    for name in shards_without_index(folder, rows):
        try:
            tables.append(Shard(folder / SHARDS / name).rows())
        except CheckpointError as error:
            warnings.warn(f"{error} It is left out of the index.", stacklevel=2)
    return join(tables)[0]


def read_layouts(folder: Path, problems: dict[str, str] | None = None) -> dict[str, Layout]:
    """The layouts of a zoo by their ids.

    Args:
        folder: Folder of the zoo.
        problems: Filled with the files that are damaged, and why; they are left out.
    """
    layouts = {}
    for file in sorted((folder / LAYOUTS).glob("[!.]*.json")):
        try:
            layout = Layout.from_json(read_json(file))
            if layout.id != file.stem:
                raise ParameterError(f"It is the layout {layout.id}.")
            layouts[file.stem] = layout
        except (ParameterError, CheckpointError) as error:
            if problems is not None:
                problems[file.stem] = f"{str(file)!r} is damaged: {error}"
    return layouts


def write_layout(folder: Path, layout: Layout) -> None:
    """Write ``layouts/<id>.json``, in place of what was there.

    Raises:
        ParameterError: Its metadata are not JSON-able.
    """
    write_json(folder / LAYOUTS / f"{layout.id}.json", layout.to_json())


def read_tasks(folder: Path) -> dict[str, Any]:
    """The tasks that are described, by their names.

    Raises:
        CheckpointError: A description is damaged.
    """
    tasks = {}
    for file in sorted((folder / TASKS).glob("[!.]*.json")):
        task = read_json(file)
        if not isinstance(task.get("name"), str) or not isinstance(task.get("description"), dict):
            raise CheckpointError(f"{str(file)!r} is no description of a task: it lacks a name or a description.")
        tasks[task["name"]] = task["description"]
    return tasks


def write_task(folder: Path, name: str, description: Mapping[str, Any]) -> None:
    """Write a task's description.

    Raises:
        CheckpointError: It is described otherwise already, or could not be written.
        ParameterError: The description is not JSON-able.
    """
    # Names are anybody's; those of files are not.
    file = folder / TASKS / f"{re.sub(r'[^A-Za-z0-9_-]', '_', str(name))[:100]}.json"
    task = {"name": str(name), "description": dict(description)}
    if file.exists():
        if read_json(file) != json.loads(_as_json(file, task)):
            raise CheckpointError(f"{str(file)!r} describes another task than {name!r} is now. Give it another name.")
        return
    write_json(file, task)


def write_json(file: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON object in one step.

    Raises:
        ParameterError: It is not JSON-able.
        CheckpointError: It could not be written.
    """
    text = _as_json(file, data) + "\n"
    replace_file(file, lambda draft: draft.write_text(text, encoding="utf-8"), ADVICE)


def _as_json(file: Path, data: Mapping[str, Any]) -> str:
    try:
        text = json.dumps(data, indent=1)
        text.encode()
        return text
    except (TypeError, ValueError, RecursionError) as error:
        raise ParameterError(
            f"What {file.name!r} should hold is not JSON-able: {error}. Expected numbers, text, truth values, and "
            "lists and mappings of these."
        ) from error
