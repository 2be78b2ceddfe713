"""Whole runs, as ``train.py`` starts them: train, save, evaluate, report.

A run needs every room of the house, so it lives below all of them, beside the command line. Its functions take
instantiated objects and functions with their settings filled in, never a config object.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from rich.console import Console
from torch import nn

import hypergen
from hypergen.architectures import Space
from hypergen.data import ImageDataModule, TextDataModule
from hypergen.errors import HypergenError
from hypergen.evaluation import Evaluation, LanguageModelEvaluation, Results, Row
from hypergen.functional import calibrate_batch_norm
from hypergen.functional.batches import evaluation_mode
from hypergen.generators.generator import Generator
from hypergen.training.fit import fit
from hypergen.training.target import TargetTraining, build_target


def train_graph_hypernetwork(
    *,
    name: str,
    output: str,
    seed: int,
    data: ImageDataModule | TextDataModule,
    space: Space,
    generator: Generator,
    meta_batches: Callable[..., pl.LightningDataModule],
    training: Callable[..., pl.LightningModule],
    trainer: Callable[..., pl.Trainer],
    logger: Logger | None = None,
    callbacks: Mapping[str, pl.Callback] | None = None,
    evaluation: Callable[..., Evaluation | LanguageModelEvaluation] | None = None,
    evaluate: bool = True,
    ckpt_path: str | None = None,
) -> Path:
    """Train a graph hypernetwork, save it, and evaluate it.

    Args:
        name: Of the experiment.
        output: The folder that everything is written into.
        seed: Of this run; the caller has seeded the global generators with it before ``generator`` was made.
        data: What targets are trained on.
        space: The distribution of training targets.
        generator: The graph hypernetwork.
        meta_batches: Makes the data module of training from ``data`` and ``space``.
        training: Makes the LightningModule from ``generator`` and ``data``.
        trainer: Makes the trainer.
        logger: Where figures of training go.
        callbacks: By name.
        evaluation: Evaluates the trained generator on ``data``.
        evaluate: Whether to.
        ckpt_path: Go on from this checkpoint.

    Returns:
        The folder of the generator.

    Raises:
        CheckpointError: ``ckpt_path`` cannot be resumed from, or something could not be saved.
        TrainingInterrupted: A signal stopped training; a checkpoint was saved.
    """
    console = Console()
    module = training(generator=generator, data=data)
    number = sum(parameter.numel() for parameter in generator.parameters())
    console.print(f"{name}: training a {type(generator).__name__} of {number:,} parameters, seed {seed}")
    begun = time.monotonic()
    batches = {"datamodule": meta_batches(data=data, space=space)}
    fit(module, batches, trainer, logger, callbacks, output, ckpt_path)
    console.print(f"Trained in {time.monotonic() - begun:.0f} s")
    folder = Path(output) / "generator"
    generator.eval()
    # Before the evaluation, which takes minutes and may be interrupted, and again with its numbers.
    generator.save_pretrained(folder)
    if evaluate and evaluation is not None:
        evaluated = evaluation(generator, data, name=name, seed=seed)
        evaluated.write(output)
        generator.save_pretrained(folder, results=evaluated.results.to_dict())
        evaluated.results.print_table()
        console.print(f"Results, tables and plots are in {output}", soft_wrap=True)
    console.print(f"The generator is in {folder}", soft_wrap=True)
    return folder


def train_target(
    *,
    name: str,
    output: str,
    seed: int,
    data: ImageDataModule,
    target: str,
    init: str,
    training: Callable[..., TargetTraining],
    trainer: Callable[..., pl.Trainer],
    logger: Logger | None = None,
    callbacks: Mapping[str, pl.Callback] | None = None,
    calibration_batches: int = 16,
    ckpt_path: str | None = None,
) -> Results:
    """Train one ordinary network, from its own initialisation or from generated parameters.

    Args:
        name: Of the experiment.
        output: The folder that everything is written into.
        seed: Of this run.
        data: The images.
        target: The network, as :func:`hypergen.training.target.build_target` takes it.
        init: ``"default"``, or what :func:`hypergen.load_generator` takes.
        training: Makes the LightningModule from ``target``.
        trainer: Makes the trainer.
        logger: Where figures of training go.
        callbacks: By name.
        calibration_batches: Training batches that the statistics of batch norms are estimated from beforehand.
        ckpt_path: Go on from this checkpoint.

    Returns:
        The figures, which are also written to ``output`` and printed.

    Raises:
        HypergenError: The target or the generator is unknown or does not fit the data, or a file cannot be read or
            written.
        TrainingInterrupted: A signal stopped training; a checkpoint was saved.
    """
    console = Console()
    network = build_target(target)
    _refuse_misfit(network, target, data)
    batches = data.train_dataloader()
    share = 0.0
    if init == "default":
        calibrate_batch_norm(network, batches, max_batches=calibration_batches)
        console.print(f"{target}: default initialisation")
    else:
        report = hypergen.initialize(network, init, calibrate=batches, calibration_batches=calibration_batches)
        share = report.share_of_parameters_predicted
        console.print(report)
    module = training(target=network)
    loaders = {"train_dataloaders": batches, "val_dataloaders": [data.val_dataloader(), data.test_dataloader()]}
    fit(module, loaders, trainer, logger, callbacks, output, ckpt_path)
    _, validation, test = module.curve[-1]
    figures = [
        Row("accuracy_before_training", module.curve[0][2]),
        Row("validation_accuracy", validation),
        Row("test_accuracy", test),
        Row(f"steps_to_{round(100 * module.threshold)}", _or_nan(module.steps_to_threshold), better="lower"),
        Row("steps", module.curve[-1][0], better="lower"),
        Row("share_of_parameters_predicted", share),
    ]
    details = {"target": target, "init": init, "curve": [list(point) for point in module.curve]}
    results = Results(name, seed, tuple(figures), details)
    results.write(output)
    results.print_table()
    _plot_curve(module.curve, Path(output) / "accuracy.png", f"{target}, init={init}")
    console.print(f"Results are in {output}", soft_wrap=True)
    return results


def _refuse_misfit(network: nn.Module, target: str, data: ImageDataModule) -> None:
    """Complain where the network does not map the images to one logit per class."""
    images = data.tensors("train")[0][:2]
    expected = [len(images), data.num_classes]
    try:
        with evaluation_mode(network):
            output = network(images)
    except Exception as error:
        raise HypergenError(
            f"{target!r} does not take these images, {list(images.shape)}: {type(error).__name__}: {error}. Pass a "
            "target that was made for them, or other data."
        ) from error
    logits = output if isinstance(output, torch.Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, torch.Tensor) or list(logits.shape) != expected:
        shape = list(logits.shape) if isinstance(logits, torch.Tensor) else type(output).__name__
        raise HypergenError(f"{target!r} returns {shape} for {expected[0]} images; expected logits {expected}.")


def _or_nan(value: int | None) -> float:
    return math.nan if value is None else value


def _plot_curve(curve: list[tuple[int, float, float]], path: Path, title: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    steps, validation, test = zip(*curve, strict=True)
    axes.plot(steps, validation, label="validation")
    axes.plot(steps, test, label="test")
    axes.set(xlabel="training steps", ylabel="accuracy", ylim=(0, 1), title=title)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)
