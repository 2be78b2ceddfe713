"""``hypergen predict``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hypergen.cli.arguments import (
    GeneratorName,
    Inputs,
    ModelName,
    Overwrite,
    build_network,
    check_writable,
    example_inputs,
)
from hypergen.errors import GeneratorError, UnknownNameError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hypergen.generators import Generator


def predict(
    model: ModelName,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="The safetensors file to write; or a folder for sharded files, which may outgrow memory.",
        ),
    ],
    generator: GeneratorName = "digits-ghn",
    dtype: Annotated[str, typer.Option(help="float32, float16, bfloat16 or float64; the model's own by default.")] = "",
    max_shard_size: Annotated[str, typer.Option(help="Of the files in a folder: 5GB, 500MB.")] = "5GB",
    overwrite: Overwrite = False,
    inputs: Inputs = None,
) -> None:
    """Predict every parameter of MODEL and write them to a safetensors file, or to several in a folder."""
    from hypergen.api.predict import load_generator, predict_params
    from hypergen.generators.checkpoint import save_tensors

    if out.suffix != ".safetensors" and (out.suffix and not out.is_dir()):
        raise GeneratorError(
            f"--out {str(out)!r} does not end in .safetensors, which is the format that is written; a folder's name "
            "has no dot in it."
        )
    if out.suffix == ".safetensors":  # a folder may be one where the same call was stopped
        check_writable(out, overwrite=overwrite, suffixes=(".safetensors",))
    as_dtype = _float_type(dtype) if dtype else None
    loaded = load_generator(generator)
    if out.suffix != ".safetensors":
        _predict_to_folder(model, loaded, out, as_dtype, max_shard_size, inputs)
        return
    network = build_network(model)
    start = time.perf_counter()
    parameters = predict_params(network, loaded, example_inputs=example_inputs(inputs))
    seconds = time.perf_counter() - start
    if as_dtype is not None:
        parameters = {name: value.to(as_dtype) for name, value in parameters.items()}
        _refuse_overflow(parameters, dtype)
    save_tensors(out, parameters)
    _print_prediction(network, parameters, f"{model} by {generator}", seconds, out)


def _predict_to_folder(
    model: str, generator: Generator, out: Path, dtype: Any, max_shard_size: str, inputs: list[str] | None
) -> None:
    import torch

    from hypergen.api.disk import predict_to_disk

    network = build_network(model)
    options: dict[str, Any] = {"dtype": dtype or torch.float32, "max_shard_size": max_shard_size}
    start = time.perf_counter()
    report = predict_to_disk(network, generator, out, example_inputs=example_inputs(inputs), **options)
    seconds = time.perf_counter() - start
    table = Table(title=escape(f"{model} into {out}"), show_header=False, title_justify="left")
    table.add_row("parameters", f"{len(report.predicted):,} tensors, {report.values:,} values")
    resumed = f", {len(report.resumed)} of them there already" if report.resumed else ""
    table.add_row("files", f"{len(report.files)}{resumed}, {report.size:,} bytes")
    if report.buffers:
        table.add_row("buffers", f"{len(report.buffers):,} as the network has them, running statistics of a new one")
    if report.left_out:
        table.add_row(
            "left out", escape(f"{', '.join(report.left_out[:10])} (buffers without a value, or read by no operation)")
        )
    table.add_row("time", f"{seconds:.2f} s")
    Console().print(table)


def _print_prediction(network: nn.Module, parameters: dict[str, Tensor], title: str, seconds: float, out: Path) -> None:
    own = dict(network.named_parameters())
    values = sum(value.numel() for value in parameters.values())
    types = ", ".join(sorted({str(value.dtype).removeprefix("torch.") for value in parameters.values()}))
    kept = [name for name in own if name not in parameters]
    table = Table(title=escape(title), show_header=False, title_justify="left")
    table.add_row("parameters", f"{len(parameters):,} tensors, {values:,} values, {types}")
    table.add_row("of the network", f"{values / sum(p.numel() for p in own.values()):.2%} predicted")
    if kept:
        more = f" and {len(kept) - 10} more" if len(kept) > 10 else ""
        table.add_row("left out", escape(f"{', '.join(kept[:10])}{more} (read by no operation)"))
    table.add_row("time", f"{seconds:.2f} s to trace and predict")
    table.add_row("written", escape(f"{out} ({out.stat().st_size:,} bytes)"))
    Console().print(table)
    Console().print(
        "Load with model.load_state_dict(safetensors.torch.load_file(…), strict=False): buffers are not predicted.",
        highlight=False,
        soft_wrap=True,
    )


def _float_type(name: str) -> Any:
    import torch

    names = ("float32", "float16", "bfloat16", "float64")
    if name not in names:
        raise UnknownNameError("data type", name, names)
    return getattr(torch, name)


def _refuse_overflow(parameters: dict[str, Tensor], dtype: str) -> None:
    wrong = [name for name, value in parameters.items() if not value.isfinite().all()]
    if wrong:
        raise GeneratorError(
            f"{len(wrong)} parameters are too large for {dtype}, {wrong[0]} first. Use --dtype bfloat16 or float32."
        )
