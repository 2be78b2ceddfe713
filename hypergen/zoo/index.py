"""The table of a zoo: one row per checkpoint, and which split each belongs to."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import pyarrow as pa

from hypergen.errors import CheckpointError

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
# Columns of their own for everything else that is known: hyperparameters.learning_rate, test.accuracy, …
GROUPS = ("hyperparameters", "train", "validation", "test")


def uid_of(run: str, step: int) -> str:
    """The name of a checkpoint in its zoo."""
    return f"{run}/{step}"


def split_of(name: str, shares: Mapping[Split, float] = DEFAULT_SHARES) -> Split:
    """Which split a run or a task belongs to: drawn by its name alone, so it stays when the zoo grows.

    Args:
        name: Of the run or the task.
        shares: Of each split; they sum to 1.
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


def join(tables: Sequence[pa.Table]) -> pa.Table:
    """Put tables below one another; columns that one lacks are null there.

    Raises:
        CheckpointError: A column holds numbers in one table and text in another.
    """
    tables = [table for table in tables if table.num_rows] or [SCHEMA.empty_table()]
    try:
        return pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
        raise CheckpointError(
            f"The shards of the zoo disagree on the type of a column: {error}. Hyperparameters and metrics of one name "
            "must be numbers everywhere or text everywhere."
        ) from error


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
