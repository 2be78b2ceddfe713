"""``python train.py experiment=diffusion_losses``: networks of independent initialisations, for a loss to reach."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from rich.console import Console

from experiments.shared.processes import cpu_seconds, seconds_since_start
from experiments.shared.task_zoo import Learner, TaskZoo
from experiments.shared.zoo_networks import SPLITS, permutation_groups
from hypergen.data import ImageDataModule
from hypergen.evaluation.results import Results, Row
from hypergen.evaluation.zoo.data import Checkpoints, Cost, Stacked
from hypergen.evaluation.zoo.protocol import Prompts, ZooEvaluation, evaluate_zoo_generator
from hypergen.symmetry.align.stacked import align
from hypergen.zoo import Zoo
from hypergen.zoo.build.build import build_zoo
from hypergen.zoo.build.plan import ZooPlan


def train_diffusion_losses(
    *,
    name: str,
    output: str,
    seed: int,
    data: ImageDataModule,
    zoo: Callable[..., ZooPlan],
    trainer: Callable[..., pl.Trainer],
    learner: Learner,
    widths: Sequence[int] = (16,),
    prompts: int = 200,
    aims: Mapping[str, float] | None = None,
) -> Results:
    """Build a zoo of independent runs, align it, train latent diffusion for losses, and prompt it with them.

    The networks of all steps train the generator, with the logarithm of their loss on validation images. Held out are
    runs; figures of accuracy are about their last networks, and noise is added to training networks of the same loss.

    Args:
        name: Name of the experiment.
        output: The folder that everything is written into.
        seed: Random seed of networks, training and sampling.
        data: The images that networks classify.
        zoo: Makes the plan of the zoo from its architectures and seed.
        trainer: Makes trainers.
        learner: The generator.
        widths: Hidden layers of the networks.
        prompts: Losses to ask for, over the range of the zoo.
        aims: By figure.

    Returns:
        The figures, which are also written to ``output`` and printed.
    """
    console = Console()
    networks = TaskZoo(output, seed, data, zoo, trainer, "metric")
    architecture = networks.architecture(widths)
    splits = {split: data.tensors(split) for split in SPLITS}
    begun = time.monotonic()
    plan = zoo(architectures=[architecture], seed=seed)
    build_zoo(Path(output) / "zoo", plan, splits, data_name=type(data).__name__, progress=False)
    zoo_seconds = time.monotonic() - begun
    opened = Zoo(Path(output) / "zoo")
    everything, last = opened.split("train", by="run"), opened.split("test", by="run").last()
    groups = permutation_groups(architecture, data)
    reference = {key: value[:1] for key, value in everything.last().stack().items()}
    # Networks that are compared with each other, and what the generator learns, in one order of their hidden units.
    train, held_out = (_checkpoints(each, align(each.stack(), reference, groups)) for each in (everything, last))
    console.print(f"{name}: seed {seed}, {len(train)} networks built in {zoo_seconds:.0f} s")
    generator, seconds = networks.train(learner, [(widths, train)])
    generator.save_pretrained(Path(output) / "generator")
    low, high = (float(train.conditions.quantile(share)) for share in (0.02, 0.98))
    wanted = torch.linspace(low, high, prompts)
    sampler = networks.sampler(generator, widths)

    evaluation = evaluate_zoo_generator(
        sampler,
        networks.problem(widths),
        train,
        {"run": held_out},
        init=opened.split("test", by="run").select(step=0).stack(),
        samples=2,
        seed=seed,
        cost=Cost(seconds, sum(value.numel() for value in generator.parameters()), zoo_seconds, len(train)),
        prompts=Prompts(wanted[:, None], wanted.exp(), "loss"),
        name=name,
    )
    rows = [
        *evaluation.results.rows,
        Row("run_seconds", seconds_since_start(), better="lower"),
        Row("run_cpu_seconds", cpu_seconds(), better="lower"),
    ]
    rows = [Row(row.figure, row.value, row.std, row.n, (aims or {}).get(row.figure), row.better) for row in rows]
    results = Results(name, seed, tuple(sorted(rows, key=lambda row: row.aim is None)), evaluation.results.details)
    full = ZooEvaluation(results, evaluation.methods, evaluation.noise, evaluation.finetuning, evaluation.prompts)
    full.write(output)
    full.print_table(console)
    return results


def _checkpoints(zoo: Zoo, parameters: Stacked) -> Checkpoints:
    """Networks with the logarithm of their loss as condition; all are for one task."""
    losses = torch.tensor(zoo.column("validation.loss"), dtype=torch.float32).clamp_min(1e-6).log()
    return Checkpoints(parameters, losses[:, None], torch.zeros(len(losses), dtype=torch.int64))
