"""Every training of a space of settings, made once: a search looks up what it would have had to train."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hypergen.data import ImageDataModule
from hypergen.data.in_memory import SPLITS
from hypergen.functional.stacked import Recipe, Splits, train_stacked
from hypergen.zoo.build.plan import Buildable


@dataclass(frozen=True)
class SearchTable:
    """What came of each setting.

    Attributes:
        space: How many levels each hyperparameter has; settings are their products in this order. All are in order
            but the first, the architecture.
        validation: Accuracies [settings, 1 + blocks], before training and after each block; chance once diverged.
        test: The same for the test examples.
        architectures: Architectures to choose from.
        weights: For each, a tensor [its settings, 1 + blocks, …] per name.
    """

    space: Mapping[str, int]
    validation: Tensor
    test: Tensor
    architectures: Sequence[Buildable]
    weights: Sequence[Mapping[str, Tensor]]

    @property
    def blocks(self) -> int:
        """Blocks of a complete training."""
        return self.validation.shape[1] - 1

    def row(self, levels: Mapping[str, int]) -> int:
        """The number of a setting."""
        number = 0
        for name, size in self.space.items():
            number = number * size + levels[name]
        return number

    def network(self, row: int, block: int) -> nn.Module:
        """What a setting's training has made after so many blocks."""
        architecture, own = divmod(row, len(self.validation) // len(self.architectures))
        network = self.architectures[architecture].build()
        network.load_state_dict({name: value[own, block] for name, value in self.weights[architecture].items()})
        return network


@dataclass(frozen=True)
class SearchProblem:
    """Few images, some with wrong labels: training well takes the right settings.

    Args:
        data: The images.
        architectures: Architectures to choose from.
        learning_rate: Learning rates to choose from.
        weight_decay: Weight decays to choose from.
        init_scale: Factors on initial weights to choose from.
        train_images: That networks are trained on.
        validation_images: That a search sees accuracies on; the others are for the test.
        label_noise: Share of training images that have a random label.
        blocks: Number of blocks of a complete training.
        block_steps: Updates in a block.
    """

    data: ImageDataModule
    architectures: Sequence[Buildable]
    learning_rate: Sequence[float]
    weight_decay: Sequence[float]
    init_scale: Sequence[float]
    train_images: int = 100
    validation_images: int = 500
    label_noise: float = 0.2
    blocks: int = 10
    block_steps: int = 20

    def table(self, seed: int) -> SearchTable:
        """Train all settings on the images that a seed draws."""
        splits = self._draw(seed)
        grid = list(itertools.product(self.learning_rate, self.weight_decay, self.init_scale))
        recipes = [
            Recipe(
                run=str(number),
                steps=self.blocks * self.block_steps,
                init_seed=seed,
                data_seed=seed,
                learning_rate=learning_rate,
                weight_decay=weight_decay,
                init_scale=init_scale,
            )
            for number, (learning_rate, weight_decay, init_scale) in enumerate(grid)
        ]
        trained = [self._train(architecture, recipes, splits) for architecture in self.architectures]
        levels = (self.learning_rate, self.weight_decay, self.init_scale)
        return SearchTable(
            {
                "architecture": len(self.architectures),
                **dict(zip(("learning_rate", "weight_decay", "init_scale"), map(len, levels), strict=True)),
            },
            torch.cat([accuracy["validation"] for accuracy, _ in trained]),
            torch.cat([accuracy["test"] for accuracy, _ in trained]),
            self.architectures,
            [weights for _, weights in trained],
        )

    def _draw(self, seed: int) -> Splits:
        tensors = [self.data.tensors(split) for split in SPLITS]
        images, labels = (torch.cat(parts) for parts in zip(*tensors, strict=True))
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(images), generator=generator)
        rest = len(order) - self.train_images - self.validation_images
        train, validation, test = order.split([self.train_images, self.validation_images, rest])
        wrong = torch.rand(len(train), generator=generator) < self.label_noise
        drawn = torch.randint(self.data.num_classes, (len(train),), generator=generator)
        return {
            "train": (images[train], torch.where(wrong, drawn, labels[train])),
            "validation": (images[validation], labels[validation]),
            "test": (images[test], labels[test]),
        }

    def _train(
        self, architecture: Buildable, recipes: Sequence[Recipe], splits: Splits
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Accuracies [networks, 1 + blocks] by split, and weights [networks, 1 + blocks, …] by name."""
        shape = len(recipes), 1 + self.blocks
        accuracy = {split: torch.full(shape, 1 / self.data.num_classes) for split in ("validation", "test")}
        weights: dict[str, Tensor] = {}
        save_steps = range(0, self.blocks * self.block_steps + 1, self.block_steps)
        for snapshot in train_stacked(architecture.build, recipes, splits, save_steps=save_steps):
            rows, block = list(snapshot.networks), snapshot.step // self.block_steps
            for split, values in accuracy.items():
                values[rows, block] = snapshot.metrics[split]["accuracy"]
            for name, value in snapshot.state.items():
                weights.setdefault(name, value.new_zeros(*shape, *value.shape[1:]))[rows, block] = value
        return accuracy, weights
