"""Pictures of the evaluation of a generator of checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from hypergen.evaluation.plots import BLUES, LEGEND, PREDICTED, accuracy_axis, canvas, save_figures
from hypergen.evaluation.zoo.finetuning import Finetuning

_COLOURS = {
    "generalises": "#228833",
    "adds noise": "#ccbb44",
    "averages": "#ee8866",
    "memorises": "#aa3377",
    "fails": "#999999",
}


def write_zoo_plots(
    folder: str | Path,
    methods: Mapping[str, list[dict[str, Any]]],
    noise: Mapping[str, list[tuple[float, float, float]]],
    finetuning: Mapping[str, Mapping[str, Finetuning]],
    prompted: Sequence[tuple[float, float]] = (),
) -> list[Path]:
    """Draw every plot that there is data for.

    Args:
        folder: Made if it does not exist.
        methods: By split, a row for the generator and each baseline.
        noise: By split, (strength, novelty relative to trained networks, accuracy) of the noise sweep.
        finetuning: By split and start.
        prompted: (wanted, obtained) where the generator was prompted.

    Returns:
        The PNG files.
    """
    figures: dict[str, Figure] = {}
    for split, rows in methods.items():
        figures[f"accuracy_{split}"] = accuracy_by_method(rows, split)
        figures[f"novelty_{split}"] = accuracy_by_novelty(rows, noise[split], split)
        figures[f"finetuning_{split}"] = finetuning_curves(finetuning[split], rows, split)
    if prompted:
        figures["prompts"] = prompts(prompted)
    return save_figures(figures, folder)


def accuracy_by_method(rows: list[dict[str, Any]], split: str) -> Figure:
    """A bar per method with the standard deviation over networks, coloured by verdict."""
    figure, axes = canvas(8.6, 4.6)
    ordered = sorted(rows, key=lambda row: -row["accuracy"])
    for place, row in enumerate(ordered):
        axes.bar(place, row["accuracy"], 0.8, color=_COLOURS[row["verdict"]], zorder=2)
        low, high = row["accuracy"] - row["std"], min(1.0, row["accuracy"] + row["std"])
        axes.vlines(place, low, high, color="#333333", lw=1, zorder=3)
        axes.text(place, 0.02, f"{100 * row['accuracy']:.1f}", ha="center", fontsize=8, color="white", zorder=4)
    for verdict in dict.fromkeys(row["verdict"] for row in ordered):
        axes.bar(0, 0, color=_COLOURS[verdict], label=verdict)
    axes.set_xticks(range(len(ordered)), [row["method"].replace("_", "\n") for row in ordered], fontsize=8)
    for label in axes.get_xticklabels():
        label.set_fontweight("bold" if label.get_text() == "generated" else "normal")
    axes.tick_params(axis="x", length=0)
    accuracy_axis(axes)
    axes.set_title(f"Held out by {split}: mean test accuracy ± standard deviation", loc="left", pad=24)
    axes.legend(ncols=5, loc="lower left", bbox_to_anchor=(-0.01, 1.0), **LEGEND)
    return figure


def accuracy_by_novelty(rows: list[dict[str, Any]], noise: list[tuple[float, float, float]], split: str) -> Figure:
    """A point per method: accuracy against relative novelty, with the curve of noise-added training networks."""
    figure, axes = canvas(7.2, 4.6)
    _, novelty, accuracy = zip(*noise, strict=True)
    axes.plot(novelty, accuracy, color="#999999", lw=1.4, marker=".", label="training networks with noise", zorder=2)
    for row in rows:
        if row["method"].startswith("noise"):
            continue
        marker, size = ("*", 160) if row["method"] == "generated" else ("o", 36)
        axes.scatter(row["novelty"], row["accuracy"], size, color=_COLOURS[row["verdict"]], marker=marker, zorder=4)
        # The generator lies where the best baselines lie, so its name stands elsewhere than theirs.
        place = (8, 7) if row["method"] == "generated" else (6, -3)
        name = row["method"].replace("_", " ")
        axes.annotate(name, (row["novelty"], row["accuracy"]), place, textcoords="offset points", fontsize=8)
    axes.axvline(1.0, color="#555555", lw=0.8, ls=(0, (4, 3)), zorder=1)
    axes.set_xlim(left=-0.03, right=max(1.6, 1.15 * max(row["novelty"] for row in rows[:2])))
    axes.set_xlabel("distance to the nearest training network, relative to trained held-out networks")
    accuracy_axis(axes)
    axes.set_title(f"Held out by {split}: accuracy against novelty", loc="left", pad=24)
    axes.legend(loc="lower left", **LEGEND)
    return figure


def finetuning_curves(starts: Mapping[str, Finetuning], rows: list[dict[str, Any]], split: str) -> Figure:
    """Mean test accuracy over steps of training, from each start."""
    figure, axes = canvas(7.2, 4.6)
    colours = {"generated": PREDICTED, "nearest": "#b0b8c4", "init": BLUES["trained_20_epochs"]}
    for start, found in starts.items():
        steps, accuracy = zip(*found.curve, strict=True)
        axes.plot(steps, accuracy, color=colours.get(start), lw=2, label=f"from {start}")
    trained = next(row["accuracy"] for row in rows if row["method"] == "trained")
    axes.axhline(trained, color="#555555", lw=0.8, ls=(0, (4, 3)), zorder=1)
    axes.set_xlabel("training steps (learning rate selected on validation for each start)")
    accuracy_axis(axes)
    axes.set_title(f"Held out by {split}: training on (dashed: trained networks)", loc="left", pad=24)
    axes.legend(loc="lower right", **LEGEND)
    return figure


def prompts(points: Sequence[tuple[float, float]]) -> Figure:
    """Obtained against wanted metric, a point per prompt."""
    figure, axes = canvas(5.2, 4.8)
    wanted, obtained = zip(*points, strict=True)
    low, high = min(wanted), max(wanted)
    axes.plot([low, high], [low, high], color="#555555", lw=0.8, ls=(0, (4, 3)), zorder=1)
    axes.scatter(wanted, obtained, 12, color=PREDICTED, alpha=0.6, linewidths=0, zorder=2)
    axes.set(xlabel="prompted", ylabel="obtained")
    axes.set_title("Prompted and obtained metric of generated networks", loc="left")
    return figure
