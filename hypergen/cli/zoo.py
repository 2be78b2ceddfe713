"""``hypergen zoo``: build, import and show collections of checkpoints."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from hypergen.cli.arguments import Inputs, Overwrite, check_writable, example_inputs, say_column
from hypergen.errors import HypergenError, UnknownNameError

zoo = typer.Typer(no_args_is_help=True, help="Build, import and show collections of checkpoints.")

Folder = Annotated[Path, typer.Argument(help="The folder of the zoo.")]
OnCorrupt = Annotated[bool, typer.Option("--skip-corrupt", help="Go on without damaged shards, and name them.")]

_SHOWN = 8


@zoo.command()
def build(
    folder: Folder,
    networks: Annotated[int, typer.Option(min=1, help="Of each architecture.")] = 1000,
    hidden: Annotated[
        list[str] | None, typer.Option(help="Widths of an MLP's hidden layers: 16 or 32,16; repeatable. 16 by default.")
    ] = None,
    steps: Annotated[str, typer.Option(help="Updates, or two numbers to draw from: 330,660.")] = "330,660",
    save_every: Annotated[int, typer.Option(min=1, help="Updates between two checkpoints.")] = 165,
    learning_rate: Annotated[str, typer.Option(help="One number, or two to draw from.")] = "0.001,0.01",
    weight_decay: Annotated[str, typer.Option(help="One number, or two to draw from.")] = "0.0001,0.1",
    init_scale: Annotated[str, typer.Option(help="Factor on initial weights; one number, or two.")] = "0.5,2",
    data_fraction: Annotated[str, typer.Option(help="Share of the training images; one number, or two.")] = "0.5,1",
    tasks: Annotated[int, typer.Option(min=0, help="Binary relabellings that networks take in turn; 0 for none.")] = 0,
    shared_init: Annotated[bool, typer.Option(help="Start all networks of an architecture from one point.")] = False,
    data_orders: Annotated[int, typer.Option(min=0, help="Different orders of the images; 0 for one each.")] = 0,
    group_size: Annotated[int, typer.Option(min=1, help="Networks that are trained together.")] = 250,
    engine: Annotated[str, typer.Option(help="Where to train: local, or ray.")] = "local",
    workers: Annotated[int, typer.Option(min=1, help="Workers of Ray on this machine, without a cluster.")] = 2,
    address: Annotated[str, typer.Option(help="Of a Ray cluster.")] = "",
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
) -> None:
    """Train MLPs on the digits, many at a time; a build that was stopped goes on when called again.

    `python train.py experiment=zoo_digits` builds zoos of any architecture and data.
    """
    import torch

    from hypergen.architectures import Architecture
    from hypergen.data import DigitsDataModule
    from hypergen.data.in_memory import SPLITS
    from hypergen.zoo.build.build import build_zoo
    from hypergen.zoo.build.engines import make_engine
    from hypergen.zoo.build.plan import ZooPlan, binary_relabellings

    torch.set_num_threads(1)
    data = DigitsDataModule()
    shape = {"image_size": data.image_size, "channels": data.channels, "num_classes": 1 if tasks else data.num_classes}
    try:
        widths = [[int(_numbers("--hidden", width)) for width in text.split(",")] for text in hidden or ["16"]]
        plan = ZooPlan(
            [Architecture("mlp", {**shape, "widths": each, "norm": "none"}) for each in widths],
            networks,
            steps=_range("--steps", steps),
            save_every=save_every,
            learning_rate=_range("--learning-rate", learning_rate),
            weight_decay=_range("--weight-decay", weight_decay),
            init_scale=_range("--init-scale", init_scale),
            data_fraction=_range("--data-fraction", data_fraction),
            tasks=binary_relabellings(data.num_classes, tasks, seed=seed) if tasks else (),
            shared_init=shared_init,
            data_orders=data_orders or None,
            seed=seed,
            group_size=group_size,
        )
    except ValueError as error:
        raise HypergenError(f"This zoo cannot be built: {error}.") from error
    options: dict[str, Any] = {"address": address or None, "workers": workers} if engine == "ray" else {}
    splits = {split: data.tensors(split) for split in SPLITS}
    report = build_zoo(folder, plan, splits, data_name="digits", engine=make_engine(engine, **options))
    Console().print(
        f"{report.networks:,} networks ({report.trained:,} trained now, {len(report.diverged)} diverged), "
        f"{report.checkpoints:,} checkpoints, {report.seconds:.0f} s in all: {folder}",
        highlight=False,
        soft_wrap=True,
    )


@zoo.command(name="import")
def import_(
    source: Annotated[Path, typer.Argument(help="The folder of checkpoints; only read.")],
    folder: Folder,
    kind: Annotated[str, typer.Option(help="files, model_zoos, lightning or hugging_face.")] = "files",
    pattern: Annotated[
        str, typer.Option(help="Of files: '{run}/epoch_{step:d}_acc{test.accuracy:f}.pth', or a regular expression.")
    ] = "",
    like: Annotated[
        str, typer.Option(help="Write nothing; show what the pattern, or one proposed for this file, finds.")
    ] = "",
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="What the checkpoints are of: package.module:factory, timm:NAME,num_classes=10, hf:FOLDER; repeatable."
        ),
    ] = None,
    data: Annotated[
        str, typer.Option(help="package.module:datamodule that they were trained on; networks are measured on it.")
    ] = "",
    logs: Annotated[
        Path | None, typer.Option(help="Folder of logs to join by run: CSV, Lightning, Ray Tune, offline W&B.")
    ] = None,
    key: Annotated[str, typer.Option(help="Where the state dict is in a file that holds several.")] = "",
    prefix: Annotated[str, typer.Option(help="Take only the tensors whose names begin so, without it.")] = "",
    skip_errors: Annotated[bool, typer.Option(help="Go on without files that cannot be read, and name them.")] = False,
    inputs: Inputs = None,
) -> None:
    """Add the checkpoints in a folder to a zoo; nothing is unpickled but tensors and plain values."""
    from hypergen.architectures.by_name import look_in_current_folder
    from hypergen.zoo.importers import IMPORTERS, import_zoo

    if kind not in IMPORTERS:
        raise UnknownNameError("kind of checkpoints", kind, IMPORTERS)
    if data and not model:
        raise HypergenError("--data measures networks, which --model has to name: package.module:factory.")
    if like or (kind == "files" and not pattern):
        pattern = _propose(source, kind, pattern, like)
    options = {name: value for name, value in (("pattern", pattern), ("key", key), ("prefix", prefix)) if value}
    takes = {"files": {"pattern", "key", "prefix"}, "lightning": {"prefix"}}.get(kind, set())
    for name in options.keys() - takes:
        raise HypergenError(f"--{name} is not for --kind {kind}.")
    if like:
        _preview(source, kind, options)
        return
    wrapped = None
    look_in_current_folder()
    if data:
        from hypergen.data import WrappedDataModule

        wrapped = WrappedDataModule(data)
    report = import_zoo(
        source,
        folder,
        kind,
        on_error="skip" if skip_errors else "raise",
        models=model or (),
        data=wrapped,
        example_inputs=example_inputs(inputs),
        logs=logs,
        **options,
    )
    console = Console()
    for message in report.failed.values():
        console.print(f"skipped: {message}", highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"{len(report.added):,} checkpoints of {len(report.layouts)} layouts added, {report.known:,} were there, "
        f"{len(report.failed)} skipped: {folder}",
        highlight=False,
        soft_wrap=True,
    )
    _print_layouts(folder, report.layouts, console)


def _propose(source: Path, kind: str, pattern: str, like: str) -> str:
    """The pattern that was given, or one for files like another."""
    from hypergen.zoo.importers.propose import propose

    if kind != "files":
        return pattern
    if not source.is_dir():
        raise HypergenError(f"There is no folder {str(source)!r} to import from.")
    names = sorted(file.relative_to(source).as_posix() for file in source.rglob("*") if file.is_file())
    if not names:
        raise HypergenError(f"{str(source)!r} holds no file.")
    if not like:
        raise HypergenError(
            f"--kind files needs a --pattern, such as '{{run}}/epoch_{{step:d}}.pth'. For these files try --pattern "
            f"{propose(names)!r}; --like {names[0]} shows what it finds."
        )
    known = Path(like).resolve()
    name = known.relative_to(source.resolve()).as_posix() if known.is_relative_to(source.resolve()) else like
    if name not in names:
        raise UnknownNameError(f"file below {str(source)!r}", like, names)
    return pattern or propose(names, name)


def _preview(source: Path, kind: str, options: dict[str, str]) -> None:
    """What an import would find, without reading a tensor."""
    from rich.table import Column, Table

    from hypergen.zoo.importers import find_checkpoints
    from hypergen.zoo.importers.found import check_names

    found = list(find_checkpoints(source, kind, **options))
    console = Console()
    if "pattern" in options:
        console.print(f"--pattern {shlex.quote(options['pattern'])}", highlight=False, markup=False, soft_wrap=True)
    columns = list(dict.fromkeys(name for each in found for name in each.columns))
    table = Table(*(Column(name, overflow="fold") for name in ("file", "run", "step", *columns)))
    for each in found[:_SHOWN]:
        step = "in the file" if each.step is None else str(each.step)
        values = [str(each.columns.get(name, "")) for name in columns]
        table.add_row(*map(escape, (each.path.relative_to(source).as_posix(), each.run, step, *values)))
    console.print(table)
    everything = sum(path.is_file() for path in source.rglob("*"))
    runs = len({each.run for each in found})
    console.print(
        f"{len(found):,} checkpoints of {runs:,} runs in {everything:,} files. Nothing was written: "
        "leave --like out, and give the pattern, to import them.",
        highlight=False,
        soft_wrap=True,
    )
    check_names(found)


def _print_layouts(folder: Path, layouts: Mapping[str, int], console: Console) -> None:
    """What is known of the networks that were imported."""
    from hypergen.zoo import Zoo

    zoo = Zoo(folder, on_corrupt="skip")
    for layout_id, number in layouts.items():
        layout = zoo.layouts[layout_id]
        if "model" not in layout.metadata:
            text = "what network they are of is not known: name it by --model, to train generators and readers on them"
        else:
            values = sum(entry.numel for entry in layout.entries if entry.role == "generate")
            text = f"{layout.name}, {values:,} values, {len(layout.permutation_groups)} permutation groups"
        console.print(f"{number:,} of layout {layout_id}: {text}", highlight=False, markup=False, soft_wrap=True)
    splits = Counter(zoo.last().column("split_run"))
    shares = ", ".join(f"{splits.get(name, 0):,} for {name}" for name in ("train", "validation", "test"))
    console.print(f"runs: {shares}", highlight=False)


@zoo.command()
def sample(
    generator: Annotated[str, typer.Argument(help="Folder of a generator that was trained on the zoo.")],
    folder: Folder,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the networks' .pth files and samples.csv.")],
    number: Annotated[int, typer.Option(min=1, help="Number of networks.")] = 20,
    wanted: Annotated[
        float | None, typer.Option(help="The metric to reach that the generator was trained for, as 0.97.")
    ] = None,
    column: Annotated[
        str, typer.Option(help="The column that --wanted is a value of, data.metric in training: validation.accuracy.")
    ] = "",
    task: Annotated[str, typer.Option(help="Name of a task of the zoo whose code is the condition.")] = "",
    data: Annotated[
        str, typer.Option(help="package.module:datamodule that networks are measured, and batch norms calibrated, on.")
    ] = "",
    seed: Annotated[int, typer.Option(help="Random seed of the samples.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Sample networks like those of a zoo, as state dicts that load into the zoo's own network."""
    from hypergen.api.predict import load_generator
    from hypergen.architectures.by_name import look_in_current_folder
    from hypergen.data import ZooDataModule
    from hypergen.evaluation.zoo.samples import sample_networks
    from hypergen.generators.zoo_generator import ZooGenerator

    check_writable(out / "samples.csv", overwrite=overwrite)
    look_in_current_folder()
    loaded = load_generator(generator)
    if not isinstance(loaded, ZooGenerator):
        raise HypergenError(f"{generator!r} is a {type(loaded).__name__}, which was not trained on a zoo.")
    opened = ZooDataModule(folder, task=data or None, metric=column or None)
    say_column(loaded, opened, column)
    samples = sample_networks(loaded, opened, number, wanted=wanted, task=task or None, seed=seed)
    samples.write(out)
    Console().print(f"{samples.in_words()}\nwritten: {out}", highlight=False, markup=False, soft_wrap=True)


