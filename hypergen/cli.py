"""The ``hypergen`` command.

Heavy imports lie inside the commands, so that ``hypergen --help`` answers at once.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from hypergen.errors import GeneratorError, HypergenError, UnknownNameError

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


class _Group(TyperGroup):
    """Commands whose purposeful errors are one message, without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except HypergenError as error:
            message = str(error)
            if "example_inputs=" in message:  # What the API calls so has another name here.
                message += "\nOn the command line, give the shape: --input 1,3,224,224"
            Console(stderr=True).print(f"[red]{escape(message)}[/red]", highlight=False, soft_wrap=True)
            raise typer.Exit(2) from error


app = typer.Typer(cls=_Group, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        import hypergen

        typer.echo(hypergen.__version__)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Predict the parameters of any torch.nn.Module."""


@app.command()
def predict(
    model: ModelName,
    out: Annotated[Path, typer.Option("--out", "-o", help="The safetensors file to write.")],
    generator: GeneratorName = "digits-ghn",
    dtype: Annotated[str, typer.Option(help="float32, float16, bfloat16 or float64; the model's own by default.")] = "",
    inputs: Inputs = None,
) -> None:
    """Predict every parameter of MODEL and write them to a safetensors file."""
    from hypergen.api import load_generator, predict_params
    from hypergen.generators.checkpoint import save_tensors

    if out.suffix != ".safetensors":
        raise GeneratorError(f"--out {str(out)!r} does not end in .safetensors, which is the format that is written.")
    as_dtype = _float_type(dtype) if dtype else None
    loaded = load_generator(generator)
    network = _build(model)
    start = time.perf_counter()
    parameters = predict_params(network, loaded, example_inputs=_example_inputs(inputs))
    seconds = time.perf_counter() - start
    if as_dtype is not None:
        parameters = {name: value.to(as_dtype) for name, value in parameters.items()}
        _refuse_overflow(parameters, dtype)
    save_tensors(out, parameters)
    _print_prediction(network, parameters, f"{model} by {generator}", seconds, out)


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


@app.command()
def graph(
    model: ModelName,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Draw it into this .svg, .png or .pdf file.")] = None,
    inputs: Inputs = None,
) -> None:
    """Trace MODEL and print its operations; draw the graph with --out."""
    import hypergen

    if out is not None and out.suffix not in _PICTURES:
        raise HypergenError(f"--out {str(out)!r} is no picture that can be drawn: end it in {', '.join(_PICTURES)}.")
    network = _build(model)
    start = time.perf_counter()
    traced = hypergen.trace(network, _example_inputs(inputs))
    seconds = time.perf_counter() - start
    count: Counter[str] = Counter(node.op for node in traced.nodes)
    tensors: Counter[str] = Counter()
    values: Counter[str] = Counter()
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
    for node in traced.nodes:
        tensors[node.op] += len(node.parameters)
        values[node.op] += sum(sizes[name] for name in node.parameters.values())
    table = Table(title=escape(model), title_justify="left")
    table.add_column("operation")
    for column in ("nodes", "parameters", "values"):
        table.add_column(column, justify="right")
    for op in sorted(count, key=lambda op: (-values[op], -count[op], op)):
        numbers = (count[op], tensors[op], values[op])
        table.add_row(escape(op), *(f"{number:,}" if number else "" for number in numbers))
    table.add_section()
    table.add_row("all", f"{count.total():,}", f"{tensors.total():,}", f"{values.total():,}")
    console = Console()
    console.print(table)
    console.print(f"{traced.edges.shape[1]:,} edges, traced in {1000 * seconds:.0f} ms", highlight=False)
    for title, names in (
        ("read by no operation", list(traced.unused_parameters)),
        ("tied", [f"{alias} = {name}" for alias, name in traced.tied_parameters.items()]),
    ):
        if names:
            more = f" and {len(names) - 10} more" if len(names) > 10 else ""
            console.print(f"{title}: {', '.join(names[:10])}{more}", highlight=False, markup=False)
    if out is not None:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            traced.draw(out)
        except OSError as error:
            raise HypergenError(f"{str(out)!r} could not be written: {error}. Name another file.") from error
        console.print(f"drawn: {out}", highlight=False, markup=False)


_PICTURES = (".svg", ".png", ".pdf")


@app.command()
def evaluate(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for results.json, results.md, tables and plots.")],
    generator: GeneratorName = "digits-ghn",
    protocol: Annotated[str, typer.Option(help="What to measure: digits.")] = "digits",
    aims: Annotated[str, typer.Option(help="What to compare with: release, or five_minutes.")] = "release",
    architectures: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many architectures of each split.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes with one thread each; 0 for none.")] = 2,
    seed: Annotated[int, typer.Option(help="Of the order of images in training.")] = 0,
) -> None:
    """Measure a generator on networks that it has never seen, with baselines beside it."""
    if protocol not in _PROTOCOLS:
        raise UnknownNameError("protocol", protocol, _PROTOCOLS)
    from hypergen.api import load_generator
    from hypergen.data import DigitsDataModule
    from hypergen.evaluation import AIMS, evaluate_image_classifier_generator

    if aims not in AIMS:
        raise UnknownNameError("set of aims", aims, AIMS)
    loaded = load_generator(generator)
    try:  # Before the minutes of measuring, not after.
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HypergenError(f"The folder {str(out)!r} cannot be made: {error}. Name another one by --out.") from error
    options: dict[str, Any] = {"aims": aims, "architectures_per_split": architectures, "workers": workers, "seed": seed}
    try:
        evaluation = evaluate_image_classifier_generator(loaded, DigitsDataModule(), **options)
    except FileNotFoundError as error:  # There are no baselines to compare with; the message says how to make them.
        raise HypergenError(str(error)) from error
    evaluation.write(out)
    evaluation.results.print_table()
    Console().print(f"written: {out}", highlight=False, markup=False)


_PROTOCOLS = ("digits",)


@app.command()
def generators() -> None:
    """List the trained generators that come with the package, with their numbers."""
    from hypergen.generators.checkpoint import WEIGHTS, read_config
    from hypergen.generators.registry import RELEASED, list_generators

    names = list_generators()
    if not names:
        typer.echo("This installation ships no trained generators; train one with `python train.py`.")
        return
    table = Table()
    for column in ("name", "class", "size"):
        table.add_column(column, justify="right" if column == "size" else "left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column("aim", justify="right")
    for name in names:
        checkpoint = read_config(RELEASED / name)
        megabytes = (RELEASED / name / WEIGHTS).stat().st_size / 1e6
        # Baselines are rows without an aim; they stay in the model card.
        rows = [row for row in checkpoint.results.get("rows", ()) if row.get("aim") is not None]
        about = (name, checkpoint.class_name, f"{megabytes:.1f} MB")
        for i, row in enumerate(rows or [{}]):
            # A figure that could not be computed is stored as null.
            numbers = ("" if row.get(key) is None else f"{row[key]:.4g}" for key in ("value", "aim"))
            table.add_row(*(about if i == 0 else ("", "", "")), row.get("figure", ""), *numbers)
        table.add_section()
    Console().print(table)


def _build(model: str) -> nn.Module:
    from hypergen.model_names import build_model

    # As `python -m` does: a factory in the folder that the user stands in can be named.
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    return build_model(model)


def _example_inputs(texts: list[str] | None) -> tuple[Tensor, ...] | None:
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


if __name__ == "__main__":
    app()
