"""How well the networks of a hypernetwork do, beside one network without a condition."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hypergen.data.in_memory import InMemoryDataModule
from hypergen.evaluation.results import Results, Row
from hypergen.generators.hypernetwork import HyperNetwork

Prepare = Callable[[Any, Tensor], Any]


@dataclass(frozen=True)
class HyperNetworkEvaluation:
    """Rows of an evaluation.

    Attributes:
        results: Accuracy under each condition, of the hypernetwork and of its baseline.
    """

    results: Results

    def write(self, folder: str | Path) -> None:
        """Write ``results.json`` and ``results.md``."""
        self.results.write(folder)


def evaluate_hypernetwork(
    hyper: HyperNetwork,
    data: InMemoryDataModule,
    *,
    prepare: Prepare | None = None,
    conditions: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    baseline_steps: int = 1000,
    learning_rate: float = 1e-3,
    name: str = "hypernetwork",
    seed: int = 0,
) -> HyperNetworkEvaluation:
    """Measure accuracy on test images under some conditions.

    The baseline is the target itself, trained without a condition on the same images from the same initialisation.

    Args:
        hyper: Hypernetwork of one continuous value.
        data: Images and labels.
        prepare: What a condition makes of a batch; as in training.
        conditions: The values at which accuracy is measured.
        baseline_steps: Steps of the baseline's training.
        learning_rate: The baseline's.
        name: Name of the results.
        seed: Random seed of the baseline's conditions.
    """
    change = prepare or (lambda batch, _: batch)
    baseline = _train_baseline(hyper, data, change, baseline_steps, learning_rate, seed)
    batch = list(data.tensors("test"))
    rows: dict[str, list[float]] = {"hypernetwork": [], "no_condition": []}
    with torch.no_grad():
        for value in conditions:
            condition = torch.tensor([float(value)])
            images, labels = change(batch, condition)
            rows["hypernetwork"].append(_accuracy(hyper(images, condition=condition), labels))
            rows["no_condition"].append(_accuracy(baseline(images), labels))
    every = [
        Row(f"accuracy_{which}_at_{value:g}", found)
        for which, values in rows.items()
        for value, found in zip(conditions, values, strict=True)
    ]
    means = [Row.from_values(f"accuracy_{which}", values) for which, values in rows.items()]
    details = {"test_images": len(batch[1]), "conditions": list(conditions), "baseline_steps": baseline_steps}
    return HyperNetworkEvaluation(Results(name, seed, (*means, *every), details))


def _train_baseline(
    hyper: HyperNetwork, data: InMemoryDataModule, change: Prepare, steps: int, learning_rate: float, seed: int
) -> nn.Module:
    network = copy.deepcopy(hyper.attached())
    optimizer = torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    random, step = torch.Generator().manual_seed(seed), 0
    network.train()
    while step < steps:
        for batch in data.train_dataloader():
            if step == steps:
                break
            images, labels = change(batch, torch.rand(len(batch[0]), 1, generator=random))
            optimizer.zero_grad()
            F.cross_entropy(network(images), labels).backward()
            optimizer.step()
            schedule.step()
            step += 1
    return network.eval()


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(1) == labels).float().mean())
