"""Judge the bodies that a generator predicts on data sets, by heads that are solved on it.

``python -m experiments.unseen_images.run --generator images-ghn`` predicts the networks of
``datasets/held_out_libraries.json`` for grey images of 8 pixels and compares each with its default initialisation:
statistics of batch norms and the last layer are taken from the labelled images, nothing is trained. ``--colour`` takes
networks of usual sizes and colour images of 32 pixels. ``--parquet NAME TRAIN TEST COLUMN`` adds data of one's own.
The last line is the figures as JSON.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from experiments.held_out_libraries.networks import installed_versions, load_list
from experiments.unseen_images.data import DRAWN, few_shot_tasks, read_data
from experiments.unseen_images.networks import COLOUR_32, ColourNetwork
from hypergen.errors import HypergenError, ParameterError
from hypergen.evaluation.accuracy import accuracy
from hypergen.evaluation.image_data import ImageData
from hypergen.evaluation.parallel import map_tasks, pack, unpack
from hypergen.evaluation.results import Results, Row
from hypergen.evaluation.short_training import derived_seed
from hypergen.functional import apply_parameters, calibrate_batch_norm, fit_ridge_head
from hypergen.generators.factory import load_generator

_CLASSES = 10  # Logits of every network; few-shot tasks use the first of them.
_WORST = 2.0  # Of a body that cannot be used: above any squared error.


@dataclass(frozen=True)
class Task:
    """A network and what was predicted for it.

    Args:
        network: The network.
        parameters: The predictions; empty where there are none.
        few_shot: How many tasks of five classes with eight labelled images each.
        seed: Random seed of default initialisation.
    """

    network: Any
    parameters: dict[str, np.ndarray]
    few_shot: int
    seed: int


@dataclass(frozen=True)
class Body:
    """Test accuracies of one start of one network, and errors on samples left out, by which a start is chosen."""

    full: float | None
    full_error: float
    few: tuple[float, ...]
    few_errors: tuple[float, ...]


@dataclass(frozen=True)
class Measured:
    """One network on one data set.

    Args:
        name: The network.
        kind: Its kind.
        default: Its own initialisation.
        predicted: The predicted body.
        random_features: Full training set: rectified random projections of the pixels, as many as the head reads.
    """

    name: str
    kind: str
    default: Body
    predicted: Body
    random_features: float | None


def main(arguments: Sequence[str] | None = None) -> Results:
    """Run the evaluation, print its table and, last, its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--generator", default="images-ghn", help="name or path")
    add("--data", nargs="*", default=["digits", *DRAWN], help=f"some of digits, {', '.join(DRAWN)}")
    add("--parquet", nargs=4, action="append", default=[], metavar=("NAME", "TRAIN", "TEST", "COLUMN"))
    add("--colour", action="store_true", help="networks of usual sizes on colour images of 32 pixels")
    add("--tasks", type=int, default=10, help="few-shot tasks of each network and data set")
    add("--only", default="", help="only networks whose name or source contains this")
    add("--every", type=int, default=1, help="every so many-th network")
    add("--workers", type=int, default=0, help="processes with one thread each")
    add("--seed", type=int, default=0, help="of default initialisation")
    add("--output", help="folder of results.json and results.md")
    options = parser.parse_args(arguments)
    every: list[Any] = [ColourNetwork(name) for name in COLOUR_32] if options.colour else load_list()
    networks = [one for one in every if options.only in one.name or options.only in one.source][:: options.every]
    size, channels = (32, 3) if options.colour else (8, 1)
    started = time.perf_counter()
    generator = load_generator(options.generator)
    tasks = [
        _predicted(generator, network, (1, channels, size, size), options.tasks, options.seed) for network in networks
    ]
    files = {name: tuple(rest) for name, *rest in options.parquet}
    rows, details = [], {}
    for name in [*options.data, *files]:
        images = read_data(name, files.get(name, ()), size, channels)
        found = map_tasks(measure, images, tasks, workers=options.workers)
        shown = track(found, name, len(tasks), console=Console(stderr=True), transient=True)
        measured = [one for _, one in sorted(shown, key=lambda pair: pair[0]) if one is not None]
        rows += _rows(name, measured)
        details[name] = [asdict(one) for one in measured]
    seconds = time.perf_counter() - started
    results = Results(
        "unseen_images",
        options.seed,
        tuple(rows),
        {
            "versions": installed_versions(networks),
            "seconds": round(seconds),
            "networks": details,
        },
    )
    if options.output:
        results.write(options.output)
    results.print_table(Console(width=max(Console().width, 100)))
    print(results.to_json())
    return results


