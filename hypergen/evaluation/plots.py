"""Pictures of an evaluation.

Figures are made without pyplot: no window system, no state that is shared with whoever plots beside.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from hypergen.evaluation.image_classifiers.figures import EVALUATED_SPLITS, mean_accuracy
from hypergen.evaluation.image_classifiers.records import ArchitectureRecord, StepsComparison
from hypergen.evaluation.steps import StepsCount

PREDICTED = "#c8102e"
GREYS = {"default": "#d9d9d9", "default_ridge_head": "#b0b8c4"}
BLUES = {"trained_1_epoch": "#b6d4ee", "trained_5_epochs": "#6aa6d8", "trained_20_epochs": "#22699f"}
LABELS = {
    "predicted": "predicted, no training",
    "default": "default initialisation",
    "default_ridge_head": "default + ridge readout",
    "trained_1_epoch": "trained 1 epoch",
    "trained_5_epochs": "trained 5 epochs",
    "trained_20_epochs": "trained 20 epochs",
}
# Eleven families, in colours that stay apart for most colour-blind eyes when they also differ in marker.
_COLOURS = (
    "#4477aa",
    "#ee6677",
    "#228833",
    "#ccbb44",
    "#66ccee",
    "#aa3377",
    "#777777",
    "#ee8866",
    "#0c7b5c",
    "#332288",
    "#111111",
)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h")


def write_plots(
    records: Sequence[ArchitectureRecord], steps: Sequence[StepsComparison], folder: str | Path
) -> list[Path]:
    """Draw every plot that there is data for.

    Args:
        records: Records of every architecture.
        steps: Number of steps of the architectures whose training was compared; without any, there are no learning
            curves.
        folder: Made if it does not exist.

    Returns:
        The PNG files.
    """
    figures = {
        "accuracy_by_split": accuracy_by_split(records),
        "accuracy_by_family": accuracy_by_family(records),
        "accuracy_by_size": accuracy_by_size(records),
    }
    if any(entry.predicted.curve and entry.default.curve for entry in steps):
        figures["learning_curves"] = learning_curves(steps)
    return save_figures(figures, folder)


def save_figures(figures: Mapping[str, Figure], folder: str | Path) -> list[Path]:
    """Save figures as PNG files, each whole or not there.

    Args:
        figures: By file name without ending.
        folder: Made if it does not exist.

    Returns:
        The files.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in figures.items():
        picture = io.BytesIO()
        figure.savefig(picture, dpi=150, format="png")
        path = folder / f"{name}.png"
        # Drawn in memory first, so that a failure leaves no half picture.
        temporary = folder / f".{name}.{os.getpid()}.png"
        try:
            temporary.write_bytes(picture.getvalue())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        paths.append(path)
    return paths


def accuracy_by_split(records: Sequence[ArchitectureRecord]) -> Figure:
    """Bars of mean accuracy by split, predicted beside every baseline; lines from the 10th to 90th percentile."""
    splits = _splits(records)
    columns = ["default", "default_ridge_head", "predicted", "trained_1_epoch", "trained_5_epochs", "trained_20_epochs"]
    colours = {"predicted": PREDICTED, **GREYS, **BLUES}
    figure, axes = canvas(max(5.5, 2.2 + 2.0 * len(splits)), 4.6)
    width = 0.8 / len(columns)
    for position, column in enumerate(columns):
        means = [mean_accuracy(records, split, column) for split in splits]
        drawn = [index for index, mean in enumerate(means) if not np.isnan(mean)]
        if not drawn:
            continue
        places = [index + (position - (len(columns) - 1) / 2) * width for index in drawn]
        heights = [means[index] for index in drawn]
        axes.bar(places, heights, width * 0.94, color=colours[column], label=LABELS[column], zorder=2)
        low_high = [np.percentile(_column(records, splits[index], column), (10, 90)) for index in drawn]
        axes.vlines(
            places, [low for low, _ in low_high], [high for _, high in low_high], color="#333333", lw=0.9, zorder=3
        )
        if column == "predicted":
            for place, height in zip(places, heights, strict=True):
                axes.text(
                    place, 0.02, f"{100 * height:.0f}", ha="center", color="white", fontsize=8, weight="bold", zorder=4
                )
    counts = {split: sum(record.split == split for record in records) for split in splits}
    axes.set_xticks(range(len(splits)), [f"{split.replace('_', ' ')}\n(n = {counts[split]})" for split in splits])
    axes.tick_params(axis="x", length=0)
    accuracy_axis(axes)
    axes.set_title("Networks never seen, by split: mean test accuracy, 10th to 90th percentile", loc="left", pad=32)
    axes.legend(ncols=6 if len(splits) > 3 else 3, loc="lower left", bbox_to_anchor=(-0.01, 1.0), **LEGEND)
    return figure


