"""``python train.py experiment=hyper_representation`` and its like: a generator of weight tokens, trained on a zoo."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from rich.console import Console

from experiments.shared.zoo_networks import built_zoo
from hypergen.data import ImageDataModule
from hypergen.evaluation.zoo.data import Cost
from hypergen.evaluation.zoo.folder import conditions_of, evaluate_on_zoo, training_part
from hypergen.generators.tokens.network_batches import LayoutNetworks
from hypergen.generators.zoo_generator import ZooGenerator
from hypergen.training.fit import fit
from hypergen.zoo.build.plan import ZooPlan


def train_weight_generator(
    *,
    name: str,
    output: str,
    seed: int,
    data: ImageDataModule,
    data_name: str,
    zoo: ZooPlan,
    generator: Callable[..., ZooGenerator],
    training: Callable[..., pl.LightningModule],
    trainer: Callable[..., pl.Trainer],
    logger: Logger | None = None,
    callbacks: Mapping[str, pl.Callback] | None = None,
    samples: int = 4,
    aims: Mapping[str, float] | None = None,
    evaluate: bool = True,
    ckpt_path: str | None = None,
) -> Path:
    """Build a zoo, train a generator on its training runs, and evaluate it on the tasks and runs held out.

    Args:
        name: Of the experiment.
        output: The folder that everything is written into.
        seed: Of this run.
        data: The images that the zoo's networks classify.
        data_name: What to call them.
        zoo: The plan of the zoo: networks of one architecture.
        generator: Makes the generator from the layouts.
        training: Makes the LightningModule from the generator and the networks.
        trainer: Makes the trainer.
        logger: Where figures of training go.
        callbacks: By name.
        samples: Networks per held-out condition.
        aims: By figure.
        evaluate: Whether to evaluate.
        ckpt_path: Go on from this checkpoint.

    Returns:
        The folder of the generator.

    Raises:
        HypergenError: The zoo holds nothing out, or a file cannot be read or written.
        TrainingInterrupted: A signal stopped training; a checkpoint was saved.
    """
    console = Console()
    opened, report = built_zoo(Path(output) / "zoo", zoo, data, data_name)
    part = training_part(opened)
    parameters = part.stack(keys=opened.layout.keys("generate"))
    made = generator(layouts=[{key: list(value.shape[1:]) for key, value in parameters.items()}])
    number = sum(parameter.numel() for parameter in made.parameters())
    kind = type(made).__name__
    console.print(f"{name}: training a {kind} of {number:,} parameters on {len(part)} networks, seed {seed}")
    networks = LayoutNetworks(zoo.architectures[0].build(), parameters, conditions_of(part, made.condition_kinds))
    begun = time.monotonic()
    fit(training(generator=made, networks=[networks]), {}, trainer, logger, callbacks, output, ckpt_path)
    seconds = time.monotonic() - begun
    console.print(f"Trained in {seconds:.0f} s")
    made.eval()
    folder = Path(output) / "generator"
    made.save_pretrained(folder)
    if evaluate:
        cost = Cost(seconds, number, report.seconds, report.networks)
        options: dict[str, Any] = {"samples": samples, "seed": seed, "cost": cost, "aims": aims, "name": name}
        with torch.no_grad():
            evaluation = evaluate_on_zoo(made, opened, data, **options)
        evaluation.write(output)
        made.save_pretrained(folder, results=evaluation.results.to_dict())
        evaluation.print_table()
        console.print(f"Results, tables and plots are in {output}", soft_wrap=True)
    console.print(f"The generator is in {folder}", soft_wrap=True)
    return folder
