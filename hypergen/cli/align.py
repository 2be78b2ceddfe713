"""``hypergen align``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hypergen.cli.arguments import Inputs, Overwrite, build_network, check_writable, example_inputs
from hypergen.errors import CheckpointError, HypergenError

if TYPE_CHECKING:
    from torch import Tensor

Checkpoint = typer.Argument(help="A file of a state dict, a Lightning checkpoint, or a folder of Hugging Face.")


def align(
    a: Annotated[Path, Checkpoint],
    b: Annotated[Path, Checkpoint],
    out: Annotated[Path, typer.Option("--out", "-o", help="The safetensors file for the aligned B.")],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="Their architecture: timm:NAME, torchvision:NAME, hf:TYPE_OR_FOLDER or package.module:factory. Not "
            "needed where A is a folder with a config.json.",
        ),
    ] = "",
    merged: Annotated[
        Path | None, typer.Option(help="Also write the network between A and the aligned B into this file.")
    ] = None,
    share: Annotated[float, typer.Option(min=0.0, max=1.0, help="Of B in the merged network.")] = 0.5,
    prefix: Annotated[
        str, typer.Option(help="Take only the tensors whose names begin so, without it: model. for Lightning.")
    ] = "",
    overwrite: Overwrite = False,
    inputs: Inputs = None,
) -> None:
    """Permute the hidden units of B so that it comes near A; what it computes stays the same."""
    from hypergen.generators.checkpoint import save_tensors
    from hypergen.symmetry.align.merging import align_networks, interpolate

    if not model:
        if not (a / "config.json").is_file():
            raise HypergenError(f"{str(a)!r} does not tell its architecture: name it by --model, as timm:resnet18.")
        model = f"hf:{a}"
    check_writable(out, merged, overwrite=overwrite, suffixes=(".safetensors",))
    first, second = (_read(path, prefix) for path in (a, b))
    found = align_networks(build_network(model), first, second, example_inputs(inputs))
    save_tensors(out, found.aligned)
    if merged is not None:
        save_tensors(merged, interpolate(first, found.aligned, share))
    table = Table(title=escape(f"{b} aligned to {a}"), show_header=False, title_justify="left")
    table.add_row("groups of units", f"{found.groups}, {found.moved} of them permuted")
    table.add_row("distance before", f"{found.before:.6g}")
    shrunk = f" ({found.after / found.before - 1:+.1%})" if found.before else ""
    table.add_row("distance after", f"{found.after:.6g}{shrunk}")
    if found.unsupported:
        table.add_row("without a rule", f"{', '.join(found.unsupported)}: what they touch was left as it is")
    console = Console()
    console.print(table)
    for path in filter(None, (out, merged)):
        console.print(f"written: {path}", highlight=False, markup=False, soft_wrap=True)
    if merged is not None and any(name.endswith("running_mean") for name in first):
        console.print(
            "The merged network has batch norms: estimate their statistics anew, by "
            "hypergen.functional.calibrate_batch_norm(model, batches).",
            highlight=False,
            soft_wrap=True,
        )


def _read(path: Path, prefix: str) -> dict[str, Tensor]:
    """The tensors of a file, or of a folder as Hugging Face writes it."""
    from hypergen.zoo.importers import hugging_face
    from hypergen.zoo.importers.states import read_file, state_in

    if not path.is_dir():
        return state_in(read_file(path), path, prefix=prefix)
    for found in hugging_face.find(path):
        if found.path.parent == path:
            return state_in(dict(found.read()[0]), found.path, prefix=prefix)
    raise CheckpointError(f"The folder {str(path)!r} has no weights, such as model.safetensors.")
