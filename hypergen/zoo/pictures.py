"""What is in a zoo, in pictures: accuracy over step, distances between networks, and a map of them.

Figures are made without pyplot: no window system, no state that is shared with whoever plots beside.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from hypergen.errors import HypergenError
from hypergen.functional.files import replace_file
from hypergen.zoo.reader import Zoo

FORMATS = ("png", "svg", "pdf")
_METRICS = ("test.accuracy", "validation.accuracy", "validation.loss", "test.loss", "train.loss")
_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#777777")


def write_pictures(
    zoo: Zoo, folder: str | os.PathLike[str], *, metric: str = "", file_format: str = "png", networks: int = 500
) -> list[Path]:
    """Draw every picture that there is data for.

    Args:
        zoo: What to draw; distances and the map are of the layout with most runs.
        folder: Made if it does not exist.
        metric: The column to draw; by default the first of accuracy and loss that there is.
        file_format: ``"png"``, ``"svg"`` or ``"pdf"``.
        networks: Draw distances and the map of so many networks at most, evenly chosen.

    Returns:
        The files: ``metric_over_step``, ``distances`` and ``map``.

    Raises:
        HypergenError: The format or the metric is unknown, or a file could not be written.
    """
    if file_format not in FORMATS:
        raise HypergenError(f"{file_format!r} is no format of pictures; expected one of {', '.join(FORMATS)}.")
    if metric and metric not in zoo.index.column_names:
        raise HypergenError(f"The zoo has no column {metric!r}; it has {', '.join(zoo.index.column_names)}.")
    metric = metric or next((name for name in _METRICS if name in zoo.index.column_names), "")
    drawn: dict[str, Figure] = {}
    if metric and len(set(zoo.column("step"))) > 1:
        drawn["metric_over_step"] = metric_over_step(zoo, metric)
    last = _one_layout(zoo.select(finite=True).last())
    if len(last) > 2:
        chosen = last.take(np.linspace(0, len(last) - 1, min(networks, len(last))).round().astype(int).tolist())
        weights = _flat(chosen)
        drawn["distances"] = distances(weights, chosen, metric)
        drawn["map"] = map_of(weights, chosen, metric)
    paths = []
    for name, figure in drawn.items():
        content = io.BytesIO()
        # Without the date, the same zoo gives the same file.
        figure.savefig(content, dpi=150, format=file_format, metadata={"svg": {"Date": None}}.get(file_format))
        path = Path(folder) / f"{name}.{file_format}"
        replace_file(path, _writer(content.getvalue()))
        paths.append(path)
    return paths


def metric_over_step(zoo: Zoo, metric: str, groups: int = 7) -> Figure:
    """The metric by step: median and 10th to 90th percentile, for each layout (the largest ones)."""
    figure, axes = _canvas(7.0, 4.4)
    ids = [
        value["values"] for value in sorted(zoo.index["layout"].value_counts().to_pylist(), key=lambda v: -v["counts"])
    ]
    for colour, layout in zip(_COLOURS, ids[:groups], strict=False):
        one = zoo.select(layout=layout)
        steps, values = _known(one.column("step"), one.column(metric))
        if not len(steps):
            continue
        grid = np.unique(steps)
        low, middle, high = np.array([np.percentile(values[steps == step], (10, 50, 90)) for step in grid]).T
        axes.fill_between(grid, low, high, color=colour, alpha=0.15, linewidth=0)
        runs = len(set(one.column("run")))
        axes.plot(
            grid, middle, "o-", ms=3, lw=1.8, color=colour, label=f"{zoo.layouts[layout].name or layout} ({runs})"
        )
    axes.set_xlabel("step")
    axes.set_ylabel(metric.replace(".", " "))
    axes.grid(axis="y", color="#e6e6e6", lw=0.8)
    axes.set_axisbelow(True)
    more = f", the {groups} largest of {len(ids)} layouts" if len(ids) > groups else ""
    axes.set_title(f"Median and 10th to 90th percentile{more}", loc="left", fontsize=10)
    axes.legend(title="layout (runs)", frameon=False, fontsize=8, title_fontsize=8, loc="best")
    return figure


def distances(weights: Tensor, zoo: Zoo, metric: str) -> Figure:
    """Distances between all pairs of networks, in the order of their tasks and then of the metric; their histogram."""
    order = _order(zoo, metric)
    between = torch.cdist(weights[order], weights[order])
    figure = Figure(figsize=(9.6, 4.4), layout="constrained")
    matrix, histogram = figure.subplots(1, 2, width_ratios=(1.15, 1))
    picture = matrix.imshow(between.numpy(), cmap="viridis", interpolation="nearest")
    figure.colorbar(picture, ax=matrix, shrink=0.85, label="L2 distance of weights")
    matrix.set(xlabel="network", ylabel="network")
    by = [word for word, there in (("task", _tasks(zoo)), (metric.replace(".", " "), metric)) if there]
    matrix.set_title(f"{len(zoo)} networks{' by ' + ', then '.join(by) if by else ''}", loc="left", fontsize=10)
    above = between[tuple(torch.triu_indices(len(order), len(order), 1))]
    histogram.hist(above.numpy(), bins=60, color=_COLOURS[0])
    histogram.axvline(weights.norm(dim=1).median(), color="#555555", lw=1, ls=(0, (4, 3)), label="median norm")
    histogram.set(xlabel="L2 distance of a pair", ylabel="pairs")
    histogram.spines[["top", "right"]].set_visible(False)
    histogram.legend(frameon=False, fontsize=8)
    return figure


def map_of(weights: Tensor, zoo: Zoo, metric: str) -> Figure:
    """The networks in the plane of their first two principal components, coloured by the metric or by the task."""
    from sklearn.decomposition import PCA

    components = PCA(n_components=2, random_state=0)
    across, up = components.fit_transform(weights.numpy()).T
    figure, axes = _canvas(6.4, 5.0)
    tasks = _tasks(zoo)
    if 1 < len(tasks) <= len(_COLOURS):
        for colour, task in zip(_COLOURS, tasks, strict=False):
            own = np.array([name == task for name in zoo.column("task")])
            axes.scatter(across[own], up[own], s=10, color=colour, alpha=0.7, linewidths=0, label=task)
        axes.legend(title="task", frameon=False, fontsize=8)
    elif metric and all(value is not None for value in zoo.column(metric)):
        points = axes.scatter(across, up, s=10, c=zoo.column(metric), cmap="viridis", alpha=0.8, linewidths=0)
        figure.colorbar(points, ax=axes, shrink=0.85, label=metric.replace(".", " "))
    else:
        axes.scatter(across, up, s=10, color=_COLOURS[0], alpha=0.7, linewidths=0)
    first, second = components.explained_variance_ratio_
    axes.set(xlabel=f"first principal component ({first:.0%})", ylabel=f"second ({second:.0%})")
    axes.set_title(f"The weights of {len(zoo)} networks, each after its last step", loc="left", fontsize=10)
    return figure


def _one_layout(zoo: Zoo) -> Zoo:
    counts = sorted(zoo.index["layout"].value_counts().to_pylist(), key=lambda value: -value["counts"])
    return zoo.select(layout=counts[0]["values"]) if counts else zoo


def _flat(zoo: Zoo) -> Tensor:
    """All generated values of each network in a row: [networks, values]."""
    keys = zoo.layout.keys("generate")
    return torch.cat([value.float().flatten(1) for value in zoo.stack(keys=keys).values()], 1)


def _order(zoo: Zoo, metric: str) -> Tensor:
    tasks = zoo.column("task")
    values = zoo.column(metric) if metric else [0.0] * len(zoo)
    keys = [(task or "", -1.0 if value is None else value) for task, value in zip(tasks, values, strict=True)]
    return torch.tensor(sorted(range(len(keys)), key=keys.__getitem__))


def _tasks(zoo: Zoo) -> list[str]:
    return sorted({task for task in zoo.column("task") if task is not None})


def _known(steps: Sequence[Any], values: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    pairs = [
        (step, value) for step, value in zip(steps, values, strict=True) if value is not None and np.isfinite(value)
    ]
    return np.array([step for step, _ in pairs]), np.array([value for _, value in pairs])


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _writer(content: bytes) -> Callable[[Path], Any]:
    return lambda draft: draft.write_bytes(content)
