"""``hypergen prune``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from hypergen.cli.arguments import Inputs, ModelName, Overwrite, build_network, check_writable, example_inputs


def prune(
    model: ModelName,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for the pruned network.")],
    ratio: Annotated[
        float, typer.Option(min=0.0, max=0.99, help="The share of floating-point operations to take out.")
    ] = 0.5,
    allocation: Annotated[str, typer.Option(help="uniform, global or isomorphic.")] = "global",
    norms: Annotated[
        str, typer.Option(help="exact, or kept: also prune streams under norms, to be fine-tuned afterwards.")
    ] = "exact",
    round_to: Annotated[int, typer.Option(min=1, help="Every number of units is a multiple of this.")] = 1,
    overwrite: Overwrite = False,
    inputs: Inputs = None,
) -> None:
    """Take the units of least magnitude out of a network; what is left runs by itself."""
    from hypergen.symmetry.prune.allocate import allocate
    from hypergen.symmetry.prune.importance import magnitude, most_important
    from hypergen.symmetry.prune.pruner import Pruner

    check_writable(out / "model.safetensors", overwrite=overwrite)
    network = build_network(model, on_meta=False).eval()
    pruner = Pruner(network, example_inputs(inputs), norms=norms)  # type: ignore[arg-type]
    scores = magnitude(pruner, {name: value.detach() for name, value in network.named_parameters()})
    counts = allocate(pruner, scores, 1 - ratio, allocation, round_to=round_to)  # type: ignore[arg-type]
    keep = most_important(scores, counts)
    pruned = pruner.prune(keep)
    pruned.save(out)
    table = Table(title=f"{model} pruned", show_header=False, title_justify="left")
    table.add_row("groups pruned", f"{len(pruner.groups)} of {len(pruner.symmetry.groups)}")
    table.add_row("operations", f"{pruner.flops():,} → {pruner.flops(keep):,}")
    table.add_row("parameters", f"{pruner.parameters():,} → {pruner.parameters(keep):,}")
    if pruned.changed_norms:
        table.add_row("norms over fewer channels", f"{len(pruned.changed_norms)}: fine-tune the network")
    console = Console()
    console.print(table)
    console.print(f"written: {out}", highlight=False, markup=False, soft_wrap=True)
