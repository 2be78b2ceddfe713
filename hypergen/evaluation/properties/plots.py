"""Pictures of predicted properties of networks."""

from __future__ import annotations

import math
from pathlib import Path

from matplotlib.figure import Figure

from hypergen.evaluation.plots import BLUES, GREYS, LEGEND, PREDICTED, canvas, save_figures
from hypergen.evaluation.properties.figures import Predictions, mean_prediction, property_rows

_COLUMNS = 4


def write_property_plots(predictions: Predictions, folder: str | Path) -> list[Path]:
    """Draw predicted against measured accuracy, and every method's rank correlations.

    Args:
        predictions: Predictions of one zoo.
        folder: Made if it does not exist.

    Returns:
        The PNG files.
    """
    zoo = predictions.zoo
    return save_figures(
        {
            f"{zoo}_zoo_predictions": predicted_against_measured(predictions),
            f"{zoo}_zoo_tau": tau_by_method(predictions),
        },
        folder,
    )


def predicted_against_measured(predictions: Predictions) -> Figure:
    """A panel per method with a point per test network, in the colour of its architecture."""
    lines = math.ceil(len(predictions.methods) / _COLUMNS)
    figure = Figure(figsize=(2.6 * _COLUMNS, 2.6 * lines + 0.4), layout="constrained")
    panels = figure.subplots(lines, _COLUMNS, sharex=True, sharey=True, squeeze=False).flatten()
    measured = predictions.measured[:, 0]
    low, high = float(measured.min()), float(measured.max())
    several = len(predictions.groups.unique()) > 1
    for axes, (method, trainings) in zip(panels, predictions.methods.items(), strict=False):
        axes.spines[["top", "right"]].set_visible(False)
        axes.plot([low, high], [low, high], color="#555555", lw=0.8, ls=(0, (4, 3)), zorder=1)
        colours = {"c": predictions.groups, "cmap": "tab10"} if several else {"color": PREDICTED}
        axes.scatter(measured, mean_prediction(trainings)[:, 0], 9, alpha=0.6, linewidths=0, zorder=2, **colours)
        axes.set_title(method.replace("_", " "), fontsize=9, loc="left")
    methods = len(predictions.methods)
    for axes in panels[methods:]:
        axes.set_axis_off()
    for axes in panels[max(0, methods - _COLUMNS) : methods]:  # The lowest of each column.
        axes.tick_params(labelbottom=True)
    figure.supxlabel("measured test accuracy", fontsize=9)
    figure.supylabel("predicted", fontsize=9)
    return figure


def tau_by_method(predictions: Predictions) -> Figure:
    """Kendall's tau of every method and property, with the deviation over resampled networks."""
    figure, axes = canvas(7.2, 0.8 + 0.42 * len(predictions.methods))
    rows = {row.figure: row for row in property_rows(predictions)}
    colours = (PREDICTED, BLUES["trained_5_epochs"], GREYS["default_ridge_head"])
    height = 0.8 / len(predictions.properties)
    for number, name in enumerate(predictions.properties):
        for place, method in enumerate(predictions.methods):
            ending = "" if method == predictions.main else f"_{method}"
            row = rows[f"{f'{name}_' if number else ''}kendall_tau_{predictions.zoo}_zoo{ending}"]
            label = name if place == 0 else None
            at = place + (number - (len(predictions.properties) - 1) / 2) * height
            axes.barh(at, row.value, height * 0.92, color=colours[number % 3], label=label, zorder=2)
            axes.hlines(at, row.value - row.std, row.value + row.std, color="#333333", lw=1, zorder=3)
    axes.set_yticks(range(len(predictions.methods)), [method.replace("_", " ") for method in predictions.methods])
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.grid(axis="x", color="#e6e6e6", lw=0.8, zorder=0)
    axes.set_axisbelow(True)
    axes.set_xlabel("Kendall's tau with what was measured")
    axes.set_title(f"{len(predictions.measured)} unseen networks of the {predictions.zoo} zoo", loc="left", pad=20)
    axes.legend(ncols=3, loc="lower left", bbox_to_anchor=(-0.01, 1.0), **LEGEND)
    return figure