def measure(images: ImageData, task: Task) -> Measured | None:
    """Measure both starts of one network on one data set; None where no linear layer gives its logits."""

    def make(predicted: bool) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(task.seed, task.network.name, "initialisation"))
            model = task.network.build()
        if predicted:
            apply_parameters(model, unpack(task.parameters), partial=True)
        return model

    episodes = few_shot_tasks(images, task.few_shot)
    try:
        default = _body(make, False, images, episodes)
        predicted = _body(make, True, images, episodes) if task.parameters else Body(0.0, _WORST, (0.0,), (_WORST,))
        width = _head_width(make(False), images)
    except ParameterError:
        return None
    return Measured(
        task.network.name, task.network.kind, default, predicted, width and _random_features(images, width, task.seed)
    )


def _body(make: Any, predicted: bool, images: ImageData, episodes: Sequence[tuple[Tensor, ...]]) -> Body:
    full, full_error = None, _WORST
    if images.num_classes <= _CLASSES:
        full, full_error = _solved(make(predicted), images.train_batches(), *images.test)
    few = [_solved(make(predicted), [(support, labels)], *query) for support, labels, *query in episodes]
    return Body(full, full_error, tuple(a for a, _ in few), tuple(e for _, e in few))


def _solved(model: nn.Module, batches: list[tuple[Tensor, Tensor]], queries: Tensor, labels: Tensor) -> tuple:
    """Accuracy on queries, and the error on samples left out; 0 and the worst where values blow up."""
    try:
        calibrate_batch_norm(model, [images for images, _ in batches])
        head = fit_ridge_head(model, batches, num_classes=_CLASSES)
        return accuracy(model, queries, labels), head.left_out_error
    except ParameterError as error:
        if "finite" in str(error):
            return 0.0, _WORST
        raise


def _head_width(model: nn.Module, images: ImageData) -> int | None:
    try:
        head = fit_ridge_head(model, [(images.train[0][:64], images.train[1][:64] % _CLASSES)], num_classes=_CLASSES)
    except ParameterError as error:
        if "finite" in str(error):
            return None
        raise
    return model.get_submodule(head.name).weight[0].numel() if images.num_classes <= _CLASSES else None


def _random_features(images: ImageData, width: int, seed: int) -> float:
    pixels = images.train[0][0].numel()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(pixels, width), nn.ReLU(), nn.Linear(width, _CLASSES))
    return _solved(model, images.train_batches(), *images.test)[0]


def _predicted(generator: Any, network: Any, shape: tuple[int, ...], few_shot: int, seed: int) -> Task:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        try:
            parameters = generator.generate(network.build().eval(), example_inputs=torch.zeros(shape))
        except HypergenError:
            return Task(network, {}, few_shot, seed)
    return Task(network, pack(parameters), few_shot, seed)


def _rows(data: str, measured: Sequence[Measured]) -> list[Row]:
    """Both starts, what is chosen by the error on samples left out, and by how much each beats the default."""
    rows = []
    for part in ("full", "few"):
        starts: dict[str, list[float]] = {"default": [], "predicted": [], "chosen": []}
        for one in measured:
            default, predicted, chosen = _scores(one, part)
            if default is not None:
                for name, value in zip(starts, (default, predicted, chosen), strict=True):
                    starts[name].append(value)
        if not starts["default"]:
            continue
        rows += [Row.from_values(f"{data}_{part}_{name}", values) for name, values in starts.items()]
        for name in ("predicted", "chosen"):
            margins = [value - default for value, default in zip(starts[name], starts["default"], strict=True)]
            rows.append(
                Row(f"{data}_{part}_{name}_margin", statistics.fmean(margins), statistics.pstdev(margins), len(margins))
            )
            worse = sum(margin < -0.005 for margin in margins) / len(margins)
            rows.append(Row(f"{data}_{part}_{name}_worse", worse, n=len(margins), better="lower"))
    random = [one.random_features for one in measured if one.random_features is not None]
    return rows + ([Row.from_values(f"{data}_full_random_features", random)] if random else [])


def _scores(one: Measured, part: str) -> tuple[Any, Any, Any]:
    if part == "full":
        default, predicted = one.default.full, one.predicted.full
        return default, predicted, predicted if one.predicted.full_error < one.default.full_error else default
    default, predicted = statistics.fmean(one.default.few), statistics.fmean(one.predicted.few)
    pairs = zip(one.default.few, one.predicted.few, one.default.few_errors, one.predicted.few_errors, strict=False)
    return default, predicted, statistics.fmean(b if d < c else a for a, b, c, d in pairs)


if __name__ == "__main__":
    main()
