"""What is in a zoo, in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hypergen.zoo.index import SPLITS
from hypergen.zoo.reader import Zoo

_QUANTILES = (0.0, 0.1, 0.5, 0.9, 1.0)


def zoo_statistics(zoo: Zoo) -> dict[str, Any]:
    """Count and summarise a zoo.

    Returns:
        ``checkpoints``, ``runs``, ``tasks``, ``finite`` and ``bytes``; ``splits`` by run and by task; ``layouts`` with
        name, checkpoints, parameters and tensors of each; ``columns``: quantiles 0, .1, .5, .9 and 1 of numbers, over
        all checkpoints, and over the last of each run.
    """
    per_layout = Counter(zoo.column("layout"))
    layouts = {
        key: {
            "name": zoo.layouts[key].name,
            "checkpoints": count,
            "parameters": sum(entry.numel for entry in zoo.layouts[key].entries if entry.kind == "parameter"),
            "tensors": len(zoo.layouts[key].entries),
        }
        for key, count in per_layout.most_common()
    }
    files = {zoo.folder / "shards" / name for name in zoo.index["shard"].unique().to_pylist()}
    files |= {*zoo.folder.glob("base/*.safetensors"), *zoo.folder.glob("index.parquet")}
    last = zoo.last()
    numbers = [field.name for field in zoo.index.schema if "." in field.name and pa.types.is_floating(field.type)]
    return {
        "checkpoints": len(zoo),
        "runs": pc.count_distinct(zoo.index["run"]).as_py(),
        "tasks": pc.count_distinct(zoo.index["task"]).as_py(),
        "finite": pc.sum(zoo.index["finite"]).as_py() or 0,
        "bytes": sum(file.stat().st_size for file in files if file.exists()),
        "splits": {by: _splits(zoo, by) for by in ("run", "task")},
        "layouts": layouts,
        "columns": {name: (_quantiles(zoo, name), _quantiles(last, name)) for name in sorted(numbers)},
    }


def print_statistics(zoo: Zoo, console: Console | None = None) -> None:
    """Print :func:`zoo_statistics` as tables."""
    console = console or Console()
    about = zoo_statistics(zoo)
    table = Table(title=escape(str(zoo.folder)), show_header=False, title_justify="left")
    table.add_row("checkpoints", f"{about['checkpoints']:,} of {about['runs']:,} runs")
    if about["finite"] < about["checkpoints"]:
        table.add_row("not finite", f"{about['checkpoints'] - about['finite']:,}")
    if about["tasks"]:
        table.add_row("tasks", f"{about['tasks']:,}")
    for by, counts in about["splits"].items():
        if sum(counts.values()):
            table.add_row(f"split by {by}", ", ".join(f"{name} {count:,}" for name, count in counts.items()))
    table.add_row("on disk", f"{about['bytes'] / 1e6:,.1f} MB")
    for name, why in zoo.skipped.items():
        table.add_row("skipped", escape(f"{name}: {why}"))
    console.print(table)
    table = Table(title="Layouts", title_justify="left")
    for heading in ("id", "name"):
        table.add_column(heading)
    for heading in ("checkpoints", "parameters", "tensors"):
        table.add_column(heading, justify="right")
    shown = list(about["layouts"].items())
    for key, layout in shown[:20]:
        counts = (f"{layout[name]:,}" for name in ("checkpoints", "parameters", "tensors"))
        table.add_row(key, escape(layout["name"]), *counts)
    if len(shown) > 20:
        table.add_row(f"and {len(shown) - 20} more", "", "", "", "")
    console.print(table)
    if not about["columns"]:
        return
    table = Table(title="Quantiles over all checkpoints, and over the last of each run", title_justify="left")
    table.add_column("column", no_wrap=True)
    table.add_column("over", no_wrap=True)
    for share in _QUANTILES:
        table.add_column({0.0: "least", 0.5: "median", 1.0: "greatest"}.get(share, f"{share:.0%}"), justify="right")
    for name, both in about["columns"].items():
        if name.startswith("hyperparameters."):  # A run has one value, however many checkpoints it has.
            table.add_row(name.partition(".")[2], "runs", *(_number(value) for value in both[1]))
            continue
        for over, values in zip(("all", "last"), both, strict=True):
            table.add_row(name.replace(".", " "), over, *(_number(value) for value in values))
    console.print(table)


def _splits(zoo: Zoo, by: str) -> dict[str, int]:
    """How many runs or tasks are in each split."""
    pairs = set(zip(zoo.column(by), zoo.column(f"split_{by}"), strict=True))
    counts = Counter(split for _, split in pairs)
    return {split: counts[split] for split in SPLITS}


def _quantiles(zoo: Zoo, name: str) -> Sequence[float | None]:
    return pc.quantile(zoo.index[name], q=list(_QUANTILES)).to_pylist()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
