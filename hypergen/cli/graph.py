"""``hypergen graph``."""

from __future__ import annotations

import math
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hypergen.cli.arguments import Inputs, ModelName, Overwrite, build_network, check_writable, example_inputs
from hypergen.errors import HypergenError

if TYPE_CHECKING:
    from hypergen.graph import ComputationalGraph


def graph(
    model: ModelName,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Draw it into this .svg, .png, .pdf or (interactive) .html file.")
    ] = None,
    overwrite: Overwrite = False,
    inputs: Inputs = None,
    folded: Annotated[bool, typer.Option("--fold/--no-fold", help="Draw repeated blocks once.")] = True,
) -> None:
    """Trace MODEL and print its operations; draw the graph with --out."""
    import hypergen
    from hypergen.graph.visualize.draw import FORMATS

    if out is not None and out.suffix.lower() not in FORMATS:
        raise HypergenError(f"--out {str(out)!r} is no picture that can be drawn: end it in {', '.join(FORMATS)}.")
    check_writable(out, overwrite=overwrite, suffixes=tuple(FORMATS))
    network = build_network(model)
    start = time.perf_counter()
    traced = hypergen.trace(network, example_inputs(inputs))
    seconds = time.perf_counter() - start
    console = Console()
    console.print(_operations(traced, model))
    edges = f"{traced.edges.shape[1]:,} edges, traced in {1000 * seconds:.0f} ms"
    console.print(f"{edges} on {traced.tracing_mode} tensors", highlight=False)
    unknown = getattr(traced, "unknown_operations", {})
    for title, names in (
        ("without a type of their own", [f"{op} ({count})" for op, count in unknown.items()]),
        ("read by no operation", list(traced.unused_parameters)),
        ("tied", [f"{alias} = {name}" for alias, name in traced.tied_parameters.items()]),
    ):
        if names:
            more = f" and {len(names) - 10} more" if len(names) > 10 else ""
            console.print(f"{title}: {', '.join(names[:10])}{more}", highlight=False, markup=False)
    if out is not None:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            traced.draw(out, folded)
        except OSError as error:
            raise HypergenError(f"{str(out)!r} could not be written: {error}. Name another file.") from error
        console.print(f"drawn: {out}", highlight=False, markup=False)


def _operations(traced: ComputationalGraph, title: str) -> Table:
    """How often each operation runs, and with how many parameters."""
    count: Counter[str] = Counter(node.op for node in traced.nodes)
    tensors: Counter[str] = Counter()
    values: Counter[str] = Counter()
    for node in traced.nodes:
        tensors[node.op] += len(node.parameters)
        values[node.op] += sum(math.prod(traced.parameter_shapes[name]) for name in node.parameters.values())
    table = Table(title=escape(title), title_justify="left")
    table.add_column("operation")
    for column in ("nodes", "parameters", "values"):
        table.add_column(column, justify="right")
    for op in sorted(count, key=lambda op: (-values[op], -count[op], op)):
        numbers = (count[op], tensors[op], values[op])
        table.add_row(escape(op), *(f"{number:,}" if number else "" for number in numbers))
    table.add_section()
    table.add_row("all", f"{count.total():,}", f"{tensors.total():,}", f"{values.total():,}")
    return table
