"""``hypergen graph``."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hypergen.commands.arguments import Inputs, ModelName, build_network, example_inputs
from hypergen.errors import HypergenError


def graph(
    model: ModelName,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Draw it into this .svg, .png or .pdf file.")] = None,
    inputs: Inputs = None,
) -> None:
    """Trace MODEL and print its operations; draw the graph with --out."""
    import hypergen

    if out is not None and out.suffix not in _PICTURES:
        raise HypergenError(f"--out {str(out)!r} is no picture that can be drawn: end it in {', '.join(_PICTURES)}.")
    network = build_network(model)
    start = time.perf_counter()
    traced = hypergen.trace(network, example_inputs(inputs))
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
