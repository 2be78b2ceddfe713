"""Time a training step of a GHN-3 T: eight networks on 32×32 images, batches of 64.

``python -m benchmarks.train_step`` prints a table, and as its last line the same figures as JSON. The floor is what the
eight networks take by themselves: forward, backward and Adam with parameters of their own.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F

from benchmarks.memory import peak, start_peak
from benchmarks.sweeps.fresh_process import in_fresh_process
from hypergen.architectures import Architecture, ImageClassifierSpace
from hypergen.data.task import CLASSIFICATION
from hypergen.evaluation.results import Results, Row
from hypergen.generators.ghn.meta_batches import MetaBatch, trace_architecture
from hypergen.generators.ghn.model import GraphHypernetwork
from hypergen.generators.ghn.training import GraphHypernetworkTraining

# The encoder of GHN-3 T (Knyazev et al., 2023, arXiv:2303.04143) with its decoder, and with this project's own.
GENERATORS: dict[str, dict[str, Any]] = {
    "conv": {"layers": 3, "heads": 8, "decoder": "conv", "parametrization": "plain", "max_shape": 64},
    "low_rank": {"layers": 3, "heads": 8, "decoder": "low_rank", "parametrization": "anchored"},
}
# Multiply-adds per image and parameters, at most: this project's space at 32×32, and ten times as large networks.
BUDGETS: dict[str, dict[str, Any]] = {
    "": {},
    "large_networks_": {"max_multiply_adds": 100_000_000, "max_parameters": 2_000_000, "conv_width": (32, 128)},
}
_AIMS = {"seconds": 1.5, "peak_gigabytes": 3.0}


def main(arguments: Sequence[str] | None = None) -> Results:
    """Run the benchmark, print its table and, last, its JSON."""
    options = _parser().parse_args(arguments)
    rows: list[Row] = []
    for prefix in BUDGETS:
        settings = (prefix, options.networks, options.batch_size, options.steps)
        for decoder in GENERATORS:
            seconds, gigabytes = in_fresh_process(train, decoder, *settings)
            # Aims are for networks as the training of this project has them.
            aims = {} if prefix else _AIMS
            name = f"{prefix}{decoder}"
            rows += [
                Row.from_values(
                    f"{name}_step_seconds", seconds, aim=aims.get("seconds"), better="lower", statistic="median"
                ),
                Row(f"{name}_peak_gigabytes", gigabytes, aim=aims.get("peak_gigabytes"), better="lower"),
            ]
        floor = in_fresh_process(train_alone, *settings)
        rows.append(Row.from_values(f"{prefix}networks_alone_seconds", floor, better="lower", statistic="median"))
    details = {**vars(options), "threads": torch.get_num_threads(), "load_average": os.getloadavg()[0]}
    results = Results("benchmarks.train_step", 0, tuple(rows), details)
    results.print_table(Console(width=max(Console().width, 100)))
    print(results.to_json())
    return results


def train(decoder: str, prefix: str, networks: int, batch_size: int, steps: int) -> tuple[list[float], float]:
    """Seconds of every step on networks that were traced before, and the peak of memory in gigabytes."""
    torch.manual_seed(0)
    images, labels = _samples(networks * batch_size)
    data = SimpleNamespace(task=CLASSIFICATION, tensors=lambda split: (images, labels))
    before = start_peak()
    generator = GraphHypernetwork(hidden=64, **GENERATORS[decoder])
    module = GraphHypernetworkTraining(generator, data, steps=100)  # type: ignore[arg-type]
    module.log_dict = module.log = lambda *_, **__: None  # type: ignore[method-assign,assignment]
    traced = {number: trace_architecture(each) for number, each in enumerate(_networks(prefix, networks))}
    optimizer = module.configure_optimizers()["optimizer"]
    samples = np.arange(networks * batch_size).reshape(networks, batch_size)

    def step() -> None:
        new = traced if not module._targets else {}
        loss = module.training_step(MetaBatch(0, tuple(traced), samples, new, networks), 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return _times(step, steps), (peak() - before) / 1e9


def train_alone(prefix: str, networks: int, batch_size: int, steps: int) -> list[float]:
    """Seconds of a step of the networks by themselves, with parameters of their own."""
    torch.manual_seed(0)
    images, labels = _samples(networks * batch_size)
    targets = [architecture.build().train() for architecture in _networks(prefix, networks)]
    optimizer = torch.optim.Adam([value for target in targets for value in target.parameters()], fused=True)

    def step() -> None:
        optimizer.zero_grad()
        for target, inputs, expected in zip(targets, images.split(batch_size), labels.split(batch_size), strict=True):
            F.cross_entropy(target(inputs), expected).backward()
        optimizer.step()

    return _times(step, steps)


def _networks(prefix: str, count: int) -> list[Architecture]:
    space = ImageClassifierSpace(image_size=32, channels=3, **BUDGETS[prefix])
    return [space.sample(seed) for seed in range(count)]


def _samples(count: int) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 3, 32, 32), torch.randint(10, (count,))


def _times(step: Callable[[], None], steps: int) -> list[float]:
    seconds = []
    for number in range(steps + 1):
        begun = time.perf_counter()
        step()
        if number:  # the first one chooses kernels
            seconds.append(time.perf_counter() - begun)
    return seconds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks.train_step", description=__doc__)
    parser.add_argument("--networks", type=int, default=8, help="networks per step")
    parser.add_argument("--batch-size", type=int, default=64, help="images per network")
    parser.add_argument("--steps", type=int, default=10, help="steps that are timed")
    return parser


if __name__ == "__main__":
    main()
