"""``hypergen adapters``: inspect, merge, screen, generate and write LoRA adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

adapters = typer.Typer(no_args_is_help=True, help="Inspect, merge, screen, generate and write LoRA adapters.")

Folders = Annotated[list[Path], typer.Argument(help="Folders of adapters, or with adapters below them; or files.")]


@adapters.command()
def inspect(
    folders: Folders,
    base: Annotated[
        list[str] | None, typer.Option(help="A base model's folder, or hf:TYPE, to compare modules with; repeatable.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write tables and pictures into this folder.")] = None,
) -> None:
    """Show rank used, norm, nearest neighbour and base of every adapter; with --out, statistics and pictures."""
    from hypergen.adapters import by_base, inspect_adapters, load_base, nearest, write_inspection

    console = Console()
    inspected = inspect_adapters(folders, {name: load_base(name) for name in base or ()})
    for group, own in by_base(inspected).items():
        table = Table(title=f"{group}: {len(own)} adapters of {len(own[0].signature)} modules", title_justify="left")
        for column in ("adapter", "rank", "used (99%)", "norm", "nearest", "cosine", *(base or ()), "notes"):
            table.add_column(column, overflow="fold")
        for each, (neighbour, cosine) in zip(own, nearest(own), strict=True):
            fits = [str(each.fits[name]) for name in base or ()]
            near = f"{cosine:.3f}" if neighbour else ""
            numbers = [str(each.rank), f"{each.rank_used:.1f}", f"{each.norm:.3g}", neighbour, near]
            table.add_row(each.name, *numbers, *fits, "; ".join(each.notes))
        console.print(table)
    if out is not None:
        for path in write_inspection(inspected, out):
            console.print(f"written: {path}", highlight=False, markup=False, soft_wrap=True)


@adapters.command()
def merge(
    folders: Folders,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for the merged adapter.")],
    weight: Annotated[
        list[float] | None, typer.Option(help="Weight of each adapter in the order of the folders; 1 by default.")
    ] = None,
    method: Annotated[str, typer.Option(help="svd, cat, ties or dare.")] = "svd",
    rank: Annotated[int, typer.Option(min=0, help="Rank of the result; 0 for the largest there is.")] = 0,
    density: Annotated[float, typer.Option(help="Share of values that ties and dare keep.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Random seed of dare.")] = 0,
) -> None:
    """Merge adapters of one base, of any ranks and scales, into one."""
    from hypergen.adapters import find_adapters, merge_adapters, read_adapter, write_adapter

    every = [read_adapter(path) for path in find_adapters(folders)]
    merged = merge_adapters(
        every,
        weight or None,
        method=method,  # type: ignore[arg-type]
        rank=rank or None,
        density=density,
        seed=seed,
        name=out.name,
    )
    written = write_adapter(merged, out)
    Console().print(
        f"{len(every)} adapters of rank {', '.join(str(each.rank) for each in every)} merged into one of rank "
        f"{merged.rank}: {written}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
