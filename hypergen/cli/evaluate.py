"""``hypergen evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from hypergen.cli.arguments import GeneratorName, Overwrite, check_writable, say_column
from hypergen.errors import HypergenError, UnknownNameError


def evaluate(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for results.json, results.md, tables and plots.")],
    generator: GeneratorName = "digits-ghn",
    overwrite: Overwrite = False,
    protocol: Annotated[
        str,
        typer.Option(help="What to measure: digits; text; or zoo, which needs a generator of checkpoints and --zoo."),
    ] = "digits",
    zoo: Annotated[Path | None, typer.Option(help="The folder of the zoo that holds out tasks or runs.")] = None,
    data: Annotated[
        str, typer.Option(help="package.module:datamodule of the zoo's networks; the digits by default.")
    ] = "",
    metric: Annotated[str, typer.Option(help="package.module:function of outputs and labels, not accuracy.")] = "",
    column: Annotated[
        str, typer.Option(help="The column that the generator was trained for, data.metric: validation.accuracy.")
    ] = "",
    samples: Annotated[int, typer.Option(min=1, help="Networks per condition, in the zoo protocol.")] = 4,
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
    if (protocol == "zoo") != (zoo is not None):
        raise HypergenError("--protocol zoo and --zoo FOLDER belong together: the zoo holds out what is measured.")
    if (data or metric or column) and zoo is None:
        raise HypergenError("--data, --metric and --column are for --protocol zoo.")
    check_writable(out / "results.json", overwrite=overwrite)
    from hypergen.api.predict import load_generator
    from hypergen.data import DigitsDataModule, TextDataModule
    from hypergen.evaluation import AIMS, evaluate_image_classifier_generator, evaluate_language_model_generator

    if aims not in AIMS:
        raise UnknownNameError("set of aims", aims, AIMS)
    loaded = load_generator(generator)
    try:  # Before the minutes of measuring, not after.
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HypergenError(f"The folder {str(out)!r} cannot be made: {error}. Name another one by --out.") from error
    evaluation: Any
    if zoo is not None:
        from hypergen.architectures.by_name import look_in_current_folder
        from hypergen.data import ZooDataModule
        from hypergen.evaluation.zoo.folder import evaluate_on_zoo
        from hypergen.generators.zoo_generator import ZooGenerator

        if not isinstance(loaded, ZooGenerator):
            raise HypergenError(f"{generator!r} is a {type(loaded).__name__}, which was not trained on a zoo.")
        look_in_current_folder()
        opened = ZooDataModule(zoo, DigitsDataModule(), task=data or None, metric=column or None, score=metric or None)
        say_column(loaded, opened, column)
        evaluation = evaluate_on_zoo(loaded, opened, samples=samples, seed=seed)
        evaluation.write(out)
        evaluation.print_table()
        Console().print(evaluation.in_words(), highlight=False, markup=False)
        Console().print(f"written: {out}", highlight=False, markup=False)
        return
    options: dict[str, Any] = {"architectures_per_split": architectures, "workers": workers, "seed": seed}
    if protocol == "text":
        evaluation = evaluate_language_model_generator(loaded, TextDataModule(), **options)
    else:
        try:
            evaluation = evaluate_image_classifier_generator(loaded, DigitsDataModule(), aims=aims, **options)
        except FileNotFoundError as error:  # There are no baselines to compare with; the message says how to make them.
            raise HypergenError(str(error)) from error
    evaluation.write(out)
    evaluation.results.print_table()
    Console().print(f"written: {out}", highlight=False, markup=False)


_PROTOCOLS = ("digits", "text", "zoo")