@zoo.command()
def show(
    folder: Folder,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Draw pictures into this folder.")] = None,
    metric: Annotated[str, typer.Option(help="The column to draw; by default accuracy, or else loss.")] = "",
    file_format: Annotated[str, typer.Option("--format", help="Of pictures: png, svg or pdf.")] = "png",
    verify: Annotated[bool, typer.Option(help="Compare every checkpoint with its sha256.")] = False,
    skip_corrupt: OnCorrupt = False,
    overwrite: Overwrite = False,
) -> None:
    """Print what is in a zoo, and draw it with --out."""
    import warnings

    from hypergen.zoo import Zoo
    from hypergen.zoo.statistics import print_statistics

    if out is not None:
        check_writable(*out.glob(f"*.{file_format}"), out / f"1.{file_format}", overwrite=overwrite)
    console = Console()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        opened = Zoo(folder, on_corrupt="skip" if skip_corrupt else "raise")
        opened = opened.verify() if verify else opened
    for message, _ in Counter(str(warning.message) for warning in said).items():
        console.print(message, style="yellow", highlight=False, markup=False, soft_wrap=True)
    print_statistics(opened, console)
    if verify:
        console.print(f"{len(opened):,} checkpoints are what was written.", highlight=False)
    if out is not None:
        from hypergen.zoo.pictures import write_pictures

        for path in write_pictures(opened, out, metric=metric, file_format=file_format):
            console.print(f"drawn: {path}", highlight=False, markup=False, soft_wrap=True)


def _range(option: str, text: str) -> float | list[float]:
    numbers = [_numbers(option, part) for part in text.split(",")]
    return numbers[0] if len(numbers) == 1 else numbers


def _numbers(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise HypergenError(f"{option} has {text!r}, which is no number. Expected one, or two with a comma.") from error
