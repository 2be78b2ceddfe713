"""The ``hypergen`` command."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from hypergen.cli.adapters import adapters
from hypergen.cli.align import align
from hypergen.cli.boundary import error_boundary
from hypergen.cli.evaluate import evaluate
from hypergen.cli.generators import generators
from hypergen.cli.graph import graph
from hypergen.cli.initialize import initialize
from hypergen.cli.merge import merge
from hypergen.cli.predict import predict
from hypergen.cli.prune import prune
from hypergen.cli.scaling import scaling
from hypergen.cli.zoo import zoo


class _Group(TyperGroup):
    """Commands behind the one boundary for errors."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        with error_boundary(translate=_translated, exit_code=2):
            return super().main(*args, **kwargs)


def _translated(message: str) -> str:
    """A message of the API in words of the command line."""
    if "example_inputs=" in message:
        message += "\nOn the command line, give the shape: --input 1,3,224,224"
    return message


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


for command in (predict, initialize, graph, align, merge, prune, evaluate, generators):
    app.command()(command)
app.add_typer(zoo, name="zoo")
app.add_typer(adapters, name="adapters")
app.add_typer(scaling, name="scaling")


@app.command(
    "train", add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
)
def train(context: typer.Context) -> None:
    """Train what a configuration says, as `python train.py` does; `hypergen train --help` lists the options."""
    from hypergen.cli.train import main as start

    start(context.args)


if __name__ == "__main__":
    app()
