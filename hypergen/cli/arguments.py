"""Arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hypergen.errors import HypergenError

if TYPE_CHECKING:
    from torch import Tensor, nn

ModelName = Annotated[
    str,
    typer.Argument(
        help="timm:NAME, torchvision:NAME, hf:TYPE_OR_FOLDER, or package.module:factory (found in this folder too).",
    ),
]
GeneratorName = Annotated[str, typer.Option("--generator", "-g", help="A name, folder, file or Hub id.")]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        help="Shape of an example input, where the model does not tell: 1,3,224,224 or 1,16:int64; repeatable.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is already there.")]


def check_writable(*paths: Path | None, overwrite: bool, suffixes: tuple[str, ...] = ()) -> None:
    """Complain about files that must not be written, before the minutes of making what they are for.

    Args:
        *paths: Files; None for what is not written.
        overwrite: Whether what is there may be replaced.
        suffixes: Ends of names that are written; any where none is given.

    Raises:
        HypergenError: Something is there already, has another ending, or lies in what is no folder.
    """
    for path in paths:
        if path is None:
            continue
        if suffixes and path.suffix.lower() not in suffixes:
            raise HypergenError(f"{str(path)!r} does not end in {' or '.join(suffixes)}, which is what is written.")
        parent = next(each for each in path.absolute().parents if each.exists())
        if not parent.is_dir():
            raise HypergenError(f"{str(path)!r} cannot be made: {str(parent)!r} is a file. Name another folder.")
        if suffixes and path.is_dir():
            raise HypergenError(f"{str(path)!r} is a folder, and a file is written: name another one.")
        if path.exists() and not overwrite:
            raise HypergenError(f"{str(path)!r} is already there; pass --overwrite to replace it, or name another one.")


def build_network(model: str, on_meta: bool = True) -> nn.Module:
    """The network of this name, without values where it need not have any."""
    from hypergen.architectures.by_name import build_model, look_in_current_folder

    look_in_current_folder()
    return build_model(model, on_meta=on_meta)


def example_inputs(texts: list[str] | None) -> tuple[Tensor, ...] | None:
    """Meta tensors of the shapes that ``--input`` gave."""
    if not texts:
        return None
    import torch

    tensors = []
    for text in texts:
        sizes, _, dtype_name = text.partition(":")
        try:
            shape = [int(size) for size in sizes.split(",")]
            dtype = getattr(torch, dtype_name or "float32")
            if min(shape) < 1 or not isinstance(dtype, torch.dtype):
                raise ValueError(text)
        except (ValueError, AttributeError) as error:
            raise HypergenError(
                f"--input {text!r} is no shape. Expected sizes such as 1,3,224,224 or 1,16:int64."
            ) from error
        tensors.append(torch.zeros(shape, dtype=dtype, device="meta"))
    return tuple(tensors)


def say_column(generator: Any, data: Any, column: str) -> None:
    """Say which column of the zoo conditions are read from, where a generator takes a metric and none was named."""
    if not column and "metric" in generator.condition_kinds and data.metric is not None:
        from rich.console import Console

        Console(stderr=True).print(
            f"The metric is read from the zoo's column {data.metric!r}; if the generator was trained for another one "
            "(data.metric=…), name it by --column.",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
