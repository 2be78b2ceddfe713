"""Train networks of usual sizes from their default initialisation and from a predicted body with a solved head.

``python -m experiments.unseen_images.training --parquet cifar10 TRAIN TEST img`` prints, for each network, the
test accuracy after 0, 1, 3 and 5 epochs on 2,000 images from both starts, rates chosen on validation images for each,
and the steps after which the predicted start is where the default is after three epochs. The last line is the figures
as JSON.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch import nn

import hypergen
from experiments.unseen_images.data import read_data
from experiments.unseen_images.networks import ColourNetwork
from hypergen.errors import ParameterError
from hypergen.evaluation.accuracy import accuracy
from hypergen.evaluation.image_data import ImageData
from hypergen.evaluation.results import Results, Row
from hypergen.evaluation.short_training import derived_seed, steps_per_epoch, training_steps

NETWORKS = ("torchvision/resnet18", "timm/convnext_atto", "timm/vit_tiny_patch16_224")
RATES = (3e-4, 1e-3, 3e-3)
EPOCHS = (0, 1, 3, 5)
_EVERY = 8  # Steps between two measurements.


class Curve(NamedTuple):
    """Accuracies while training.

    Attributes:
        steps: When.
        validation: On validation images.
        test: On test images.
    """

    steps: list[int]
    validation: list[float]
    test: list[float]


def main(arguments: Sequence[str] | None = None) -> Results:
    """Train, print a table and, last, its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--generator", default="images-ghn", help="name or path")
    add("--networks", nargs="*", default=list(NETWORKS))
    add("--parquet", nargs=4, metavar=("NAME", "TRAIN", "TEST", "COLUMN"), help="ten classes; digits without it")
    add("--images", type=int, default=2000, help="training images")
    add("--seeds", type=int, nargs="*", default=[0], help="of default initialisation and of the order of images")
    add("--output", help="folder of results.json and results.md")
    options = parser.parse_args(arguments)
    name, *files = options.parquet or ["digits"]
    images = read_data(name, files, 32, 3, options.images)
    held_out = tuple(part[:500] for part in images.validation), tuple(part[:1000] for part in images.test)
    rows = []
    for network in options.networks:
        found: dict[str, list[float]] = {}
        for seed in options.seeds:
            for figure, value in _compare(ColourNetwork(network), options.generator, images, held_out, seed).items():
                found.setdefault(figure, []).append(value)
        label = network.partition("/")[2]
        rows += [Row.from_values(f"{label}_{figure}", values) for figure, values in found.items()]
    results = Results("unseen_images_training", options.seeds[0], tuple(rows), {"data": name, "rates": list(RATES)})
    if options.output:
        results.write(options.output)
    results.print_table(Console(width=max(Console().width, 100)))
    print(results.to_json())
    return results


def _compare(network: ColourNetwork, generator: str, images: ImageData, held_out: Any, seed: int) -> dict[str, float]:
    batches = images.train_batches(100)
    chosen: dict[str, Curve] = {}
    figures: dict[str, float] = {}
    per_epoch = steps_per_epoch(len(images.train[1]))
    for start in ("default", "predicted"):
        curves = []
        for rate in RATES:
            torch.manual_seed(derived_seed(seed, network.name, "initialisation"))
            model = network.build()
            if start == "predicted":
                begun = time.perf_counter()
                hypergen.initialize(model, generator, calibrate=batches, fallback="never")
                figures["initialize_seconds"] = time.perf_counter() - begun
            begun = time.perf_counter()
            curves.append(_train(model, images, held_out, rate, seed, per_epoch * max(EPOCHS)))
            figures["epoch_seconds"] = (time.perf_counter() - begun) / max(EPOCHS)
        chosen[start] = max(curves, key=lambda curve: _at(curve, curve.validation, 3 * per_epoch))
        for epochs in EPOCHS:
            figures[f"{start}_{epochs}_epochs"] = _at(chosen[start], chosen[start].test, epochs * per_epoch)
    goal = figures["default_3_epochs"]
    reached = [
        step for step, value in zip(chosen["predicted"].steps, chosen["predicted"].test, strict=True) if value >= goal
    ]
    figures["steps_over_default"] = (reached[0] if reached else 2 * per_epoch * max(EPOCHS)) / (3 * per_epoch)
    return figures


def _train(model: nn.Module, images: ImageData, held_out: Any, rate: float, seed: int, steps: int) -> Curve:
    curve = Curve([], [], [])

    def measure(step: int) -> None:
        validation, test = held_out
        curve.steps.append(step)
        try:
            curve.validation.append(accuracy(model, *validation))
            curve.test.append(accuracy(model, *test))
        except ParameterError:
            curve.validation.append(0.0)
            curve.test.append(0.0)

    measure(0)
    for done in training_steps(model, *images.train, learning_rate=rate, seed=seed):
        if done % _EVERY == 0 or done == steps:
            measure(done)
        if done == steps:
            break
    return curve


def _at(curve: Curve, values: list[float], step: int) -> float:
    """The value at the last measurement until a step."""
    return [value for when, value in zip(curve.steps, values, strict=True) if when <= step][-1]


if __name__ == "__main__":
    main()
