"""The files of a zoo besides its shards: ``zoo.json``, ``layouts/``, ``tasks/``, ``base/`` and ``index.parquet``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from hypergen.errors import CheckpointError, ParameterError
from hypergen.zoo.index import SCHEMA, join
from hypergen.zoo.layout import Layout
from hypergen.zoo.shards import Shard, replace_file

VERSION = 1
DESCRIPTION, INDEX = "zoo.json", "index.parquet"
SHARDS, LAYOUTS, TASKS, BASE = "shards", "layouts", "tasks", "base"


def make_folder(folder: Path) -> Path:
    """Make an empty zoo, unless there is one.

    Raises:
        CheckpointError: The folder holds something else, or cannot be made.
    """
    file = folder / DESCRIPTION
    if not file.exists():
        # A draft of the description is all that a writer leaves that was killed before there was a zoo.
        if folder.exists() and (
            not folder.is_dir() or any(not path.name.startswith(f".{DESCRIPTION}.") for path in folder.iterdir())
        ):
            raise CheckpointError(
                f"{str(folder)!r} is neither a zoo (it has no {DESCRIPTION}) nor an empty folder. Name another folder."
            )
        write_json(file, {"format": "hypergen zoo", "version": VERSION})
    check_folder(folder)
    try:
        for name in (SHARDS, LAYOUTS, TASKS, BASE):
            (folder / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{str(folder)!r} cannot be written: {error}. Name another folder.") from error
    return folder


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
    """The rows of ``index.parquet``; none if there is no such file yet.

    Raises:
        CheckpointError: It is damaged.
    """
    file = folder / INDEX
    if not file.exists():
        return SCHEMA.empty_table()
    try:
        return pyarrow.parquet.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise CheckpointError(
            f"{str(file)!r} is damaged: {error}. Delete it: the shards hold its rows too, and the next ZooWriter "
            "writes it again."
        ) from error


def shards_without_index(folder: Path, rows: pa.Table) -> list[str]:
    """The shards that ``index.parquet`` does not list yet, because their writer is still at it or was killed."""
    listed = set(rows["shard"].unique().to_pylist())
    # Drafts begin with a dot.
    there = (file.name for file in (folder / SHARDS).glob("[!.]*.safetensors"))
    return sorted(name for name in there if name not in listed)


def read_all_rows(folder: Path) -> pa.Table:
    """Every row of the zoo, from the index and from shards that it does not list yet.

    Raises:
        CheckpointError: A file is damaged.
    """
    rows = read_rows(folder)
    return join([rows, *(Shard(folder / SHARDS / name).rows() for name in shards_without_index(folder, rows))])


def read_layouts(folder: Path) -> dict[str, Layout]:
    """The layouts of a zoo by their ids.

    Raises:
        CheckpointError: A file is damaged.
    """
    layouts = {}
    for file in sorted((folder / LAYOUTS).glob("[!.]*.json")):
        try:
            layouts[file.stem] = Layout.from_json(read_json(file))
        except ParameterError as error:
            raise CheckpointError(f"{str(file)!r} is damaged: {error}") from error
    return layouts


def write_layout(folder: Path, layout: Layout) -> None:
    """Write ``layouts/<id>.json``, in place of what was there."""
    write_json(folder / LAYOUTS / f"{layout.id}.json", layout.to_json())


def read_tasks(folder: Path) -> dict[str, Any]:
    """The tasks that are described, by their names."""
    found = (read_json(file) for file in sorted((folder / TASKS).glob("[!.]*.json")))
    return {task["name"]: task["description"] for task in found}


def write_task(folder: Path, name: str, description: Mapping[str, Any]) -> None:
    """Write a task's description.

    Raises:
        CheckpointError: It is described otherwise already, or could not be written.
    """
    # Names are anybody's; those of files are not.
    file = folder / TASKS / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)[:100]}.json"
    task = {"name": name, "description": dict(description)}
    if file.exists():
        if read_json(file) != json.loads(json.dumps(task)):
            raise CheckpointError(f"{str(file)!r} describes another task than {name!r} is now. Give it another name.")
        return
    write_json(file, task)


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: It is none.
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{str(file)!r} is not readable JSON: {error}.") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{str(file)!r} holds a {type(data).__name__}; expected a JSON object.")
    return data


def write_json(file: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON object in one step."""
    text = json.dumps(data, indent=1) + "\n"
    replace_file(file, lambda draft: draft.write_text(text, encoding="utf-8"))
