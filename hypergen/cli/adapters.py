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


@adapters.command()
def store(
    folder: Annotated[Path, typer.Argument(help="The folder with adapters below it; only read.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder of the zoo.")],
    base: Annotated[str, typer.Option(help="The base model's folder, where adapters of several bases are there.")] = "",
    texts: Annotated[Path | None, typer.Option(help="JSON file of texts by name of adapter.")] = None,
    form: Annotated[str, typer.Option(help="canonical, aligned or shared.")] = "aligned",
) -> None:
    """Store the adapters of one base in a zoo, in one form, with their texts."""
    from hypergen.adapters import by_base, load_base
    from hypergen.adapters.zoo import fitting_group, join_texts, read_named_adapters, read_texts, write_adapter_zoo
    from hypergen.errors import ParameterError

    console = Console()
    own = read_named_adapters(folder)
    if base:
        own, left_out = fitting_group(own, load_base(base)[0])
        _print_left_out(console, left_out)
    elif len(groups := by_base(own)) > 1:
        described = ", ".join(f"{name!r} ({len(group)})" for name, group in groups.items())
        raise ParameterError(
            f"The adapters are of several bases or sets of modules: {described}. Name one with --base."
        )
    known = read_texts(texts) if texts else {}
    if known:
        join_texts([adapter.name for adapter in own], known)
    stacked = write_adapter_zoo(out, own, known, form)  # type: ignore[arg-type]
    console.print(f"{len(stacked)} adapters stored: {out}", highlight=False, markup=False, soft_wrap=True)


@adapters.command()
def train(
    folder: Annotated[Path, typer.Argument(help="A zoo of adapters, or a folder with adapters below it.")],
    base: Annotated[str, typer.Option(help="The base model's folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for the generator.")],
    texts: Annotated[Path | None, typer.Option(help="JSON file of texts by name of adapter.")] = None,
    inputs: Annotated[
        Path | None, typer.Option(help="File of texts or token numbers to compare on; else the base's own.")
    ] = None,
    behaviour: Annotated[bool, typer.Option(help="Compare what adapted models do, not weights alone.")] = True,
    form: Annotated[str, typer.Option(help="canonical, aligned or shared.")] = "aligned",
    held_out: Annotated[int, typer.Option(min=0, help="Number of adapters that are only measured on.")] = 0,
    partial: Annotated[bool, typer.Option(help="Leave out adapters without a text, and texts without one.")] = False,
    steps: Annotated[str, typer.Option(help="Steps on weights, and on what adapted models do.")] = "300,150",
    length: Annotated[int, typer.Option(min=2, help="Tokens of an input.")] = 16,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
) -> None:
    """Train a generator that writes adapters of one base for texts."""
    from hypergen.api.adapters import train_from_folders
    from hypergen.errors import HypergenError

    try:
        weights, outputs = (int(part) for part in steps.split(","))
    except ValueError as error:
        raise HypergenError(f"--steps {steps!r} is no pair of numbers. Expected two, such as 300,150.") from error
    console = Console()
    found = train_from_folders(
        folder,
        base,
        texts,
        inputs=inputs,
        behaviour=behaviour,
        form=form,  # type: ignore[arg-type]
        held_out=held_out,
        partial=partial,
        length=length,
        seed=seed,
        steps=(weights, outputs),
    )
    _print_left_out(console, found.left_out)
    found.generator.save_pretrained(out)
    held = f" (held out: {', '.join(found.held_out)})" if found.held_out else ""
    console.print(f"Trained on {found.adapters} adapters{held}.", highlight=False, markup=False, soft_wrap=True)
    console.print(str(found.report), highlight=False, markup=False, soft_wrap=True)
    console.print(f"written: {out}", highlight=False, markup=False, soft_wrap=True)


@adapters.command()
def write(
    generator: Annotated[str, typer.Argument(help="The generator's folder.")],
    texts: Annotated[
        list[str], typer.Argument(help="What the adapter is to do; several with --stack, or several folders.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for the adapter, as PEFT has it.")],
    scale: Annotated[float, typer.Option(help="Factor on the updates.")] = 1.0,
    rank: Annotated[int, typer.Option(min=0, help="Rank of the adapter; 0 for the generator's own.")] = 0,
    stack: Annotated[bool, typer.Option(help="One adapter that adds up those of all texts.")] = False,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
) -> None:
    """Write an adapter for a text, which PEFT, Transformers and servers load."""
    import hypergen
    from hypergen.adapters import merge_adapters, write_adapter
    from hypergen.errors import GeneratorError
    from hypergen.generators.text_to_adapter.model import TextToAdapter

    loaded = hypergen.load_generator(generator)
    if not isinstance(loaded, TextToAdapter):
        raise GeneratorError(
            f"{generator!r} is a {type(loaded).__name__}, which writes no adapters. Train one with `hypergen adapters "
            "train`."
        )
    made = [loaded.write(text, seed=seed, scale=scale) for text in texts]
    made = [adapter.map(lambda update: update.with_rank(rank)) if rank else adapter for adapter in made]
    if stack and len(made) > 1:
        made = [merge_adapters(made, method="svd" if rank else "cat", rank=rank or None)]
    console = Console()
    for number, adapter in enumerate(made):
        written = write_adapter(adapter, out if len(made) == 1 else out / str(number))
        console.print(f"written: {written}", highlight=False, markup=False, soft_wrap=True)


def _print_left_out(console: Console, left_out: dict[str, str]) -> None:
    for name, why in left_out.items():
        console.print(f"left out: {name}: {why}", style="yellow", highlight=False, markup=False, soft_wrap=True)
