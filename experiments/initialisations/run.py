"""Compare what training starts from: predicted parameters, diversified ones, default and mimetic initialisation.

``python -m experiments.initialisations.run`` prints a table on scikit-learn's digits, and as its last line the same
figures as JSON.
``--cifar10 FOLDER`` (train.parquet and test.parquet of the Hugging Face Hub) asks the same on images that the generator
has never seen.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from experiments.initialisations.protocol import STARTS, StartsProtocol, compare_starts
from hypergen.architectures import Architecture, load_split
from hypergen.data import DigitsDataModule, ImageDataModule, ParquetImageDataModule
from hypergen.evaluation.image_data import ImageData
from hypergen.evaluation.results import Results

_FAMILIES = ("cnn", "resnet", "vit", "mixer")


def main(arguments: Sequence[str] | None = None) -> Results:
    """Run the comparison, print its table and, last, its JSON."""
    options = _parser().parse_args(arguments)
    data: ImageDataModule = DigitsDataModule()
    if options.cifar10:
        train, test = (f"{options.cifar10}/{split}.parquet" for split in ("train", "test"))
        data = ParquetImageDataModule(train, test, max_train=6000, max_test=1000, validation_size=1000)
    architectures = networks(data, options.networks)
    protocol = StartsProtocol(steps=options.steps, seeds=options.seeds, starts=tuple(options.starts))
    results = compare_starts(
        ImageData.read(data),
        architectures,
        options.generator,
        protocol,
        workers=options.workers,
        name=f"starts_{type(data).__name__}",
    )
    if options.output:
        results.write(options.output)
    results.print_table(Console(width=max(Console().width, 100)))
    print(results.to_json())
    return results


def networks(data: ImageDataModule, count: int) -> list[Architecture]:
    """The first ``count`` test architectures of each of four families, at the size of the images."""
    size = {"image_size": data.image_size, "channels": data.channels, "num_classes": data.num_classes}
    chosen = []
    for family in _FAMILIES:
        fitting = [architecture for architecture in load_split("test") if architecture.family == family]
        for architecture in fitting[:count]:
            config = {**architecture.config, **size}
            if "patch_size" in config:  # as many tokens as on the digits
                config["patch_size"] = int(config["patch_size"]) * data.image_size // 8
            chosen.append(Architecture(family, config))
    return chosen


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m experiments.initialisations.run", description=__doc__)
    add = parser.add_argument
    add("--generator", default="digits-ghn", help="name or path")
    add("--networks", type=int, default=3, help="networks of each family")
    add("--steps", type=int, default=150, help="of training")
    add("--seeds", type=int, default=5, help="trainings per network and start")
    add("--starts", nargs="+", choices=STARTS, default=STARTS, metavar="START", help=f"of {', '.join(STARTS)}")
    add("--cifar10", default="", metavar="FOLDER", help="CIFAR-10 instead of the digits")
    add("--workers", type=int, default=2, help="processes; 0 for none")
    add("--output", type=Path, help="a folder for results.json and results.md")
    return parser


if __name__ == "__main__":
    main()
