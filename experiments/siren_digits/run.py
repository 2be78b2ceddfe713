"""``python train.py experiment=siren_digits``: read and edit networks that draw the digits."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
from rich.console import Console
from torch import Tensor

from experiments.shared.processes import cpu_seconds, seconds_since_start
from experiments.shared.zoo_networks import SPLITS
from experiments.siren_digits.baselines import (
    DrawnPictures,
    baseline_classes,
    baseline_edits,
    errors,
    finetuning_errors,
)
from experiments.siren_digits.classification import SirenClassification
from experiments.siren_digits.editing import EDITS, SirenEditing
from experiments.siren_digits.plots import write_siren_plots
from experiments.siren_digits.zoo import psnr, render
from hypergen.data import ImageDataModule
from hypergen.errors import HypergenError
from hypergen.evaluation.results import Results, Row
from hypergen.evaluation.zoo.data import select
from hypergen.functional.stacked_module import StackedModule
from hypergen.training.fit import fit
from hypergen.zoo import ZooWriter

Trainer = Callable[..., pl.Trainer]
_FINETUNING_STEPS = (5, 10, 20, 40, 80, 160)


def train_siren_digits(
    *,
    name: str,
    output: str,
    seed: int,
    data: ImageDataModule,
    trainer: Trainer,
    sirens: StackedModule,
    fitting: Callable[..., dict[str, Tensor]],
    copies: int,
    classification: Callable[..., SirenClassification],
    probes: int,
    steps_with_probes: int,
    editing: Callable[..., SirenEditing],
    images: int | None = None,
    aims: Mapping[str, float] | None = None,
) -> Results:
    """Fit a SIREN to every image, tell from the weights what it draws, and change the weights to edit the picture.

    Every SIREN has an initialisation of its own. Images are split before they are drawn: of training images there are
    several SIRENs each, of validation and test images one. Whether the classifier also runs the SIRENs at points is
    selected on validation images.

    Args:
        name: Name of the experiment.
        output: The folder that everything is written into.
        seed: Random seed of SIRENs and training.
        data: The images, of one channel.
        trainer: Makes trainers.
        sirens: What the SIRENs are.
        fitting: Fits them, from ``sirens``, pictures and seeds.
        copies: SIRENs of each training image.
        classification: Makes a LightningModule from ``sirens``, ``networks`` and ``labels``.
        probes: Points at which the classifier with probes runs the SIRENs.
        steps_with_probes: Number of steps of its training, which takes fewer.
        editing: Makes a LightningModule from ``sirens``, ``networks`` and ``pictures``.
        images: Only so many of each split.
        aims: By figure.

    Returns:
        The figures, which are also written to ``output`` and printed.

    Raises:
        HypergenError: The images have several channels, or a file cannot be written.
    """
    console = Console()
    begun = time.monotonic()
    drawn = _draw(data, sirens, fitting, copies, images, seed)
    _write_zoo(Path(output) / "zoo", drawn, sirens)
    zoo_seconds = time.monotonic() - begun
    train, validation, test = (drawn[split] for split in SPLITS)
    console.print(f"{name}: seed {seed}, {sum(map(len, drawn.values()))} SIRENs fitted in {zoo_seconds:.0f} s")

    learners = {
        "without_probes": partial(classification, probes=0),
        "with_probes": partial(classification, probes=probes, steps=steps_with_probes),
    }
    says: dict[str, Tensor] = {}
    rows: list[Row] = []
    for kind, make in learners.items():
        begun = time.monotonic()
        torch.manual_seed(seed)
        module = make(sirens=sirens, networks=train.networks, labels=train.labels, seed=seed)
        _fit(module, trainer, output)
        says[kind] = module.predict(test.networks)
        right = _right(module.predict(validation.networks), validation)
        rows.append(Row.from_values(f"{name}_validation_accuracy_{kind}", right))
        console.print(f"Classifier {kind.replace('_', ' ')} trained in {time.monotonic() - begun:.0f} s")
    selected = max(zip(learners, rows, strict=True), key=lambda pair: pair[1].value)[0]
    says |= baseline_classes(train, test, sirens, module.groups, seed)
    figures = {"": says[selected], **{f"_{kind}": classes for kind, classes in says.items()}}
    rows = [
        *(Row.from_values(f"{name}_accuracy{kind}", _right(own, test)) for kind, own in figures.items()),
        *rows,
    ]

    one_each = _first(train, len(train) // copies)
    pictures: dict[str, tuple[Tensor, Tensor]] = {}
    for edit_name, edit in EDITS.items():
        begun = time.monotonic()
        torch.manual_seed(seed)
        editor = editing(sirens=sirens, networks=train.networks, pictures=edit(train.pictures), seed=seed)
        _fit(editor, trainer, output)
        console.print(f"Editor for {edit_name} trained in {time.monotonic() - begun:.0f} s")
        wanted = edit(test.pictures)
        edited = {"": editor.edit(test.networks)}
        edited |= {f"_{kind}": own for kind, own in baseline_edits(one_each, test, edit, sirens).items()}
        found = {kind: errors(sirens, own, wanted) for kind, own in edited.items()}
        tuned = finetuning_errors(sirens, test, wanted, _FINETUNING_STEPS)
        found |= {f"_finetuned_{count}_steps": own for count, own in tuned.items()}
        rows += [
            Row.from_values(f"{edit_name}_error{kind}", own.tolist(), better="lower") for kind, own in found.items()
        ]
        pictures[edit_name] = (wanted, render(sirens, edited[""], test.size))

    similarity = torch.cat([psnr(render(sirens, own.networks, own.size), own.pictures) for own in drawn.values()])
    per_class = torch.cat([own.labels for own in drawn.values()]).bincount()
    rows += [
        Row("sirens", len(similarity)),
        Row("sirens_per_class_most", int(per_class.max()), better="lower"),
        Row.from_values("siren_psnr", similarity.tolist()),
        Row("zoo_seconds", zoo_seconds, better="lower"),
        Row("run_seconds", seconds_since_start(), better="lower"),
        Row("run_cpu_seconds", cpu_seconds(), better="lower"),
    ]
    rows = [Row(row.figure, row.value, row.std, row.n, (aims or {}).get(row.figure), row.better) for row in rows]
    results = Results(name, seed, tuple(sorted(rows, key=lambda row: row.aim is None)), {"selected": selected})
    results.write(output)
    write_siren_plots(results, test.labels, render(sirens, test.networks, test.size), pictures, output)
    results.print_table(console)
    console.print(f"Results, pictures and the zoo are in {output}", soft_wrap=True)
    return results


def _draw(
    data: ImageDataModule,
    sirens: StackedModule,
    fitting: Callable[..., dict[str, Tensor]],
    copies: int,
    images: int | None,
    seed: int,
) -> dict[str, DrawnPictures]:
    """Fit SIRENs to the images of each split, with brightness from -1 to 1."""
    splits = {split: tuple(part[:images] for part in data.tensors(split)) for split in SPLITS}
    if data.channels != 1:
        raise HypergenError(f"The images have {data.channels} channels; SIRENs draw one. Pass data in shades of grey.")
    low, high = splits["train"][0].min(), splits["train"][0].max()
    drawn = {}
    random = torch.Generator().manual_seed(seed)
    for split, (values, labels) in splits.items():
        times = copies if split == "train" else 1
        wanted = (2 * (values[:, 0] - low) / (high - low) - 1).clamp(-1, 1).repeat(times, 1, 1)
        seeds = torch.randint(2**62, (len(wanted),), generator=random).tolist()
        drawn[split] = DrawnPictures(fitting(sirens, wanted, seeds), wanted, labels.repeat(times))
    return drawn


def _write_zoo(folder: Path, drawn: Mapping[str, DrawnPictures], sirens: StackedModule) -> None:
    with ZooWriter(folder) as writer:
        for split, own in drawn.items():
            similarity = psnr(render(sirens, own.networks, own.size), own.pictures)
            writer.add_stacked(
                own.networks,
                runs=[f"{split}-{number}" for number in range(len(own))],
                steps=0,
                columns={
                    "split_run": [split] * len(own),
                    "hyperparameters.label": own.labels.tolist(),
                    "validation.psnr": similarity.tolist(),
                },
            )


def _fit(module: SirenClassification | SirenEditing, trainer: Trainer, output: str) -> None:
    loaders = {"train_dataloaders": module.train_dataloader()}
    fit(
        module,
        loaders,
        partial(trainer, max_steps=module.steps, enable_progress_bar=False, val_check_interval=None),
        None,
        None,
        output,
        None,
    )
    module.eval()


def _first(drawn: DrawnPictures, count: int) -> DrawnPictures:
    return DrawnPictures(select(drawn.networks, torch.arange(count)), drawn.pictures[:count], drawn.labels[:count])


def _right(said: Tensor, drawn: DrawnPictures) -> list[float]:
    """1 for each network whose class was told, else 0."""
    return (said == drawn.labels).float().tolist()
