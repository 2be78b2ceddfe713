"""Time the building of zoos against the loop that trains one network after another.

``python -m benchmarks.zoo`` prints a table, and as its last line the same figures as JSON. The convolutional networks
need CIFAR-10 in the parquet layout of the Hugging Face Hub: ``--cifar10 FOLDER`` with train.parquet and test.parquet.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import nan
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.sweeps.fresh_process import in_fresh_process
from hypergen.architectures import Architecture
from hypergen.data import DigitsDataModule, ImageDataModule, ParquetImageDataModule
from hypergen.data.in_memory import SPLITS
from hypergen.evaluation.results import Results, Row
from hypergen.functional.stacked import Batches, Recipe, Splits, evaluate_stacked
from hypergen.functional.stacked_module import StackedModule
from hypergen.symmetry.align.stacked import align
from hypergen.zoo.build.build import build_zoo
from hypergen.zoo.build.engines import make_engine
from hypergen.zoo.build.plan import ZooPlan
from hypergen.zoo.reader import Zoo

_WIDTH = 110
_MLP = Architecture("mlp", {"image_size": 8, "channels": 1, "num_classes": 10, "widths": [16], "norm": "none"})
_CNN = Architecture(
    "cnn",
    {
        "image_size": 32,
        "channels": 3,
        "num_classes": 10,
        "widths": [8, 16, 16],
        "depths": [0, 1, 1],
        "norm": "none",
        "bias": True,
        "stem": "patch",
        "head": "flatten",
    },
)
# 20 epochs of the digits, with an evaluation and a checkpoint every 5.
_MLPS = ZooPlan(
    [_MLP],
    1000,
    steps=660,
    save_every=165,
    learning_rate=(1e-3, 1e-2),
    weight_decay=(1e-4, 1e-1),
    init_scale=(0.5, 2.0),
    data_fraction=(0.5, 1.0),
)
# Four orders of the images, each seen by 50 networks, which then share the work of the first layer.
_CNNS = replace(
    _MLPS,
    architectures=[_CNN],
    networks=200,
    steps=200,
    save_every=100,
    data_fraction=1.0,
    group_size=50,
    data_orders=4,
)


def main(arguments: Sequence[str] | None = None) -> Results:
    """Run the benchmarks, print their table and, last, its JSON."""
    options = _parser().parse_args(arguments)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        if options.mlps:
            plan = replace(_MLPS, networks=options.mlps)
            published = options.mlps == _MLPS.networks and not options.steps
            aims = (20.0, 20.0) if published else (None, None)
            digits = _store(DigitsDataModule(), f"{folder}/digits.pt")
            rows += _rows("mlps_64_16_10", plan, digits, options, *aims)
        if options.cnns and options.cifar10:
            plan = replace(_CNNS, networks=options.cnns)
            aim = 5.0 if options.cnns == _CNNS.networks and not options.steps else None
            train, test = (f"{options.cifar10}/{split}.parquet" for split in ("train", "test"))
            images = ParquetImageDataModule(train, test, max_train=12_000, max_test=1000, validation_size=1000)
            cifar10 = _store(images, f"{folder}/cifar10.pt")
            rows += _rows("cnns_cifar10", plan, cifar10, options, None, aim)
            # Each network with an order of its own, where there is nothing to share; fewer, because they take longer.
            own = replace(plan, data_orders=None, networks=min(plan.networks, plan.group_size))
            rows += _rows("cnns_cifar10_own_orders", own, cifar10, options, None, None)
        if options.pairs:
            rows += in_fresh_process(alignment_rows, options.pairs, options.steps)
    details = {key: value for key, value in vars(options).items() if key not in ("output", "cifar10")}
    details["plain_loop"] = "each network by itself, torch.optim.AdamW, images in memory; scaled from the subset"
    results = Results("zoo_benchmark", 0, tuple(rows), {**details, "cnn": _CNN.to_json(), "mlp": _MLP.to_json()})
    if options.output:
        results.write(options.output)
    console = Console()
    # Where the output is a file, Rich takes 80 columns and would cut the names off.
    results.print_table(console if console.width >= _WIDTH else Console(width=_WIDTH))
    print(results.to_json())
    return results


def _rows(
    name: str,
    plan: ZooPlan,
    data: str,
    options: argparse.Namespace,
    aim_seconds: float | None,
    aim_ratio: float | None,
) -> list[Row]:
    """The plain loop runs before and after, so that a machine that grows busy does not favour one of them."""
    if options.steps:
        plan = replace(plan, steps=options.steps, save_every=options.steps)
    half = max(1, options.plain // 2)
    before = in_fresh_process(train_plainly, plan, data, 0, half)
    seconds, cpu_seconds, accuracies = in_fresh_process(build, plan, data, options.engine, options.workers)
    after = in_fresh_process(train_plainly, plan, data, half, 2 * half)
    alone = [network[0] for network in before + after]
    plain = statistics.fmean(alone) * plan.networks
    plain_cpu = statistics.fmean(network[2] for network in before + after) * plan.networks
    return [
        Row(f"{name}_seconds", seconds, n=plan.networks, aim=aim_seconds, better="lower"),
        Row(f"{name}_cpu_seconds", cpu_seconds, n=plan.networks, better="lower"),
        Row.from_values(f"{name}_accuracy", accuracies),
        Row.from_values(f"{name}_plain_loop_seconds_per_network", alone, better="lower"),
        Row.from_values(f"{name}_plain_loop_accuracy", [network[1] for network in before + after]),
        Row(f"{name}_plain_loop_seconds_scaled", plain, n=len(alone), better="lower"),
        Row(f"{name}_over_plain_loop", plain / seconds, aim=aim_ratio),
        # Where other programs want the processor, too, its own seconds tell more than those of the clock.
        Row(f"{name}_over_plain_loop_in_cpu_seconds", plain_cpu / cpu_seconds if options.engine == "local" else nan),
    ]


def build(plan: ZooPlan, data: str, engine: str, workers: int) -> tuple[float, float, list[float]]:
    """Build a zoo; wall and processor seconds, and the final test accuracies. Reading the data is no part of it."""
    torch.set_num_threads(1)
    splits = torch.load(data, weights_only=True)
    made = make_engine(engine, **({"workers": workers} if engine == "ray" else {}))
    with tempfile.TemporaryDirectory() as zoo:
        begun, begun_cpu = time.perf_counter(), time.process_time()
        build_zoo(Path(zoo) / "zoo", plan, splits, data_name="benchmark", engine=made, progress=False)
        seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - begun_cpu
        return seconds, cpu_seconds, Zoo(Path(zoo) / "zoo").last().column("test.accuracy")


def train_plainly(plan: ZooPlan, data: str, first: int, last: int) -> list[tuple[float, float, float]]:
    """The loop that one would write first, over some of the plan's networks.

    The same recipes, batches, evaluations and checkpoints; no loader, which would only slow it down.

    Returns:
        For each network its seconds, test accuracy and processor seconds.
    """
    torch.set_num_threads(1)
    splits = torch.load(data, weights_only=True)
    architecture = plan.architectures[0]
    results = []
    with tempfile.TemporaryDirectory() as checkpoints:
        _train_one(architecture.build, replace(plan.recipe(architecture, 0), steps=20), plan, splits, checkpoints)
        for number in range(first, last):
            begun, begun_cpu = time.perf_counter(), time.process_time()
            accuracy = _train_one(architecture.build, plan.recipe(architecture, number), plan, splits, checkpoints)
            results.append((time.perf_counter() - begun, accuracy, time.process_time() - begun_cpu))
    return results


def _train_one(build: Callable[[], nn.Module], recipe: Recipe, plan: ZooPlan, splits: Splits, folder: str) -> float:
    torch.manual_seed(recipe.init_seed)
    network = build()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1:
                parameter.mul_(recipe.init_scale)
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    images, labels = splits["train"]
    batches = Batches([recipe], len(images), plan.batch_size)
    only = torch.tensor([0])
    measured: dict[str, float] = {}
    for step in range(recipe.steps + 1):
        if step in plan.save_steps() or step == recipe.steps:
            measured = {split: _accuracy(network, *splits[split]) for split in ("validation", "test")}
            torch.save(network.state_dict(), f"{folder}/{recipe.run}-{step}.pt")
        if step == recipe.steps:
            break
        chosen = batches.draw(step, only)[0]
        optimizer.zero_grad()
        F.cross_entropy(network(images[chosen]), labels[chosen]).backward()
        optimizer.step()
    return measured["test"]


@torch.no_grad()
def _accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    network.eval()
    accuracy = (network(images).argmax(1) == labels).float().mean().item()
    network.train()
    return accuracy


def alignment_rows(pairs: int, steps: int) -> list[Row]:
    """Accuracy half way between two networks from different initialisations, as they are and after weight matching."""
    torch.set_num_threads(1)
    data = DigitsDataModule()
    splits = {split: data.tensors(split) for split in SPLITS}
    plan = replace(_MLPS, networks=2 * pairs, save_first=False, init_scale=1.0, data_fraction=1.0)
    plan = replace(plan, steps=steps or plan.steps, save_every=steps or plan.steps)
    with tempfile.TemporaryDirectory() as folder:
        build_zoo(Path(folder) / "zoo", plan, splits, data_name="digits", progress=False)
        zoo = Zoo(Path(folder) / "zoo")
        weights, groups = zoo.stack(), zoo.layout.permutation_groups
    one, other = ({key: value[part::2] for key, value in weights.items()} for part in (0, 1))
    module = StackedModule(_MLP.build)
    images, labels = splits["test"]

    def accuracies(networks: dict[str, Tensor]) -> Tensor:
        return evaluate_stacked(module, networks, {}, images, labels.unsqueeze(0))["accuracy"]

    def middle(networks: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key: (value + networks[key]) / 2 for key, value in one.items()}

    ends = (accuracies(one) + accuracies(other)) / 2
    rows = [Row.from_values("ends_accuracy", ends.tolist())]
    for name, moved in (("as_they_are", other), ("aligned", align(other, one, groups))):
        between = accuracies(middle(moved))
        rows.append(Row.from_values(f"midpoint_accuracy_{name}", between.tolist()))
        rows.append(Row.from_values(f"barrier_{name}", (ends - between).tolist(), better="lower"))
    return rows


def _store(data: ImageDataModule, file: str) -> str:
    """Decode the images once, for every process."""
    torch.save({split: data.tensors(split) for split in SPLITS}, file)
    return file


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks.zoo", description=__doc__)
    add = parser.add_argument
    add("--mlps", type=int, default=_MLPS.networks, help="MLPs on digits; 0 leaves them out")
    add("--cnns", type=int, default=_CNNS.networks, help="convolutional networks on CIFAR-10; 0 leaves them out")
    add("--cifar10", default="", help="the folder of CIFAR-10's train.parquet and test.parquet; without it no CNNs")
    add("--pairs", type=int, default=50, help="pairs of MLPs to align and interpolate; 0 leaves them out")
    add("--steps", type=int, default=0, help="updates of every network; 0 for those of the published figures")
    add("--plain", type=int, default=20, help="networks of the plain loop, half before and half after")
    add("--engine", choices=("local", "ray"), default="local")
    add("--workers", type=int, default=2, help="of Ray on this machine")
    add("--output", type=Path, help="a folder for results.json and results.md")
    return parser


if __name__ == "__main__":
    main()
