"""The table of a zoo: one row per checkpoint, and which split each belongs to."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import pyarrow as pa

from hypergen.errors import CheckpointError, ParameterError

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
DEFAULT_SHARES: Mapping[Split, float] = {"train": 0.8, "validation": 0.1, "test": 0.1}

SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("run", pa.string()),
        ("step", pa.int64()),
        ("task", pa.string()),
        ("parent", pa.string()),
        ("init_hash", pa.string()),
        ("init_seed", pa.int64()),
        ("data_seed", pa.int64()),
        ("layout", pa.string()),
        ("split_run", pa.string()),
        ("split_task", pa.string()),
        ("finite", pa.bool_()),
        ("sha256", pa.string()),
        ("shard", pa.string()),
        ("row", pa.int64()),
    ]
)
# Those that the zoo fills in itself.
_OWN = ("uid", "layout", "finite", "sha256", "shard", "row")
_GIVEN = tuple(name for name in SCHEMA.names if name not in _OWN)
_SHARD_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*\.safetensors")
_MOST_CHARACTERS = 1_000_000
# Columns of their own for everything else that is known: hyperparameters.learning_rate, test.accuracy, …
GROUPS = ("hyperparameters", "train", "validation", "test")


def uid_of(run: str, step: int) -> str:
    """The name of a checkpoint in its zoo."""
    return f"{run}/{step}"


def split_of(name: str, shares: Mapping[Split, float] = DEFAULT_SHARES) -> Split:
    """Which split a run or a task belongs to: drawn by its name alone, so it stays when the zoo grows.

    Args:
        name: Name of the run or the task.
        shares: Share of each split; they sum to 1.
    """
    place = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
    for split in SPLITS:
        place -= shares.get(split, 0.0)
        if place < 0:
            return split
    return SPLITS[0]


def check_shares(shares: Mapping[Split, float]) -> None:
    """Complain about shares that are no distribution over the splits.

    Raises:
        ValueError: A split is unknown, a share negative, or their sum is not 1.
    """
    if set(shares) - set(SPLITS) or any(share < 0 for share in shares.values()):
        raise ValueError(f"shares must be non-negative and of {SPLITS}; got {dict(shares)}")
    if not math.isclose(sum(shares.values()), 1.0, abs_tol=1e-6):
        raise ValueError(f"shares must sum to 1; {dict(shares)} sum to {sum(shares.values()):g}")


def checked_row(row: Mapping[str, Any], kinds: Mapping[str, str]) -> dict[str, Any]:
    """A row of the index as plain values, before anything of it is kept.

    Args:
        row: Columns that a caller of :class:`hypergen.zoo.ZooWriter` gives.
        kinds: What the further columns of the zoo hold, by their names; see :func:`kind_of`.

    Raises:
        ParameterError: A column is unknown or the zoo's own, or a value is of another kind or out of range; the message
            names both.
    """
    checked = {}
    for name, value in row.items():
        if not isinstance(name, str) or not _is_text(name):
            raise ParameterError(f"{name!r} is no name of a column; expected text.")
        group, dot, rest = name.partition(".")
        value = plain_value(name, value)
        if name in _OWN:
            raise ParameterError(f"{name!r} is a column that the zoo fills in itself; leave it out.")
        if name in SCHEMA.names:
            _check_named(name, value)
        elif not (dot and rest and group in GROUPS):
            raise ParameterError(
                f"{name!r} is no column of a zoo. Expected one of {', '.join(_GIVEN)}, or a name "
                f"that begins with {', '.join(f'{each}.' for each in GROUPS)}."
            )
        elif value is not None and kinds.get(name, kind_of(value)) != kind_of(value):
            raise ParameterError(
                f"{name!r} is {_shown(value)} ({kind_of(value)}); the zoo holds a {kinds[name]} there. "
                "Hyperparameters and metrics of one name must be numbers everywhere, text everywhere, or truth values "
                "everywhere: leave it out, or give it another name."
            )
        checked[name] = value
    for name in ("run", "step"):
        if checked.get(name) is None:
            raise ParameterError(f"A checkpoint needs a {name}.")
    return checked


def kind_of(value: Any) -> str:
    """What a value of a further column is, in words."""
    return "truth value" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"


def kinds_of(rows: pa.Table) -> dict[str, str]:
    """What the further columns of a table hold."""
    kinds = {}
    for field in rows.schema:
        if field.name not in SCHEMA.names and not pa.types.is_null(field.type):
            text, truth = pa.types.is_string(field.type), pa.types.is_boolean(field.type)
            kinds[field.name] = "text" if text else "truth value" if truth else "number"
    return kinds


def plain_value(name: str, value: Any) -> bool | int | float | str | None:
    """A number, text or truth value as JSON has it, also if numpy or torch made it.

    Raises:
        ParameterError: It is neither.
    """
    if hasattr(value, "item") and not isinstance(value, (str, int, float)):
        try:
            value = value.item()
        except Exception as error:  # of many values, or on the meta device
            raise ParameterError(f"{name!r} is {_shown(value)}; expected one number, text or truth value.") from error
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        try:
            float(value)
        except OverflowError as error:
            raise ParameterError(f"{name!r} is a whole number too large for a column.") from error
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        if not _is_text(value) or len(value) > _MOST_CHARACTERS:
            raise ParameterError(f"{name!r} is {_shown(value)}; expected Unicode text of at most {_MOST_CHARACTERS:,}.")
        return str(value)
    raise ParameterError(
        f"{name!r} is {_shown(value)}, a {type(value).__name__}; expected a number, text or a truth value."
    )


def _check_named(name: str, value: Any) -> None:
    if value is None:
        return
    kind = SCHEMA.field(name).type
    if name in ("split_run", "split_task"):
        if value not in SPLITS:
            raise ParameterError(f"{name} is {_shown(value)}; expected one of {', '.join(SPLITS)}.")
    elif pa.types.is_string(kind):
        if not isinstance(value, str) or not value:
            raise ParameterError(f"{name} is {_shown(value)}; expected text that is not empty.")
    elif isinstance(value, bool) or not isinstance(value, int) or not -(2**63) <= value < 2**63:
        raise ParameterError(f"{name} is {_shown(value)}; expected a whole number of 64 bits.")


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:  # of somebody else's class
        text = type(value).__name__
    return text if len(text) <= 100 else f"{text[:100]}…"


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def table_from_rows(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Make a table from rows of :data:`SCHEMA`'s columns and any further ones.

    Raises:
        CheckpointError: The values of a further column have no type in common.
    """
    further = list(dict.fromkeys(name for row in rows for name in row if name not in SCHEMA.names))
    columns = {}
    for name in (*SCHEMA.names, *further):
        values = [row.get(name) for row in rows]
        kind = SCHEMA.field(name).type if name in SCHEMA.names else _type_of(name, values)
        columns[name] = pa.array(values, kind)
    return pa.table(columns)


