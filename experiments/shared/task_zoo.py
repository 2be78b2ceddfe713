"""Zoos of networks for many tasks, and generators trained on them: what the parts of an experiment share."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from experiments.shared.zoo_networks import SPLITS, permutation_groups
from hypergen.architectures import Architecture
from hypergen.data import ImageDataModule
from hypergen.evaluation.zoo.baselines import Sampler
from hypergen.evaluation.zoo.data import Checkpoints, Stacked
from hypergen.evaluation.zoo.problem import StackedClassification
from hypergen.generators.latent_diffusion.model import LatentDiffusion
from hypergen.generators.tokens.network_batches import LayoutNetworks, NetworkBatches, TrainingZoo
from hypergen.training.fit import fit
from hypergen.zoo import Zoo
from hypergen.zoo.build.build import build_zoo
from hypergen.zoo.build.plan import Task, ZooPlan, binary_relabellings


@dataclass(frozen=True)
class TaskSplits:
    """How many tasks there are of each kind, all different.

    Args:
        train: Tasks of the zoo.
        sparse: As many of them make the sparse zoo.
        by_architecture: As many of them, with one network of each layout, make the zoo of several layouts.
        validation: Tasks that settings are selected on; no network is trained for them.
        held_out: Tasks that figures are about.
        data_orders: Networks of each task, which see the data in different orders.
        seed: Random seed of the draw of tasks.
    """

    train: int = 256
    sparse: int = 64
    by_architecture: int = 128
    validation: int = 40
    held_out: int = 200
    data_orders: int = 3
    seed: int = 0

    def draw(self, classes: int) -> tuple[list[Task], list[Task], list[Task]]:
        """Tasks for training, validation and test."""
        number = self.train + self.held_out + self.validation
        tasks = binary_relabellings(classes, number, held_out=self.held_out + self.validation, seed=self.seed)
        rest = tasks[self.train :]
        return tasks[: self.train], rest[self.held_out :], rest[: self.held_out]


@dataclass(frozen=True)
class Learner:
    """A generator and how it is trained.

    Args:
        generator: Makes it.
        autoencoder_training: Makes the LightningModule of the first stage from generator, zoo and inputs.
        training: Makes that of the second stage from the same.
        networks_per_step: Networks in a batch.
        inputs_per_step: Images in a batch on which networks are compared.
        other_layouts: Share of batches in which latents are decoded into other layouts than their networks'.
    """

    generator: Callable[..., LatentDiffusion]
    autoencoder_training: Callable[..., Any]
    training: Callable[..., Any]
    networks_per_step: int = 128
    inputs_per_step: int = 64
    other_layouts: float = 0.0


@dataclass(frozen=True)
class TaskZoo:
    """Perceptrons for tasks on images: binary relabellings, with one logit, or the images' own classes.

    Args:
        output: The folder of the experiment.
        seed: Random seed of networks and training.
        data: The images.
        plan: Makes the plan of a zoo from architectures, tasks and seeds.
        trainer: Makes a trainer.
        condition: The kind of condition: ``"code"``, or ``"metric"`` for the images' own classes.
    """

    output: str
    seed: int
    data: ImageDataModule
    plan: Callable[..., ZooPlan]
    trainer: Callable[..., pl.Trainer]
    condition: str = "code"

    def architecture(self, widths: Sequence[int]) -> Architecture:
        """A perceptron with these hidden layers."""
        sizes: dict[str, Any] = {"image_size": self.data.image_size, "channels": self.data.channels}
        outputs = 1 if self.condition == "code" else self.data.num_classes
        return Architecture("mlp", {**sizes, "num_classes": outputs, "widths": list(widths), "norm": "none"})

    def problem(self, widths: Sequence[int]) -> StackedClassification:
        """What networks with these hidden layers are for."""
        architecture = self.architecture(widths)
        splits = {split: self.data.tensors(split) for split in SPLITS}
        groups = permutation_groups(architecture, self.data)
        relabel = (lambda conditions: conditions) if self.condition == "code" else None
        return StackedClassification(architecture.build(), splits, relabel, groups)

    def build(self, folder: str, layouts: Sequence[Sequence[int]], tasks: Sequence[Task], orders: int) -> float:
        """Build a zoo with ``orders`` networks of each layout and task; the seconds that it took."""
        plan = self.plan(
            architectures=[self.architecture(widths) for widths in layouts],
            networks=orders * len(tasks),
            tasks=tasks,
            data_orders=orders,
            seed=self.seed,
            shared_init=True,
        )
        splits = {split: self.data.tensors(split) for split in SPLITS}
        begun = time.monotonic()
        build_zoo(Path(self.output) / folder, plan, splits, data_name=type(self.data).__name__, progress=False)
        return time.monotonic() - begun

    def read(self, folder: str, widths: Sequence[int], tasks: Sequence[Task]) -> Checkpoints:
        """The finished networks of a layout, of some tasks."""
        names = [task.name for task in tasks]
        zoo = Zoo(Path(self.output) / folder).last().select(pc.field("task").isin(names))
        shapes = {name: tuple(value.shape) for name, value in self.architecture(widths).build().named_parameters()}
        layout = next(
            key
            for key, each in zoo.layouts.items()
            if {entry.key: tuple(entry.shape) for entry in each.entries} == shapes
        )
        chosen = zoo.select(layout=layout)
        numbers = torch.tensor([names.index(name) for name in chosen.column("task")])
        return Checkpoints(chosen.stack(), codes(tasks)[numbers], numbers)

    def train(
        self, learner: Learner, networks: Sequence[tuple[Sequence[int], Checkpoints]]
    ) -> tuple[LatentDiffusion, float]:
        """Train a generator on networks of some layouts; the generator, and the seconds that it took."""
        begun = time.monotonic()
        torch.manual_seed(self.seed)
        parts = [
            LayoutNetworks(
                self.architecture(widths).build(),
                each.parameters,
                [{self.condition: row} for row in each.conditions.tolist()],
            )
            for widths, each in networks
        ]
        layouts = [{name: list(value.shape[1:]) for name, value in each.parameters.items()} for _, each in networks]
        generator = learner.generator(layouts=layouts)
        images = self.data.tensors("train")[0]
        zoo = TrainingZoo.read(generator, parts, example_inputs=images[:1])
        train_stages(learner, generator, zoo, images, self.trainer, self.output, self.seed)
        return generator, time.monotonic() - begun

    def sampler(self, generator: LatentDiffusion, widths: Sequence[int]) -> Sampler:
        """A generator of networks with these hidden layers, as the evaluation calls it."""
        model: nn.Module = self.architecture(widths).build()
        one_image = self.data.tensors("train")[0][:1]

        def sample(conditions: Tensor, samples: int, seed: int) -> Stacked:
            wanted = [{self.condition: row} for row in conditions.repeat_interleave(samples, 0).tolist()]
            with torch.no_grad():
                return generator.sample(model, wanted, seed=seed, example_inputs=one_image)

        return sample


def train_stages(
    learner: Learner,
    generator: LatentDiffusion,
    zoo: TrainingZoo,
    inputs: Tensor,
    trainer: Callable[..., pl.Trainer],
    output: str,
    seed: int,
) -> None:
    """Train a generator in its two stages, on a zoo that it has measured."""
    for stage, make in enumerate((learner.autoencoder_training, learner.training)):
        module = make(generator=generator, zoo=zoo, inputs=inputs)
        batches = NetworkBatches(
            zoo,
            len(inputs),
            learner.networks_per_step,
            learner.inputs_per_step,
            learner.other_layouts,
            2 * seed + stage,
        )
        loaders = {"train_dataloaders": DataLoader(batches, batch_size=None)}
        fit(
            module,
            loaders,
            partial(trainer, max_steps=module.steps, enable_progress_bar=False),
            None,
            None,
            output,
            None,
        )
    generator.eval()


def codes(tasks: Sequence[Task]) -> Tensor:
    """``[tasks, classes]``, a bit per class."""
    return torch.tensor([task.labels for task in tasks], dtype=torch.float32)
