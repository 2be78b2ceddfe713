"""Computational graph → picture."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypergen.graph.visualize.folding import fold
from hypergen.graph.visualize.kinds import KINDS, kind_of
from hypergen.graph.visualize.placing import HEADER, PADDING, Box, Level, Point
from hypergen.graph.visualize.scene import BLOCK_TITLE, DETAIL, LINE, TITLE, Scene, text_width

if TYPE_CHECKING:
    from hypergen.graph.computational_graph import ComputationalGraph

FORMATS = (".svg", ".png", ".pdf", ".html")

_MARGIN = 18.0
_RADIUS = 6.0
_MAX_PIXELS = 4e7
_ARROW = "-|>,head_length=3.2,head_width=1.7"
_INK, _GREY, _EDGE, _RIM, _BLOCK = "#1f2328", "#6b7280", "#7c8694", "#5c6470", "#f4f6f8"


def draw(graph: ComputationalGraph, path: str | Path, folded: bool = True) -> None:
    """Draw a graph from top to bottom: nodes as boxes, branches side by side, skip connections around them.

    Repeated blocks are drawn once, in a frame that says how often and for which modules. What is too long for a page
    goes on at the top of the next strip, where one value alone goes over.

    Args:
        graph: The graph.
        path: Where to; the suffix decides the format: ``.svg``, ``.png``, ``.pdf``, or ``.html`` for a page on which
            one can zoom, search, and unfold blocks.
        folded: Whether repeated blocks are drawn once.

    Raises:
        ValueError: The suffix is none of these.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"cannot draw a graph as {path.name!r}; the file name should end in {', '.join(FORMATS)}")
    repeats = fold(graph) if folded else ()
    if path.suffix.lower() == ".html":
        from hypergen.graph.visualize.page import page

        path.write_text(page(Scene(graph, repeats, wrapped=False), path.stem), encoding="utf-8")
        return
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    level = Scene(graph, repeats).level()
    kinds = {kind_of(node.op) for node in graph.nodes}
    legend = [kind for kind in KINDS if kind in kinds]
    width = max(level.width, sum(text_width(kind, DETAIL) + 24 for kind in legend)) + 2 * _MARGIN
    height = level.height + 3 * _MARGIN
    figure = Figure(figsize=(width / 72, height / 72))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    painter = _Painter(axes)
    painter.legend(legend)
    painter.level(level, (_MARGIN, 2 * _MARGIN))
    dpi = min(150.0, 72 * (_MAX_PIXELS / (width * height)) ** 0.5, 72 * 60000 / max(width, height))
    # Texts stay texts: one can search and copy them, and the file is a fraction as large as with outlines.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "hypergen"}):
        figure.savefig(path, dpi=dpi, facecolor="white")


class _Painter:
    """Puts boxes and lines onto Matplotlib's axes."""

    def __init__(self, axes: Any) -> None:
        self.axes = axes

    def legend(self, kinds: list[str]) -> None:
        x = _MARGIN
        for kind in kinds:
            self._rectangle((x, _MARGIN - 4), 8, 8, KINDS[kind][0], 1, 2)
            self.axes.text(x + 12, _MARGIN, kind, fontsize=DETAIL, color=_GREY, va="center_baseline")
            x += text_width(kind, DETAIL) + 24

    def level(self, level: Level, corner: Point, depth: int = 0) -> None:
        left, top = corner
        for wire in level.wires:
            corners = [(left + x, top + y) for x, y in wire.corners]
            self._stroke(corners, 3 * depth + 1, _ARROW if wire.arrow else "-")
        for box in level.boxes:
            if box.level is None:
                self._operation(box, left, top, 3 * depth + 2)
            else:
                self._block(box, left, top, 3 * depth + 2)
                inside = box.inside
                self.level(box.level, (left + inside[0], top + inside[1]), depth + 1)

    def _operation(self, box: Box, left: float, top: float, order: int) -> None:
        x, y = left + box.x, top + box.y
        self._rectangle((x, y), box.width, box.height, KINDS[box.kind][0], order)
        baseline = y + PADDING + TITLE * 0.8
        self._write(x + PADDING, baseline, box.title, TITLE, _INK, order, weight="bold")
        self._write(x + box.width - PADDING, baseline, box.shape, DETAIL, _GREY, order, ha="right")
        for number, text in enumerate(box.details):
            baseline += DETAIL + LINE
            self._write(x + PADDING, baseline, text, DETAIL, _GREY if box.named and number == 0 else _INK, order)

    def _block(self, box: Box, left: float, top: float, order: int) -> None:
        assert box.level is not None
        x, y = left + box.x, top + box.y
        for away in (6.0, 3.0):  # a pile, one for each of many
            self._rectangle((x + away, y + away), box.width, box.height, _BLOCK, order - 0.5, 6)
        self._rectangle((x, y), box.width, box.height, _BLOCK, order, 6)
        inside = left + box.inside[0], top + box.inside[1]
        for entry in box.level.entries.values():
            self._stroke([(inside[0] + entry, y), (inside[0] + entry, inside[1])], order)
        for leaving in box.level.exits.values():
            bottom = inside[1] + box.level.height
            self._stroke([(inside[0] + leaving, bottom), (inside[0] + leaving, y + box.height)], order)
        text = inside[0] + max(box.level.entries.values(), default=0.0) + PADDING
        self._write(text, y + HEADER - 3, box.title, BLOCK_TITLE, _INK, order, weight="bold")
        text += text_width(box.title, BLOCK_TITLE, bold=True) + 8
        self._write(text, y + HEADER - 3, box.shape, DETAIL, _GREY, order)

    def _write(self, x: float, y: float, text: str, size: float, colour: str, order: float, **options: Any) -> None:
        self.axes.text(x, y, text, fontsize=size, color=colour, va="baseline", zorder=order, **options)

    def _rectangle(
        self, corner: Point, width: float, height: float, colour: str, order: float, rounding: float = 4
    ) -> None:
        from matplotlib.patches import FancyBboxPatch

        style = f"round,pad=0,rounding_size={rounding}"
        options: dict[str, Any] = {"facecolor": colour, "edgecolor": _RIM, "linewidth": 0.7, "zorder": order}
        self.axes.add_artist(FancyBboxPatch(corner, width, height, style, **options))

    def _stroke(self, corners: list[Point], order: float, style: str = "-") -> None:
        from matplotlib.patches import FancyArrowPatch
        from matplotlib.path import Path as Outline

        outline = Outline(*rounded(corners))
        options: dict[str, Any] = {
            "color": _EDGE,
            "linewidth": 1.0,
            "joinstyle": "round",
            "capstyle": "butt",
            "zorder": order,
        }
        self.axes.add_artist(FancyArrowPatch(path=outline, arrowstyle=style, **options))


def rounded(corners: list[Point]) -> tuple[list[Point], list[int]]:
    """Vertices and codes of an outline from corner to corner, horizontal and vertical in turn, with round corners."""
    corners = [corners[0], *(corner for before, corner in pairwise(corners) if math.dist(before, corner) > 0.1)]
    vertices, codes = [corners[0]], [1]
    for before, corner, after in zip(corners, corners[1:], corners[2:], strict=False):
        for other, code in ((before, 2), (after, 3)):
            dx, dy = other[0] - corner[0], other[1] - corner[1]
            share = min(_RADIUS / math.hypot(dx, dy), 0.5)
            point = (corner[0] + dx * share, corner[1] + dy * share)
            vertices += [point] if code == 2 else [corner, point]
            codes += [2] if code == 2 else [3, 3]
    return [*vertices, corners[-1]], [*codes, 2]
