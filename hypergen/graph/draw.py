"""Computational graph → picture."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypergen.graph.layout import Layout, lay_out
from hypergen.graph.operations import SHAPE_OPS

if TYPE_CHECKING:
    from hypergen.graph.computational_graph import ComputationalGraph, OpNode

FORMATS = (".svg", ".png", ".pdf")

# Kind of operation → its colour, and its operations: those whose names hold one of these words.
_KINDS = {
    "input": ("#d9d9d9", ("input",)),
    "attention": ("#f4a6a0", ("attention",)),
    "recurrent": ("#e3a3cf", ("lstm", "gru", "rnn")),
    "norm": ("#b5dcae", ("norm",)),
    "embedding": ("#a5dcd6", ("embedding",)),
    "weights": ("#a9c8ec", ("conv", "linear", "addmm", "matmul", "bmm", "einsum", "bilinear")),
    "pooling": ("#cbb8e3", ("pool", "mean", "sum", "amax", "interpolate", "upsample")),
    "arithmetic": ("#f6e29a", ("add", "sub", "mul", "div", "pow", "sqrt", "cat", "stack", "neg", "where", "setitem")),
    "activation": (
        "#f7c08a",
        ("relu", "elu", "gelu", "silu", "swish", "mish", "tanh", "sigmoid", "softmax", "softplus", "softsign", "exp"),
    ),
    "shape": ("#efefef", ()),
    "other": ("#ffffff", ()),
}

# All lengths are in points.
_TITLE, _DETAIL = 8.5, 6.5
_PADDING, _LINE = 5.0, 2.5
_ROW_GAP, _COLUMN_GAP, _LANE_GAP, _MARGIN = 18.0, 24.0, 10.0, 18.0
_LONGEST_LABEL = 44
_RADIUS = 6.0
_MAX_PIXELS = 4e7
_INK, _GREY, _EDGE = "#1f2328", "#6b7280", "#8a93a0"


def kind_of(op: str) -> str:
    """The kind of an operation, which decides its colour."""
    if op in SHAPE_OPS:
        return "shape"
    return next((kind for kind, (_, words) in _KINDS.items() if any(word in op for word in words)), "other")


def draw(graph: ComputationalGraph, path: str | Path) -> None:
    """Draw a graph from top to bottom: nodes as boxes, branches side by side, skip connections around them.

    Args:
        graph: The graph.
        path: Where to; the suffix, ``.svg``, ``.png`` or ``.pdf``, decides the format.

    Raises:
        ValueError: The suffix is none of these.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"cannot draw a graph as {path.name!r}; the file name should end in {', '.join(FORMATS)}")
    from matplotlib.figure import Figure

    picture = _Picture(graph)
    width, height = picture.size
    figure = Figure(figsize=(width / 72, height / 72))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    picture.draw_onto(axes)
    dpi = min(150.0, 72 * (_MAX_PIXELS / (width * height)) ** 0.5, 72 * 60000 / max(width, height))
    figure.savefig(path, dpi=dpi, facecolor="white")


def _dimensions(shape: tuple[int, ...]) -> str:
    return "×".join(str(size) for size in shape) or "scalar"


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_LABEL else f"{text[: _LONGEST_LABEL // 2]}…{text[1 - _LONGEST_LABEL // 2 :]}"


def _lines(texts: list[str]) -> list[str]:
    """Texts side by side as long as they fit into a line."""
    lines: list[str] = []
    for text in texts:
        if lines and len(lines[-1]) + len(text) < _LONGEST_LABEL:
            lines[-1] += f"   {text}"
        else:
            lines.append(text)
    return lines


class _Box:
    """A node with its texts and their extent."""

    def __init__(self, node: OpNode, graph: ComputationalGraph) -> None:
        self.kind = kind_of(node.op)
        self.title = node.op
        self.shape = _dimensions(node.shape)
        self.details = [(_shortened(node.module), _GREY)] if node.module else []
        roles = [
            f"{_shortened(role)} {_dimensions(graph.parameter_shapes[name])}" for role, name in node.parameters.items()
        ]
        self.details += [(line, _INK) for line in _lines(roles)]
        title_width = _text_width(self.title, _TITLE, bold=True) + 10 + _text_width(self.shape, _DETAIL)
        self.width = max([title_width, *(_text_width(text, _DETAIL) for text, _ in self.details)]) + 2 * _PADDING
        self.height = 2 * _PADDING + _TITLE + len(self.details) * (_DETAIL + _LINE)
        self.x = self.y = 0.0  # the centre, and the top


def _text_width(text: str, size: float, bold: bool = False) -> float:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=size, weight="bold" if bold else "normal")
    return 1.03 * float(text_to_path.get_text_width_height_descent(text, font, False)[0])  # hinting makes it wider


