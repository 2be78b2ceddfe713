"""``hypergen merge``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hypergen.errors import HypergenError


def merge(
    config: Annotated[Path, typer.Argument(help="A YAML file with merge_method, models, base_model and parameters.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The safetensors file to write.")],
    seed: Annotated[int, typer.Option(help="Random seed of DARE and DELLA.")] = 0,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing file.")] = False,
) -> None:
    """Merge checkpoints, tensor by tensor, as a configuration says; paths are relative to its folder."""
    import yaml

    from hypergen.symmetry.merge.files import merge_files

    if out.suffix != ".safetensors":
        raise HypergenError(f"--out {str(out)!r} does not end in .safetensors, which is the format that is written.")
    if out.exists() and not overwrite:
        raise HypergenError(f"{str(out)!r} is already there; pass --overwrite to replace it, or name another file.")
    try:
        configuration = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise HypergenError(f"{str(config)!r} could not be read: {error}") from error
    if not isinstance(configuration, dict):
        raise HypergenError(f"{str(config)!r} is no configuration: expected keys such as merge_method and models.")
    found = merge_files(configuration, out, folder=config.parent, seed=seed)
    Console().print(
        f"written: {found.path} ({found.merged} tensors merged, {found.copied} copied)",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
