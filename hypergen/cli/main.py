"""The ``hypergen`` command."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from hypergen.cli.align import align
from hypergen.cli.evaluate import evaluate
from hypergen.cli.generators import generators
from hypergen.cli.graph import graph
from hypergen.cli.predict import predict
from hypergen.cli.zoo import zoo
from hypergen.errors import HypergenError


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


for command in (predict, graph, align, evaluate, generators):
    app.command()(command)
app.add_typer(zoo, name="zoo")


if __name__ == "__main__":
    app()
