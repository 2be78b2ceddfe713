"""``python train.py experiment=merging``: the networks between two trained ones, before and after alignment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from hypergen.architectures import Architecture
from hypergen.data import ImageDataModule
from hypergen.data.in_memory import SPLITS
from hypergen.errors import HypergenError
from hypergen.evaluation.plots import LEGEND, save_figures
from hypergen.evaluation.results import Results, Row
from hypergen.functional import calibrate_batch_norm
from hypergen.functional.stacked import Recipe, Splits, train_stacked
from hypergen.graph import trace
from hypergen.symmetry.align.merging import align_networks, interpolate

METHODS = ("none", "random", "aligned")
_LABELS = {"none": "as trained", "random": "randomly permuted", "aligned": "aligned by weight matching"}
_COLOURS = {"none": "#6aa6d8", "random": "#b0b8c4", "aligned": "#c8102e"}


@dataclass(frozen=True)
class Curve:
    """What the networks between two do on test images.

    Attributes:
        loss: ``[points]``, evenly from one network to the other.
        accuracy: Accuracy at the same points, ``[points]``.
    """

    loss: Tensor
    accuracy: Tensor

    @property
    def barrier(self) -> float:
        """How far the loss rises over the line between the losses of the two networks (Frankle et al., 2020)."""
        shares = torch.linspace(0, 1, len(self.loss))
        return float((self.loss - torch.lerp(self.loss[0], self.loss[-1], shares)).max())

    @property
    def midpoint(self) -> float:
        """The accuracy of the mean of the two networks."""
        return float(self.accuracy[len(self.accuracy) // 2])


def train_merging(
    *,
    name: str,
    output: str,
    seed: int,
    data: ImageDataModule,
    architectures: Mapping[str, Architecture],
    pairs: int = 5,
    steps: int = 600,
    learning_rate: float = 3e-3,
    weight_decay: float = 1e-2,
    batch_size: int = 64,
    points: int = 11,
) -> Results:
    """Train pairs of networks from independent seeds, and walk from one to the other.

    Loss and accuracy are measured along the straight line, with the second network as it was trained, randomly
    permuted, and aligned (Ainsworth et al., *Git Re-Basin*, 2022, arXiv 2209.04836). Batch norms of networks in between
    are calibrated on training images for every method (Jordan et al., *REPAIR*, 2022, arXiv 2211.08403).

    Args:
        name: Name of the experiment.
        output: The folder for results and pictures.
        seed: Random seed of initialisation, order of data and random permutations.
        data: What the networks are trained on.
        architectures: By the names that figures have.
        pairs: Pairs of each architecture; no network is in two of them.
        steps: Number of steps of training.
        learning_rate: Learning rate of Adam, with cosine decay.
        weight_decay: Decoupled.
        batch_size: Images per step.
        points: Along the line, both ends included; an odd number has the mean.

    Returns:
        The figures, which are also written to ``output`` and printed.
    """
    if points < 3 or points % 2 == 0:
        raise ValueError(f"points must be odd and at least 3, so that the mean is among them; got {points}")
    splits = {split: data.tensors(split) for split in SPLITS}
    console = Console()
    rows: list[Row] = []
    curves: dict[str, dict[str, list[Curve]]] = {}
    for label, architecture in architectures.items():
        seeds = [seed * 1000 + number for number in range(2 * pairs)]
        recipes = [Recipe(f"{label}-{own}", steps, own, own, learning_rate, weight_decay) for own in seeds]
        *_, last = train_stacked(architecture.build, recipes, splits, batch_size=batch_size, schedule="cosine")
        if last.diverged:
            raise HypergenError(f"{len(last.diverged)} networks of {label!r} diverged; lower learning_rate.")
        ratios, curves[label] = _walk(architecture.build(), last.state, splits, points, seed)
        barriers = {method: [curve.barrier for curve in found] for method, found in curves[label].items()}
        rows.append(Row.from_values(f"accuracy_{label}", last.metrics["test"]["accuracy"].tolist()))
        rows.append(Row.from_values(f"distance_ratio_{label}", ratios, better="lower"))
        for method, found in curves[label].items():
            rows.append(Row.from_values(f"barrier_{label}_{method}", barriers[method], better="lower"))
            rows.append(Row.from_values(f"midpoint_accuracy_{label}_{method}", [curve.midpoint for curve in found]))
        gains = [before - after for before, after in zip(barriers["none"], barriers["aligned"], strict=True)]
        rows.append(Row.from_values(f"barrier_lowered_{label}", gains))
        console.print(f"{label}: {pairs} pairs")
    details = {"architectures": {label: own.to_json() for label, own in architectures.items()}, "steps": steps}
    results = Results(name, seed, tuple(rows), details)
    results.write(output)
    save_figures({"interpolation": interpolation_figure(curves)}, Path(output))
    results.print_table(console)
    console.print(f"Results and plots are in {output}", soft_wrap=True)
    return results


def _walk(
    model: nn.Module, state: Mapping[str, Tensor], splits: Splits, points: int, seed: int
) -> tuple[list[float], dict[str, list[Curve]]]:
    """The curves of each method for the pairs in a stack, and distances after alignment as a share of those before."""
    images = splits["train"][0]
    graph = trace(model, images[:1])
    symmetry = graph.symmetry()
    generator = torch.Generator().manual_seed(seed)
    ratios, curves = [], {method: [] for method in METHODS}  # type: ignore[var-annotated]
    for number in range(0, len(next(iter(state.values()))), 2):
        a, b = ({name: value[each] for name, value in state.items()} for each in (number, number + 1))
        found = align_networks(graph, a, b)
        ratios.append(found.after / found.before)
        ends = {"none": b, "random": symmetry.apply(b, symmetry.sample(generator)), "aligned": found.aligned}
        for method, end in ends.items():
            curves[method].append(walk(model, a, end, splits, points))
    return ratios, curves


def walk(model: nn.Module, a: Mapping[str, Tensor], b: Mapping[str, Tensor], splits: Splits, points: int) -> Curve:
    """Measure the networks between two on test images, with batch norms calibrated on training images."""
    model.eval()
    images, labels = splits["test"]
    losses, accuracies = [], []
    for share in torch.linspace(0, 1, points).tolist():
        model.load_state_dict(interpolate(a, b, share))
        calibrate_batch_norm(model, [splits["train"][0]])
        with torch.no_grad():
            logits = model(images)
        losses.append(F.cross_entropy(logits, labels))
        accuracies.append((logits.argmax(1) == labels).float().mean())
    return Curve(torch.stack(losses), torch.stack(accuracies))


def interpolation_figure(curves: Mapping[str, Mapping[str, Sequence[Curve]]]) -> Figure:
    """Loss and accuracy from one network to the other, mean and standard deviation over pairs, a column each."""
    figure = Figure(figsize=(2.0 + 2.9 * len(curves), 5.4), layout="constrained")
    panels = figure.subplots(2, len(curves), sharex=True, sharey="row", squeeze=False)
    for column, (label, methods) in enumerate(curves.items()):
        for method, walked in methods.items():
            for axes, values in zip(
                panels[:, column], ([c.loss for c in walked], [c.accuracy for c in walked]), strict=True
            ):
                stacked = torch.stack(values)
                shares, centre = torch.linspace(0, 1, stacked.shape[1]), stacked.mean(0)
                spread = stacked.std(0) if len(stacked) > 1 else torch.zeros_like(centre)
                axes.fill_between(shares, centre - spread, centre + spread, color=_COLOURS[method], alpha=0.18, lw=0)
                axes.plot(shares, centre, color=_COLOURS[method], lw=2, label=_LABELS[method])
        panels[0, column].set_title(f"{label} (n = {len(walked)})", fontsize=10)
        panels[1, column].set_xlabel("share of the second network")
    for axes in panels.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e6e6e6", lw=0.8, zorder=0)
        axes.set_xticks((0, 0.5, 1), ("0", "0.5", "1"))
    panels[0, 0].set_ylim(bottom=0)
    panels[0, 0].set_ylabel("test loss")
    panels[1, 0].set_ylabel("test accuracy")
    for axes in panels[1]:
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=len(labels), **LEGEND)
    return figure