def check_index(rows: pa.Table) -> pa.Table:
    """Make sure that a table is an index: columns, their types, and no empty names.

    Raises:
        CheckpointError: It is none.
    """
    for field in SCHEMA:
        if field.name not in rows.column_names or rows.schema.field(field.name).type != field.type:
            raise CheckpointError(f"The index has no column {field.name!r} of {field.type}.")
    for name in ("uid", "run", "step", "layout", "shard", "row"):
        if rows[name].null_count:
            raise CheckpointError(f"The index lacks values of {name!r}.")
    for field in rows.schema:
        known = pa.types.is_floating(field.type) or pa.types.is_null(field.type) or pa.types.is_boolean(field.type)
        if field.name not in SCHEMA.names and not known and not pa.types.is_string(field.type):
            raise CheckpointError(f"The index has a column {field.name!r} of {field.type}.")
    if not all(_SHARD_NAME.fullmatch(name) for name in rows["shard"].unique().to_pylist()):
        raise CheckpointError("The index names shards outside of the zoo.")
    return rows


def join(tables: Sequence[pa.Table]) -> tuple[pa.Table, list[str]]:
    """Put tables below one another; columns that one lacks are null there, and doubled checkpoints are there once.

    Where a column has another type in a later table than in those before, which writers refuse but two of them at once
    may bring about, its values there are null.

    Returns:
        The table, and what was left out.
    """
    tables = [table for table in tables if table.num_rows] or [SCHEMA.empty_table()]
    types: dict[str, pa.DataType] = {}
    notes = []
    fitted = []
    for table in tables:
        for field in table.schema:
            if pa.types.is_null(field.type):
                continue
            expected = types.setdefault(field.name, field.type)
            if field.type == expected:
                continue
            position = table.column_names.index(field.name)
            table = table.set_column(position, field.name, pa.nulls(table.num_rows, expected))
            shards = ", ".join(table["shard"].unique().to_pylist()[:3])
            notes.append(f"{field.name!r} is {field.type} in {shards} and {expected} elsewhere; it is left out there.")
        fitted.append(table)
    joined = pa.concat_tables(fitted, promote_options="permissive").combine_chunks()
    seen: set[str] = set()
    first = [not (uid in seen or seen.add(uid)) for uid in joined["uid"].to_pylist()]  # type: ignore[func-returns-value]
    if not all(first):
        notes.append(f"{len(first) - sum(first)} checkpoints lie in two shards; they are taken from the first.")
        joined = joined.filter(pa.array(first)).combine_chunks()
    return joined, notes


def _type_of(name: str, values: Sequence[Any]) -> pa.DataType:
    kinds = {type(value) for value in values if value is not None}
    # JSON and the libraries that log metrics tell 1 from 1.0 by chance.
    if kinds <= {int, float}:
        return pa.float64()
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {str}:
        return pa.string()
    raise CheckpointError(
        f"{name!r} holds {', '.join(sorted(kind.__name__ for kind in kinds))}; expected numbers, text or truth values, "
        "of one kind throughout."
    )
