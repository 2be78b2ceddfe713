"""Arguments that several commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

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
