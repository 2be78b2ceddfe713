"""Pictures of adapters: where their energy lies, how alike they are, and a map of them.

Figures are made without pyplot: no window system, no state that is shared with whoever plots beside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_MOST_NAMES = 40


def energy_map(inspected: Sequence[Mapping[str, Mapping[int, float]]], group: str) -> Figure:
    """Heat map of the mean share of energy by kind of module and layer; each adapter gives its own by both."""
    shares: dict[str, dict[int, float]] = {}
    for each in inspected:
        for kind, row in each.items():
            for layer, share in row.items():
                own = shares.setdefault(kind, {})
                own[layer] = own.get(layer, 0.0) + share / len(inspected)
    kinds = sorted(shares)
    layers = sorted({layer for row in shares.values() for layer in row})
    values = np.array([[shares[kind].get(layer, np.nan) for layer in layers] for kind in kinds])
    figure, axes = _canvas(2.5 + 0.22 * len(layers), 1.8 + 0.3 * len(kinds))
    shown = axes.imshow(values, aspect="auto", cmap="viridis", vmin=0)
    axes.set_yticks(range(len(kinds)), kinds, fontsize=8)
    step = max(1, len(layers) // 16)
    axes.set_xticks(
        range(0, len(layers), step), [str(layer) if layer >= 0 else "–" for layer in layers[::step]], fontsize=7
    )
    axes.set_xlabel("layer")
    axes.set_title(f"Share of energy, mean of {len(inspected)} adapters\n{_short(group)}", fontsize=9)
    figure.colorbar(shown, ax=axes)
    return figure


def heat_map(values: np.ndarray, names: Sequence[str], title: str) -> Figure:
    """Heat map of cosines, adapters in the order of the first direction in which they differ."""
    order = np.argsort(np.linalg.eigh(values)[1][:, -1]) if len(values) > 2 else np.arange(len(values))
    figure, axes = _canvas(6.0, 5.2)
    shown = axes.imshow(values[np.ix_(order, order)], cmap="RdBu_r", vmin=-1, vmax=1)
    if len(names) <= _MOST_NAMES:
        axes.set_xticks(range(len(names)), [_short(names[i], 16) for i in order], fontsize=6, rotation=90)
        axes.set_yticks(range(len(names)), [_short(names[i], 16) for i in order], fontsize=6)
    axes.set_title(_short(title, 70), fontsize=9)
    figure.colorbar(shown, ax=axes)
    return figure


def map_of(cosines: np.ndarray, names: Sequence[str], norms: Sequence[float], title: str) -> Figure:
    """Adapters in the plane of the two largest principal coordinates of their cosines; colour is the norm."""
    centred = cosines - cosines.mean(0) - cosines.mean(1)[:, None] + cosines.mean()
    strength, vectors = np.linalg.eigh(centred)
    places = vectors[:, -2:] * np.sqrt(np.clip(strength[-2:], 0, None))
    total = np.clip(strength, 0, None).sum() or 1.0
    figure, axes = _canvas(6.2, 4.8)
    shown = axes.scatter(places[:, 1], places[:, 0], c=list(norms), s=24, cmap="viridis")
    if len(names) <= _MOST_NAMES:
        for name, (y, x) in zip(names, places, strict=True):
            axes.annotate(_short(name, 18), (x, y), fontsize=6, xytext=(3, 3), textcoords="offset points")
    axes.set_xlabel(f"{100 * max(strength[-1], 0) / total:.0f}% of the differences")
    axes.set_ylabel(f"{100 * max(strength[-2], 0) / total:.0f}%")
    axes.set_title(_short(title, 70), fontsize=9)
    figure.colorbar(shown, ax=axes, label="norm of the updates")
    return figure


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _short(text: str, most: int = 48) -> str:
    return text if len(text) <= most else f"…{text[-most + 1 :]}"
