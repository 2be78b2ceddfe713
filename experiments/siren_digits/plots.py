"""Pictures of what was read off SIRENs, and of what edited ones draw."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor

from hypergen.evaluation.plots import PREDICTED, save_figures
from hypergen.evaluation.results import Results


def write_siren_plots(
    results: Results, labels: Tensor, drawn: Tensor, edits: Mapping[str, tuple[Tensor, Tensor]], folder: str | Path
) -> list[Path]:
    """Draw accuracies as bars, and for one network of each class what it draws, should draw and draws when edited.

    Args:
        results: With the rows ``…_accuracy…``.
        labels: [networks].
        drawn: What the networks draw, [networks, height, width].
        edits: By name, what they should draw and what the edited ones draw, likewise.
        folder: Made if it does not exist.

    Returns:
        The PNG files.
    """
    return save_figures(
        {"accuracy": _accuracies(results), "edits": _edits(labels, drawn, edits)},
        folder,
    )


def _accuracies(results: Results) -> Figure:
    marker = f"{results.name}_accuracy_"
    rows = [row for row in results.rows if row.figure.startswith(marker)]
    figure = Figure(figsize=(7, 0.4 * len(rows) + 1), layout="constrained")
    axes = figure.subplots()
    names = [row.figure.removeprefix(marker).replace("_", " ") for row in rows]
    colours = [PREDICTED if name.endswith("probes") else "#b0b8c4" for name in names]
    bars = axes.barh(names, [row.value for row in rows], color=colours)
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.08), xlabel=f"test accuracy, {rows[0].n} networks", title="What does the network draw?")
    return figure


def _edits(labels: Tensor, drawn: Tensor, edits: Mapping[str, tuple[Tensor, Tensor]]) -> Figure:
    chosen = [int((labels == number).nonzero()[0]) for number in labels.unique().tolist()]
    rows = {"drawn": drawn}
    for name, (wanted, edited) in edits.items():
        rows |= {f"{name}: wanted": wanted, f"{name}: edited weights": edited}
    figure = Figure(figsize=(len(chosen) + 2, len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(chosen), squeeze=False)
    for line, (name, pictures) in zip(grid, rows.items(), strict=True):
        for axes, number in zip(line, chosen, strict=True):
            axes.imshow(pictures[number].numpy(), cmap="gray", vmin=-1, vmax=1)
            axes.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    return figure
