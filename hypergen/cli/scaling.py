"""``hypergen scaling``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from hypergen.cli.arguments import Inputs, ModelName, build_network, example_inputs
from hypergen.errors import HypergenError

if TYPE_CHECKING:
    from torch import nn

scaling = typer.Typer(no_args_is_help=True, help="Scale rules: µP, depth-µP, CompleteP.")


@scaling.callback()
def _group() -> None:
    """Keep ``check`` a command of its own name."""


@scaling.command()
def check(
    model: ModelName,
    vary: Annotated[
        list[str],
        typer.Option(help="Argument of the constructor and its values, smallest network first: embed_dim=64,128,256."),
    ],
    rule: Annotated[str, typer.Option(help="mup, depth_mup, completep, architecture or standard.")] = "mup",
    steps: Annotated[int, typer.Option(min=1, help="Steps of training.")] = 4,
    lr: Annotated[float, typer.Option(help="Learning rate of the smallest network.")] = 0.01,
    optimizer: Annotated[str, typer.Option(help="adamw or sgd.")] = "adamw",
    seeds: Annotated[int, typer.Option(min=1, help="Number of random seeds.")] = 3,
    plot: Annotated[Path | None, typer.Option(help="Picture to write: .svg, .png or .pdf.")] = None,
    inputs: Inputs = None,
) -> None:
    """Train MODEL at several widths for a few steps and compare how much activations change."""
    from hypergen.scaling.check import coordinate_check

    varied = {name: values for name, values in map(_parsed, vary)}
    counts = {len(values) for values in varied.values()}
    if len(counts) != 1:
        raise HypergenError("Every --vary needs the same number of values, one for each network.")
    sizes = range(counts.pop())
    labels = next(iter(varied.values()))
    if not all(label.isdecimal() for label in labels):
        raise HypergenError("The first --vary names the width: its values are whole numbers.")

    def build(width: int) -> nn.Module:
        place = next(size for size in sizes if int(labels[size]) == width)
        arguments = "".join(f",{name}={values[place]}" for name, values in varied.items())
        return build_network(model + arguments, on_meta=False)

    found = coordinate_check(
        build,
        [int(label) for label in labels],
        rule,  # type: ignore[arg-type]  # a wrong one is an error that names the right ones
        steps=steps,
        lr=lr,
        optimizer=optimizer,  # type: ignore[arg-type]
        seeds=seeds,
        example_inputs=example_inputs(inputs),
    )
    console = Console()
    console.print(found)
    console.print(f"worst ratio: {found.worst:.3g}", highlight=False)
    if plot is not None:
        found.plot(plot)
        console.print(f"written: {plot}", highlight=False, markup=False, soft_wrap=True)


def _parsed(text: str) -> tuple[str, list[str]]:
    name, equals, values = text.partition("=")
    if not equals or not values:
        raise HypergenError(f"{text!r} is no argument. Expected NAME=VALUE[,VALUE…], such as embed_dim=64,128.")
    return name, values.split(",")