class _Picture:
    """Boxes and edges with their places."""

    def __init__(self, graph: ComputationalGraph) -> None:
        self.boxes = [_Box(node, graph) for node in graph.nodes]
        self.edges: list[tuple[int, int]] = [(source, target) for source, target in graph.edges.t().tolist()]
        self.indegree = Counter(target for _, target in self.edges)
        self.layout: Layout = lay_out(len(self.boxes), self.edges)
        lanes = [place for kind, place in self.layout.channels.values() if kind == "lane"]
        left = _MARGIN + _LANE_GAP * -min([0, *lanes])

        widths = [0.0] * (max(self.layout.column, default=0) + 1)
        for box, column in zip(self.boxes, self.layout.column, strict=True):
            widths[column] = max(widths[column], box.width)
        self.column_x: list[float] = []
        x = left
        for width in widths:
            self.column_x.append(x + width / 2)
            x += width + _COLUMN_GAP
        self.left, self.right = left, x - _COLUMN_GAP

        self.legend = [kind for kind in _KINDS if any(box.kind == kind for box in self.boxes)]
        heights = [0.0] * (max(self.layout.row, default=0) + 1)
        for box, row in zip(self.boxes, self.layout.row, strict=True):
            heights[row] = max(heights[row], box.height)
        self.row_top: list[float] = []
        y = _MARGIN + _DETAIL + _MARGIN
        for height in heights:
            self.row_top.append(y)
            y += height + _ROW_GAP
        self.row_height = heights
        for box, row, column in zip(self.boxes, self.layout.row, self.layout.column, strict=True):
            box.x, box.y, box.width = self.column_x[column], self.row_top[row], widths[column]
        legend_width = sum(_text_width(kind, _DETAIL) + 24 for kind in self.legend) + 2 * _MARGIN
        width = max(self.right + _LANE_GAP * max([0, *lanes]) + _MARGIN, legend_width)
        self.size = width, y - _ROW_GAP + _MARGIN

    def draw_onto(self, axes: Any) -> None:
        from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
        from matplotlib.path import Path as Outline

        for source, target in self.edges:
            vertices, codes = self._route(source, target)
            arrow = FancyArrowPatch(
                path=Outline(vertices, codes),
                arrowstyle="-|>,head_length=3.2,head_width=1.7",
                color=_EDGE,
                linewidth=1.0,
                joinstyle="round",
                capstyle="butt",
                zorder=1,
            )
            axes.add_artist(arrow)
        for box in self.boxes:
            corner = (box.x - box.width / 2, box.y)
            style = "round,pad=0,rounding_size=4"
            colour = _KINDS[box.kind][0]
            axes.add_artist(
                FancyBboxPatch(
                    corner, box.width, box.height, style, facecolor=colour, edgecolor="#5c6470", linewidth=0.7, zorder=2
                )
            )
            self._write(axes, box)
        x = _MARGIN
        for kind in self.legend:
            mark = FancyBboxPatch(
                (x, _MARGIN - 4),
                8,
                8,
                "round,pad=0,rounding_size=2",
                facecolor=_KINDS[kind][0],
                edgecolor="#5c6470",
                linewidth=0.6,
            )
            axes.add_artist(mark)
            axes.text(x + 12, _MARGIN, kind, fontsize=_DETAIL, color=_GREY, va="center_baseline")
            x += _text_width(kind, _DETAIL) + 24

    @staticmethod
    def _write(axes: Any, box: _Box) -> None:
        left, right = box.x - box.width / 2 + _PADDING, box.x + box.width / 2 - _PADDING
        baseline = box.y + _PADDING + _TITLE * 0.8
        axes.text(left, baseline, box.title, fontsize=_TITLE, color=_INK, weight="bold", va="baseline", zorder=3)
        axes.text(right, baseline, box.shape, fontsize=_DETAIL, color=_GREY, ha="right", va="baseline", zorder=3)
        for text, colour in box.details:
            baseline += _DETAIL + _LINE
            axes.text(left, baseline, text, fontsize=_DETAIL, color=colour, va="baseline", zorder=3)

    def _route(self, source: int, target: int) -> tuple[list[tuple[float, float]], list[int]]:
        """Vertices and codes of an edge's outline."""
        above, below = self.boxes[source], self.boxes[target]
        kind, place = self.layout.channels.get((source, target), ("column", -1))
        if kind == "lane" and place < 0:  # out of the left side and back into it
            x = self.left + _LANE_GAP * place
            start = above.x - above.width / 2, above.y + above.height * 0.7
            end = below.x - below.width / 2, below.y + below.height * 0.3
            return _rounded([start, (x, start[1]), (x, end[1]), end])
        row, last_row = self.layout.row[source], self.layout.row[target]
        start, end = (above.x, above.y + above.height), (below.x, below.y)
        if place == -1:
            x = above.x
        else:
            x = self.column_x[place] if kind == "column" else self.right + _LANE_GAP * place
        # Sideways only between rows, where no boxes are.
        leaving = self.row_top[row] + self.row_height[row] + _ROW_GAP / 2
        arriving = self.row_top[last_row] - _ROW_GAP / 2
        # Arrows from the sides do not hide the one from above.
        offset = min(_COLUMN_GAP / 2, below.width / 4) if self.indegree[target] > 1 else 0.0
        end_x = below.x + (offset if x > below.x else -offset if x < below.x else 0.0)
        corners = [start, (start[0], leaving), (x, leaving), (x, arriving), (end_x, arriving), (end_x, end[1])]
        return _rounded(corners)


def _rounded(corners: list[tuple[float, float]]) -> tuple[list[tuple[float, float]], list[int]]:
    """Vertices and codes of an outline from corner to corner, horizontal and vertical in turn, with round corners."""
    corners = [corners[0], *(corner for before, corner in pairwise(corners) if corner != before)]
    vertices, codes = [corners[0]], [1]
    for before, corner, after in zip(corners, corners[1:], corners[2:], strict=False):
        for other, code in ((before, 2), (after, 3)):
            dx, dy = other[0] - corner[0], other[1] - corner[1]
            length = abs(dx) + abs(dy)
            share = min(_RADIUS / length, 0.5)
            point = (corner[0] + dx * share, corner[1] + dy * share)
            vertices += [point] if code == 2 else [corner, point]
            codes += [2] if code == 2 else [3, 3]
    return [*vertices, corners[-1]], [*codes, 2]
