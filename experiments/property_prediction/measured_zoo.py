"""Zoos of classifiers, with what was measured of every network: its accuracy, and that beyond it on seen images."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from experiments.shared.zoo_networks import built_zoo
from hypergen.data import ImageDataModule
from hypergen.errors import HypergenError
from hypergen.functional.stacked import seen_images
from hypergen.functional.stacked_module import StackedModule
from hypergen.graph import trace
from hypergen.metanets.property_prediction.training import MeasuredNetworks
from hypergen.zoo import Zoo
from hypergen.zoo.build.plan import Buildable, ZooPlan

PROPERTIES = ("accuracy", "gap")
_LEAST, _MOST = 0.02, 0.98  # Accuracies beyond them are told apart by a few images only.
_IMAGES_TOGETHER = 256


class MeasuredZoo(NamedTuple):
    """The networks of a zoo by architecture, in their splits.

    Attributes:
        train: Networks to learn from.
        validation: Networks to select on.
        test: Networks to measure on; of the same architectures, other runs.
        by_validation_images: What the validation images say of the test networks, ``[networks, properties]``.
        seconds: That training them took.
    """

    train: list[MeasuredNetworks]
    validation: list[MeasuredNetworks]
    test: list[MeasuredNetworks]
    by_validation_images: Tensor
    seconds: float


def measured_zoo(
    folder: Path, plan: ZooPlan, data: ImageDataModule, data_name: str, validation: float, test: float
) -> MeasuredZoo:
    """Build what is missing of a zoo, and measure the last checkpoint of every network.

    Args:
        folder: Folder of the zoo.
        plan: What to train.
        data: What networks are trained on.
        data_name: What the zoo calls it.
        validation: Share of each architecture's networks for validation.
        test: The same for test: its last ones.

    Raises:
        HypergenError: An architecture has too few networks for the splits.
        CheckpointError: The folder holds something else, or cannot be written.
    """
    opened, report = built_zoo(folder, plan, data, data_name)
    last = opened.last()
    splits: list[list[MeasuredNetworks]] = [[], [], []]
    by_validation_images = []
    for architecture in plan.architectures:
        networks, by_images = _measured(last, architecture, data)
        held_out, selecting = round(test * len(networks)), round(validation * len(networks))
        sizes = (len(networks) - selecting - held_out, selecting, held_out)
        if min(sizes) < 2:
            raise HypergenError(
                f"{architecture.name}: {len(networks)} networks are too few for splits of {sizes}. Train more."
            )
        for split, numbers in zip(splits, torch.arange(len(networks)).split(sizes), strict=True):
            split.append(networks[numbers])
        by_validation_images.append(by_images[-held_out:])
    train, validating, testing = splits
    return MeasuredZoo(train, validating, testing, torch.cat(by_validation_images), report.seconds)


def to_targets(accuracy: Tensor, gap: Tensor) -> Tensor:
    """``[networks, 2]``: log odds of the accuracy, which spread out where networks are good, and the gap."""
    return torch.stack([accuracy.clamp(_LEAST, _MOST).logit(), gap], 1)


def from_targets(targets: Tensor) -> Tensor:
    """``[networks, 2]``: the accuracy, and the gap."""
    return torch.stack([targets[:, 0].sigmoid(), targets[:, 1]], 1)


def _measured(zoo: Zoo, architecture: Buildable, data: ImageDataModule) -> tuple[MeasuredNetworks, Tensor]:
    """All networks of an architecture, and their properties by validation images."""
    own = zoo.select(layout=[key for key, layout in zoo.layouts.items() if layout.name == architecture.name])
    runs = own.column("run")
    own = own.take(sorted(range(len(own)), key=lambda position: runs[position]))
    module = StackedModule(architecture.build)
    images, labels = data.tensors("train")
    graph = trace(architecture.build(), images[:1]).parameter_graph()
    tensors = {name: value for name, value in own.stack().items() if value.is_floating_point()}
    hits = _hits(module, tensors, images, labels)
    seeds, shares = own.column("data_seed"), own.column("hyperparameters.data_fraction")
    seen = [seen_images(seed, share, len(images)) for seed, share in zip(seeds, shares, strict=True)]
    fitted = torch.stack([row[index].float().mean() for row, index in zip(hits, seen, strict=True)])
    tested, validated = (torch.tensor(own.column(f"{split}.accuracy")) for split in ("test", "validation"))
    networks = MeasuredNetworks(architecture.name, module, graph, tensors, to_targets(tested, fitted - tested))
    return networks, torch.stack([validated, fitted - validated], 1)


@torch.no_grad()
def _hits(module: StackedModule, tensors: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
    """Which images networks classify rightly: [networks, images]."""
    parameters = {name: tensors[name] for name in module.parameter_names}
    buffers = {name: value for name, value in tensors.items() if name not in parameters}
    parts = [
        module(parameters, buffers, some, training=False, shared=True).argmax(2)
        for some in images.split(_IMAGES_TOGETHER)
    ]
    return torch.cat(parts, 1) == labels
