"""``hypergen generators``."""

from __future__ import annotations

import typer
from rich.console import Console
from rich.table import Table


def generators() -> None:
    """List the trained generators that come with the package, with their numbers."""
    from hypergen.generators.checkpoint import WEIGHTS, read_config
    from hypergen.generators.factory import RELEASED, list_generators

    names = list_generators()
    if not names:
        typer.echo("This installation ships no trained generators; train one with `python train.py`.")
        return
    table = Table()
    for column in ("name", "class", "size"):
        table.add_column(column, justify="right" if column == "size" else "left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column("aim", justify="right")
    for name in names:
        checkpoint = read_config(RELEASED / name)
        megabytes = (RELEASED / name / WEIGHTS).stat().st_size / 1e6
        # Baselines are rows without an aim; they stay in the model card.
        rows = [row for row in checkpoint.results.get("rows", ()) if row.get("aim") is not None]
        about = (name, checkpoint.class_name, f"{megabytes:.1f} MB")
        for i, row in enumerate(rows or [{}]):
            # A figure that could not be computed is stored as null.
            numbers = ("" if row.get(key) is None else f"{row[key]:.4g}" for key in ("value", "aim"))
            table.add_row(*(about if i == 0 else ("", "", "")), row.get("figure", ""), *numbers)
        table.add_section()
    Console().print(table)
