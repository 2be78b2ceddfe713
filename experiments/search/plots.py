"""Pictures of searches for hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from hypergen.evaluation.plots import BLUES, LEGEND, PREDICTED, canvas

_COLOURS = (
    PREDICTED,
    "#ee8866",
    BLUES["trained_20_epochs"],
    BLUES["trained_5_epochs"],
    "#228833",
    "#aa3377",
    "#777777",
)


def regret_by_budget(regrets: Mapping[str, Tensor], labels: Mapping[str, str], title: str) -> Figure:
    """Mean regret by what was spent, with a band of a standard error to both sides.

    Args:
        regrets: By method, [seeds, budget].
        labels: What to call methods; those that have none are left out.
        title: Title of the figure.
    """
    figure, axes = canvas(7.6, 4.6)
    drawn = [method for method in regrets if method in labels]
    for number, method in enumerate(drawn):
        values = regrets[method].double().numpy()
        spent = np.arange(1, values.shape[1] + 1)
        mean, error = values.mean(0), values.std(0, ddof=1 if len(values) > 1 else 0) / len(values) ** 0.5
        colour = _COLOURS[number % len(_COLOURS)]
        axes.fill_between(spent, mean - error, mean + error, color=colour, alpha=0.15, linewidth=0)
        # Methods that have made the same choices so far lie on each other.
        style = "-" if number % 2 == 0 else (0, (4, 3))
        axes.plot(spent, mean, color=colour, lw=2.4 if number == 0 else 1.5, ls=style, label=labels[method])
    axes.set_yscale("log")
    axes.set_xlim(1, max(regrets[method].shape[1] for method in drawn))
    axes.set_xlabel("blocks of training spent")
    axes.set_ylabel("regret")
    axes.grid(axis="y", which="both", color="#e6e6e6", lw=0.6, zorder=0)
    axes.set_axisbelow(True)
    axes.set_title(title, loc="left")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), **LEGEND)
    return figure
