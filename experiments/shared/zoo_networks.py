"""What all runs with a zoo of classifiers need: the zoo itself, and what its networks are for."""

from __future__ import annotations

from pathlib import Path

import torch

from hypergen.data import ImageDataModule
from hypergen.evaluation.zoo.problem import StackedClassification
from hypergen.generators.checkpoint_transformer.training import Trajectories, read_trajectories
from hypergen.graph import trace
from hypergen.symmetry.align.stacked import PermutationGroup
from hypergen.zoo import Zoo
from hypergen.zoo.build.build import BuildReport, build_zoo
from hypergen.zoo.build.plan import Buildable, ZooPlan

SPLITS = ("train", "validation", "test")


def built_zoo(folder: Path, plan: ZooPlan, data: ImageDataModule, data_name: str) -> tuple[Zoo, BuildReport]:
    """Build what is missing of a zoo, and open it."""
    splits = {split: data.tensors(split) for split in SPLITS}
    report = build_zoo(folder, plan, splits, data_name=data_name)
    return Zoo(folder), report


def trajectories(zoo: Zoo) -> Trajectories:
    """The runs of a zoo of one layout, with the loss on validation images."""
    names = zoo.layout.keys("generate")
    losses = torch.tensor(zoo.column("validation.loss"))
    return read_trajectories(zoo.stack(keys=names), losses, zoo.column("run"), zoo.column("step"))


def permutation_groups(architecture: Buildable, data: ImageDataModule) -> tuple[PermutationGroup, ...]:
    """The permutation groups of an architecture's hidden units."""
    image = torch.zeros(1, data.channels, data.image_size, data.image_size)
    return trace(architecture.build(), image).symmetry().simple_groups


def classification(
    architecture: Buildable, data: ImageDataModule, groups: tuple[PermutationGroup, ...]
) -> StackedClassification:
    """Measures and trains networks of an architecture on the data's own classes."""
    splits = {split: data.tensors(split) for split in SPLITS}
    return StackedClassification(architecture.build(), splits, symmetry=groups)
