"""``hypergen initialize``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from hypergen.cli.arguments import Inputs, ModelName, Overwrite, build_network, check_writable, example_inputs


def initialize(
    model: ModelName,
    donor: Annotated[
        str,
        typer.Option(help="The trained network: a file of its state dict, a Hugging Face folder, or MODEL's forms."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The safetensors file to write.")],
    donor_model: Annotated[
        str, typer.Option(help="The module of the donor's file, in MODEL's forms; MODEL itself by default.")
    ] = "",
    width: Annotated[str, typer.Option(help="Channels that a narrower network keeps: uniform or leading.")] = "uniform",
    depth: Annotated[
        str, typer.Option(help="The donor's block that each block starts from: even, stack, first, last or identity.")
    ] = "even",
    verify: Annotated[bool, typer.Option(help="Compare the outputs of both networks in float64.")] = False,
    overwrite: Overwrite = False,
    inputs: Inputs = None,
) -> None:
    """Start MODEL from a trained network of another width or depth, and write its state dict."""
    from hypergen.api.donor import initialize_from_donor
    from hypergen.architectures.by_name import build_model
    from hypergen.generators.checkpoint import save_tensors

    check_writable(out, overwrite=overwrite, suffixes=(".safetensors",))
    network = build_network(model, on_meta=False)
    source = build_model(donor, on_meta=False) if ":" in donor and not Path(donor).exists() else donor
    mapping = initialize_from_donor(
        network,
        source,
        donor_model=donor_model or None,
        width=width,  # type: ignore[arg-type]  # a wrong one is an error that names the right ones
        depth=depth,  # type: ignore[arg-type]
        example_inputs=example_inputs(inputs),
        verify=verify,
    )
    save_tensors(out, network.state_dict())
    console = Console()
    console.print(mapping)
    console.print(escape(f"Written: {out} ({out.stat().st_size:,} bytes)"), soft_wrap=True)
