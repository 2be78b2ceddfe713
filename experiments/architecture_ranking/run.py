"""``python train.py experiment=architecture_ranking``: which architecture will be best, before any is trained."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from matplotlib.figure import Figure
from rich.console import Console
from torch import Tensor

from experiments.architecture_ranking.gradsign import gradient_scores
from experiments.architecture_ranking.graph_text import graph_text
from experiments.architecture_ranking.training import ArchitectureRanking
from experiments.shared.processes import cpu_seconds, seconds_since_start
from hypergen.architectures import Architecture, load_split
from hypergen.architectures.cost import network_cost
from hypergen.data import ImageDataModule
from hypergen.evaluation.image_classifiers.baselines import load_baselines
from hypergen.evaluation.plots import PREDICTED, save_figures
from hypergen.evaluation.properties.figures import kendall_tau
from hypergen.evaluation.results import Results, Row
from hypergen.evaluation.short_training import build_default
from hypergen.functional import calibrate_batch_norm
from hypergen.graph import trace
from hypergen.training.fit import fit


class Ranked(NamedTuple):
    """Architectures of which it is known what they reach when trained.

    Attributes:
        architectures: What they are.
        texts: Their graphs as lines.
        accuracy: [architectures], on test images.
    """

    architectures: Sequence[Architecture]
    texts: Sequence[Sequence[str]]
    accuracy: Tensor


def train_architecture_ranking(
    *,
    name: str,
    output: str,
    seed: int,
    data: ImageDataModule,
    trainer: Callable[..., pl.Trainer],
    ranking: Callable[..., ArchitectureRanking],
    splits: Sequence[str],
    unseen_splits: Sequence[str],
    train: int,
    held_out: int,
    epochs: int = 1,
    samples: int = 32,
    seeds: int = 3,
) -> Results:
    """Rank architectures by their text, and by what costs no training at all.

    What they reach after some epochs, at the learning rate that is best on validation images, comes with the splits.

    Args:
        name: Name of the experiment.
        output: The folder that everything is written into.
        seed: The first of training; of initialisations.
        data: The images.
        trainer: Makes trainers.
        ranking: Makes a LightningModule from ``texts``, ``measured`` and ``seed``.
        splits: Splits of architectures; of each, the first are learned from and the next held out.
        unseen_splits: From which none is learned.
        train: Architectures of a split to learn from.
        held_out: Architectures of a split to rank.
        epochs: Number of epochs of the training whose outcome is ranked: 1 or 5.
        samples: Images for scores at initialisation.
        seeds: Trainings of the encoder of texts.

    Returns:
        The figures, Kendall's tau, which are also written to ``output`` and printed.
    """
    console = Console()
    known = _join([_read(split, slice(train), epochs) for split in splits])
    parts = {
        "": _join([_read(split, slice(train, train + held_out), epochs) for split in splits]),
        **{f"_{split}": _read(split, slice(held_out), epochs) for split in unseen_splits},
    }
    console.print(f"{name}: seed {seed}, {len(known.texts)} architectures to learn from")
    trained = []
    for number in range(seed, seed + seeds):
        begun = time.monotonic()
        torch.manual_seed(number)
        module = ranking(texts=known.texts, measured=known.accuracy, seed=number)
        loaders = {"train_dataloaders": module.train_dataloader()}
        make = partial(trainer, max_steps=module.steps, enable_progress_bar=False, val_check_interval=None)
        fit(module, loaders, make, None, None, output, None)
        trained.append({part: module.predict(ranked.texts) for part, ranked in parts.items()})
        console.print(f"Ranking from text trained in {time.monotonic() - begun:.0f} s")
    rows, scores = [], {}
    for part, ranked in parts.items():
        taus = [float(kendall_tau(own[part], ranked.accuracy)) for own in trained]
        rows.append(Row.from_values(f"kendall_tau{part}_text", taus))
        scores = {
            "boosted_counts": _boosted(known, ranked.texts),
            **_costs(ranked.architectures),
            **_at_initialisation(ranked.architectures, data, samples, seed),
        }
        rows += [
            Row(f"kendall_tau{part}_{method}", float(kendall_tau(own, ranked.accuracy)))
            for method, own in scores.items()
        ]
        rows.append(Row(f"architectures{part}", len(ranked.texts)))
    rows += [
        Row("run_seconds", seconds_since_start(), better="lower"),
        Row("run_cpu_seconds", cpu_seconds(), better="lower"),
    ]
    results = Results(name, seed, tuple(rows))
    results.write(output)
    _plot(trained[0][""], parts[""], Path(output))
    results.print_table(console)
    console.print(f"Results and a plot are in {output}", soft_wrap=True)
    return results


def _read(split: str, part: slice, epochs: int) -> Ranked:
    records = load_baselines().records
    architectures = load_split(split)[part]
    texts = []
    for architecture in architectures:
        with torch.device("meta"):
            network = architecture.build()
        texts.append(graph_text(trace(network, architecture.example_inputs())))
    accuracy = [records[split, architecture.name].trained[epochs].accuracy for architecture in architectures]
    return Ranked(architectures, texts, torch.tensor(accuracy))


def _join(parts: Sequence[Ranked]) -> Ranked:
    return Ranked(
        [architecture for part in parts for architecture in part.architectures],
        [text for part in parts for text in part.texts],
        torch.cat([part.accuracy for part in parts]),
    )


def _boosted(known: Ranked, texts: Sequence[Sequence[str]]) -> Tensor:
    """Accuracies predicted by boosted trees from how often each operation occurs: the simplest reading of a graph."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    counts = [Counter(line.partition(" ")[0] for line in text) for text in known.texts]
    operations = sorted(set().union(*counts))

    def table(some: Sequence[Mapping[str, int]]) -> np.ndarray:
        return np.array([[own.get(operation, 0) for operation in operations] for own in some])

    trees = HistGradientBoostingRegressor(max_iter=60, max_leaf_nodes=8, min_samples_leaf=5, random_state=0)
    trees.fit(table(counts), known.accuracy.numpy())
    return torch.from_numpy(trees.predict(table([Counter(line.partition(" ")[0] for line in text) for text in texts])))


def _costs(architectures: Sequence[Architecture]) -> dict[str, Tensor]:
    costs = [network_cost(architecture) for architecture in architectures]
    return {
        "parameters": torch.tensor([float(cost.parameters) for cost in costs]),
        "multiply_adds": torch.tensor([float(cost.multiply_adds) for cost in costs]),
    }


def _at_initialisation(
    architectures: Sequence[Architecture], data: ImageDataModule, samples: int, seed: int
) -> dict[str, Tensor]:
    images, labels = data.tensors("train")
    found = []
    for architecture in architectures:
        network = build_default(architecture, seed)
        calibrate_batch_norm(network, [images[:256]])
        found.append(gradient_scores(network, images[:samples], labels[:samples]))
    return {
        "gradsign": torch.tensor([own.gradsign for own in found]),
        "gradient_norm": torch.tensor([own.gradient_norm for own in found]),
    }


def _plot(scores: Tensor, ranked: Ranked, folder: Path) -> None:
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    axes.scatter(scores, ranked.accuracy, s=14, color=PREDICTED, alpha=0.7)
    axes.set(xlabel="score from the architecture's text", ylabel="test accuracy when trained", title="Held out")
    save_figures({"ranking": figure}, folder)
