"""``python train.py experiment=checkpoint_transformer``: a generator that takes networks from one loss to another."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from rich.console import Console
from torch import Tensor

from experiments.shared.zoo_networks import built_zoo, classification, permutation_groups, trajectories
from hypergen.data import ImageDataModule
from hypergen.evaluation.zoo.data import Checkpoints, Cost, Stacked, cycle
from hypergen.evaluation.zoo.problem import StackedClassification
from hypergen.evaluation.zoo.protocol import Prompts, ZooEvaluation, evaluate_zoo_generator, prompt_rows
from hypergen.generators.checkpoint_transformer.model import CheckpointTransformer
from hypergen.generators.checkpoint_transformer.training import CheckpointTransformerTraining, Trajectories
from hypergen.training.fit import fit
from hypergen.zoo.build.plan import ZooPlan


def train_checkpoint_transformer(
    *,
    name: str,
    output: str,
    seed: int,
    data: ImageDataModule,
    data_name: str,
    zoo: ZooPlan,
    generator: Callable[..., CheckpointTransformer],
    training: Callable[..., CheckpointTransformerTraining],
    trainer: Callable[..., pl.Trainer],
    logger: Logger | None = None,
    callbacks: Mapping[str, pl.Callback] | None = None,
    prompts: int = 160,
    aims: Mapping[str, float] | None = None,
    evaluate: bool = True,
    ckpt_path: str | None = None,
) -> Path:
    """Build a zoo of runs, train a checkpoint transformer on it, and prompt it on runs that it has not seen.

    Args:
        name: Name of the experiment.
        output: The folder that everything is written into.
        seed: Random seed of this run.
        data: The images that the zoo's networks classify.
        data_name: What to call them.
        zoo: The plan of the zoo: networks of one architecture.
        generator: Makes the generator from the layouts.
        training: Makes the LightningModule from the generator and the zoo.
        trainer: Makes the trainer.
        logger: Where figures of training go.
        callbacks: By name.
        prompts: Losses to prompt for, over the unseen runs.
        aims: By figure.
        evaluate: Whether to evaluate.
        ckpt_path: Go on from this checkpoint.

    Returns:
        The folder of the generator.

    Raises:
        HypergenError: The zoo has runs of different lengths, or a file cannot be read or written.
        TrainingInterrupted: A signal stopped training; a checkpoint was saved.
    """
    console = Console()
    opened, report = built_zoo(Path(output) / "zoo", zoo, data, data_name)
    seen, unseen = (trajectories(opened.split(split, by="run")) for split in ("train", "test"))
    architecture = zoo.architectures[0]
    groups = permutation_groups(architecture, data)
    shapes = {key: list(value.shape[2:]) for key, value in seen.parameters.items()}
    made = generator(layouts=[{"shapes": shapes, "groups": [[list(place) for place in group] for group in groups]}])
    number = sum(parameter.numel() for parameter in made.parameters())
    console.print(f"{name}: training a CheckpointTransformer of {number:,} parameters on {len(seen)} runs, seed {seed}")
    begun = time.monotonic()
    fit(training(generator=made, zoo=seen), {}, trainer, logger, callbacks, output, ckpt_path)
    seconds = time.monotonic() - begun
    console.print(f"Trained in {seconds:.0f} s")
    made.eval()
    folder = Path(output) / "generator"
    made.save_pretrained(folder)
    if evaluate:
        problem = classification(architecture, data, groups)
        cost = Cost(seconds, number, report.seconds, report.networks)
        evaluation = evaluate_checkpoint_transformer(
            made, problem, seen, unseen, prompts=prompts, seed=seed, cost=cost, aims=aims, name=name
        )
        evaluation.write(output)
        made.save_pretrained(folder, results=evaluation.results.to_dict())
        evaluation.print_table()
        console.print(f"Results, tables and plots are in {output}", soft_wrap=True)
    console.print(f"The generator is in {folder}", soft_wrap=True)
    return folder


def evaluate_checkpoint_transformer(
    generator: CheckpointTransformer,
    problem: StackedClassification,
    seen: Trajectories,
    unseen: Trajectories,
    *,
    prompts: int = 160,
    seed: int = 0,
    cost: Cost | None = None,
    aims: Mapping[str, float] | None = None,
    name: str = "checkpoint_transformer",
) -> ZooEvaluation:
    """Prompt on unseen runs, from their networks before training.

    Losses are prompted evenly over the zoo's range: from the mean loss of its last checkpoints to that of its first.
    What is prompted are losses on validation images, as the generator was trained; what is obtained is measured on
    test images.

    Args:
        generator: Trained on ``seen``.
        problem: What the networks are for.
        seen: Runs that it was trained on.
        unseen: Runs that it was not trained on.
        prompts: How many losses.
        seed: Random seed of sampling.
        cost: Cost of the generator and its zoo.
        aims: By figure.
        name: Name of the results.
    """
    low, high = float(seen.metrics[:, -1].mean()), float(seen.metrics[:, 0].mean())
    wanted = torch.linspace(low, high, prompts)[torch.randperm(prompts, generator=torch.Generator().manual_seed(seed))]
    starts, start_losses = _first(unseen, prompts)

    def sampler(conditions: Tensor, samples: int, seed: int) -> Stacked:
        losses = conditions[:, 0].repeat_interleave(samples)
        origin, now = _first(unseen, len(losses))
        return _in_parts(generator, origin, now, losses, torch.Generator().manual_seed(seed))

    evaluation = evaluate_zoo_generator(
        sampler,
        problem,
        _checkpoints(seen, range(0, seen.metrics.shape[1], 3)),
        {"run": _checkpoints(unseen, [-1])},
        init={key: value[:, 0] for key, value in unseen.parameters.items()},
        samples=2,
        seed=seed,
        cost=cost,
        prompts=Prompts(wanted[:, None], wanted),
        name=name,
        details={"prompted_range": [low, high], "prompted_metric": "validation loss; obtained: test loss"},
    )
    none = torch.zeros(prompts, 1)
    measured = "validation"
    again = generator.refine(
        starts,
        start_losses,
        wanted,
        lambda networks: problem.losses(networks, torch.zeros(len(next(iter(networks.values()))), 1), measured),
        random=torch.Generator().manual_seed(seed),
    )
    rows = [
        *prompt_rows("recursive", wanted, problem.losses(again, none, "test")),
        *prompt_rows("identity", wanted, problem.losses(starts, none, "test")),
        *prompt_rows("own_training", wanted, _nearest_on_own_run(problem, unseen, wanted)),
    ]
    return evaluation.with_rows(rows, aims or {})


def _checkpoints(runs: Trajectories, steps: Any) -> Checkpoints:
    """Some checkpoints of all runs, conditioned on their losses; a task is a step."""
    chosen = torch.tensor(sorted({step % runs.metrics.shape[1] for step in [*steps, -1]}))
    count = len(runs)
    parameters = {key: value[:, chosen].flatten(0, 1) for key, value in runs.parameters.items()}
    return Checkpoints(parameters, runs.metrics[:, chosen].reshape(-1, 1), chosen.repeat(count))


def _first(runs: Trajectories, number: int) -> tuple[Stacked, Tensor]:
    """Networks before training and their losses, of the runs in turn."""
    networks = cycle({key: value[:, 0] for key, value in runs.parameters.items()}, number)
    return networks, runs.metrics[torch.arange(number) % len(runs), 0]


@torch.no_grad()
def _in_parts(
    generator: CheckpointTransformer, starts: Stacked, now: Tensor, wanted: Tensor, random: torch.Generator
) -> Stacked:
    parts = []
    for index in torch.arange(len(now)).split(256):
        start = {key: value[index] for key, value in starts.items()}
        parts.append(generator.step(start, now[index], wanted[index], random))
    return {key: torch.cat([part[key] for part in parts]) for key in starts}


def _nearest_on_own_run(problem: StackedClassification, runs: Trajectories, wanted: Tensor) -> Tensor:
    """The test loss of that checkpoint of the unseen run itself whose loss is nearest: what training would obtain."""
    own = torch.arange(len(wanted)) % len(runs)
    step = (runs.metrics[own] - wanted[:, None]).abs().argmin(1)
    return problem.losses(runs.at(own, step), torch.zeros(len(wanted), 1), "test")