def accuracy_by_family(records: Sequence[ArchitectureRecord]) -> Figure:
    """A strip of architectures per family, predicted beside trained for 5 epochs, with medians."""
    families = sorted(
        {record.family for record in records},
        key=lambda family: -median(record.predicted for record in records if record.family == family),
    )
    figure, axes = canvas(max(5.5, 1.6 + 0.95 * len(families)), 4.6)
    jitter = np.random.default_rng(0)
    sides = (("predicted", PREDICTED, -0.19), ("trained_5_epochs", BLUES["trained_20_epochs"], 0.19))
    for column, colour, offset in sides:
        for index, family in enumerate(families):
            values = [getattr(record, column) for record in records if record.family == family]
            known = [value for value in values if value is not None]
            if not known:
                continue
            places = index + offset + jitter.uniform(-0.11, 0.11, len(known))
            axes.scatter(places, known, s=9, color=colour, alpha=0.4, linewidths=0, zorder=2)
            centre = median(known)
            axes.plot([index + offset - 0.15, index + offset + 0.15], [centre] * 2, color=colour, lw=2.4, zorder=3)
        axes.plot([], [], "o", color=colour, ms=4, label=f"{LABELS[column]} (line: median)")
    counts = [sum(record.family == family for record in records) for family in families]
    axes.set_xticks(
        range(len(families)),
        [f"{family.replace('_', chr(10))}\n({count})" for family, count in zip(families, counts, strict=True)],
        fontsize=8,
    )
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.6, len(families) - 0.4)
    accuracy_axis(axes)
    axes.set_title("Test accuracy by family, every split together", loc="left", pad=24)
    axes.legend(ncols=2, loc="lower left", bbox_to_anchor=(-0.01, 1.0), **LEGEND)
    return figure


def accuracy_by_size(records: Sequence[ArchitectureRecord]) -> Figure:
    """A point per architecture: predicted accuracy against the number of parameters, coloured by family."""
    figure, axes = canvas(8.6, 4.8)
    for index, family in enumerate(sorted({record.family for record in records})):
        for held_out in (False, True):
            chosen = [record for record in records if record.family == family and (record.split != "test") == held_out]
            axes.scatter(
                [record.parameters for record in chosen],
                [record.predicted for record in chosen],
                s=22,
                marker=_MARKERS[index % len(_MARKERS)],
                facecolors="none" if held_out else _COLOURS[index % len(_COLOURS)],
                edgecolors=_COLOURS[index % len(_COLOURS)],
                linewidths=0.8,
                alpha=0.85,
                zorder=2 if held_out else 3,
            )
        axes.plot(
            [],
            [],
            _MARKERS[index % len(_MARKERS)],
            color=_COLOURS[index % len(_COLOURS)],
            ms=5,
            label=family.replace("_", " "),
        )
    axes.set_xscale("log")
    axes.set_xlabel("parameters")
    accuracy_axis(axes)
    axes.set_title("Predicted test accuracy by size (filled: test split; open: out of distribution)", loc="left")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), **LEGEND)
    return figure


def learning_curves(steps: Sequence[StepsComparison], threshold: float = 0.95) -> Figure:
    """Test accuracy by step of training, from predicted parameters and from default ones: median and quartiles."""
    compared = [entry for entry in steps if entry.predicted.curve and entry.default.curve]
    last = min(count.curve[-1][0] for entry in compared for count in (entry.predicted, entry.default))
    grid = np.arange(last + 1)
    figure, axes = canvas(7.2, 4.6)
    sides: Iterable[tuple[str, str, list[StepsCount]]] = (
        ("from default initialisation", BLUES["trained_20_epochs"], [entry.default for entry in compared]),
        ("from predicted parameters", PREDICTED, [entry.predicted for entry in compared]),
    )
    for label, colour, counts in sides:
        points = [np.array(count.curve) for count in counts]  # Each [checks, 2].
        curves = np.stack([np.interp(grid, curve[:, 0], curve[:, 1]) for curve in points])  # [networks, steps]
        low, middle, high = np.percentile(curves, (25, 50, 75), axis=0)
        axes.fill_between(grid, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(grid, middle, color=colour, lw=2, label=label)
    axes.axhline(threshold, color="#555555", lw=0.8, ls=(0, (4, 3)), zorder=1)
    axes.annotate(
        f"{100 * threshold:.0f}%",
        (1, threshold),
        (4, 0),
        ("axes fraction", "data"),
        "offset points",
        va="center",
        fontsize=8,
        color="#555555",
    )
    axes.set_xlim(0, last)
    axes.set_xlabel("training steps (batches of 64 images, learning rate tuned for each side and network)")
    accuracy_axis(axes)
    axes.set_title(f"Training {len(compared)} unseen networks: median and quartiles", loc="left", pad=24)
    axes.legend(ncols=2, loc="lower left", bbox_to_anchor=(-0.01, 1.0), **LEGEND)
    return figure


LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 8, "handlelength": 1.2, "columnspacing": 1.2}


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of this many inches with one pair of axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def accuracy_axis(axes: Axes) -> None:
    """Make the y-axis one of test accuracy."""
    axes.set_ylim(0, 1.02)  # Points at 100% in full.
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylabel("test accuracy")
    axes.grid(axis="y", color="#e6e6e6", lw=0.8, zorder=0)
    axes.set_axisbelow(True)


def _splits(records: Sequence[ArchitectureRecord]) -> list[str]:
    present = {record.split for record in records}
    return [split for split in EVALUATED_SPLITS if split in present] + sorted(present - set(EVALUATED_SPLITS))


def _column(records: Sequence[ArchitectureRecord], split: str, column: str) -> list[float]:
    values = [getattr(record, column) for record in records if record.split == split]
    return [value for value in values if value is not None]
