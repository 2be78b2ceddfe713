"""Computational graph → boxes and lines with their places, which a picture or a page shows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from hypergen.graph.visualize.folding import Repeat
from hypergen.graph.visualize.kinds import kind_of
from hypergen.graph.visualize.placing import HEADER, PADDING, Box, Level, one_below_the_other, place, side_by_side

if TYPE_CHECKING:
    from hypergen.graph.computational_graph import ComputationalGraph, OpNode

TITLE, BLOCK_TITLE, DETAIL = 9.0, 11.0, 7.0
LINE = 2.5
_LONGEST_LABEL = 44
_PAGE_ASPECT = 1.25  # width over height
_TALLEST = 900.0  # what is lower needs no second strip
_GAIN = 0.75


class Scene:
    """A graph as nested levels, repeated blocks folded.

    Args:
        graph: The graph.
        repeats: What :func:`~hypergen.graph.visualize.folding.fold` found; nothing is folded without.
        wrapped: Whether what is too long for a page goes on in strips side by side.
    """

    def __init__(self, graph: ComputationalGraph, repeats: Sequence[Repeat] = (), wrapped: bool = True) -> None:
        self.graph = graph
        self.wrapped = wrapped
        self.repeats = tuple(repeats)
        self.shown = [_shown(node, self.repeats) for node in range(len(graph.nodes))]
        raw: list[tuple[int, int]] = [(source, target) for source, target in graph.edges.t().tolist()]
        self.edges = sorted({(self.shown[s], t) for s, t in raw if self.shown[t] == t})
        self.raw = raw
        self.sources: list[list[int]] = [[] for _ in graph.nodes]
        for source, target in raw:
            self.sources[target].append(source)
        # How many values cross the line above a node: each from behind its source up to its last reader.
        change = np.zeros(len(graph.nodes) + 2, dtype=np.int64)
        for source, last in {source: target for source, target in self.edges}.items():
            change[[source + 1, last + 1]] += 1, -1
        self.crossing = change.cumsum()

    def level(self) -> Level:
        """The whole graph."""
        return self._part(0, len(self.graph.nodes), self.repeats)

    def _part(self, start: int, stop: int, repeats: Sequence[Repeat]) -> Level:
        """The nodes from ``start`` to ``stop`` of the first repetition, in strips if they are too many."""
        whole = self._strip(start, stop, repeats)
        wanted = round(math.sqrt(_PAGE_ASPECT * whole.height / max(whole.width, 1)))
        if not self.wrapped or whole.height <= _TALLEST or wanted < 2:
            return whole
        cuts = [(box.node, box.y) for box in whole.boxes if self._may_cut(start, box.node)]
        low, high = 0.0, whole.height
        while high - low > 1:
            limit = (low + high) / 2
            low, high = (low, limit) if _pages(cuts, whole.height, limit, wanted) else (limit, high)
        chosen = _pages(cuts, whole.height, high, wanted) or []
        strips = [self._strip(a, b, repeats) for a, b in pairwise([start, *chosen, stop])]
        if max(strip.height for strip in strips) > _GAIN * whole.height:
            return whole
        return side_by_side(strips)

    def _strip(self, start: int, stop: int, repeats: Sequence[Repeat]) -> Level:
        """Nodes from top to bottom; the columns beside a block do not start behind the block."""
        ends = {end for repeat in repeats for end in (repeat.start, repeat.stop) if start < end < stop}
        cuts = [start, *(cut for cut in sorted(ends) if self._may_cut(start, cut)), stop]
        levels = [self._level(a, b, [repeat for repeat in repeats if a <= repeat.start < b]) for a, b in pairwise(cuts)]
        return one_below_the_other(levels)

    def _may_cut(self, start: int, cut: int) -> bool:
        """Whether one value alone crosses the line above a node."""
        return cut > start and self.crossing[cut] == 1

    def _level(self, start: int, stop: int, repeats: Sequence[Repeat]) -> Level:
        boxes: list[Box] = []
        home: dict[int, int] = {}  # node → its box
        starts = {repeat.start: repeat for repeat in repeats}
        node = start
        while node < stop:
            repeat = starts.get(node)
            box = self._block(repeat) if repeat else self._operation(node)
            end = repeat.stop if repeat else node + 1
            home.update(dict.fromkeys(range(node, end), len(boxes)))
            boxes.append(box)
            node = end
        wires: set[tuple[int, int, int]] = (
            set()
        )  # the value's node, the boxes that it leaves (-1: from above) and enters
        entries: dict[int, None] = {}
        for source, target in self.edges:
            if start <= target < stop:
                if source < start:
                    entries[source] = None
                    wires.add((source, -1, home[target]))
                elif home[source] != home[target]:
                    wires.add((source, home[source], home[target]))
        # What the next repetition reads leaves a block as well as what is read behind the last one.
        leaving = {self.shown[s] for s, t in self.raw if start <= s < stop <= t}
        leaving |= {s for s, t in self.edges if start <= s < stop <= t}
        return place(boxes, wires, sorted(entries), {node: home[node] for node in sorted(leaving)})

    def _operation(self, number: int) -> Box:
        node, shapes = self.graph.nodes[number], self.graph.parameter_shapes
        box = Box(number, node.op, dimensions(node.shape), kind=kind_of(node.op))
        name = self._local_name(number, node)
        box.details, box.named = [_shortened(name)] if name else [], bool(name)
        roles = [f"{_shortened(role)} {dimensions(shapes[name])}" for role, name in node.parameters.items()]
        roles += [f"{_shortened(role)} (shared)" for role in node.shared]
        box.details += _lines(roles)
        title = text_width(box.title, TITLE, bold=True) + 10 + text_width(box.shape, DETAIL)
        box.width = max([title, *(text_width(text, DETAIL) for text in box.details)]) + 2 * PADDING
        box.height = 2 * PADDING + TITLE + len(box.details) * (DETAIL + LINE)
        return box

    def _local_name(self, number: int, node: OpNode) -> str:
        """The module's name, relative to the repeated block that it lies in."""
        prefix, repeats = "", self.repeats
        while repeat := next((r for r in repeats if r.start <= number < r.stop), None):
            names = repeat.modules[0]
            prefix = names[0] if len(set(names)) == 1 else prefix
            repeats = repeat.inner
        if not prefix or not (node.module + ".").startswith(prefix + "."):
            return node.module
        return node.module[len(prefix) + 1 :]

    def _block(self, repeat: Repeat) -> Box:
        level = self._part(repeat.start, repeat.start + repeat.length, repeat.inner)
        box = Box(repeat.start, f"× {repeat.count}", _shortened(repeat.label, 60), repeat=repeat, level=level)
        text = text_width(box.title, BLOCK_TITLE, bold=True) + 8 + text_width(box.shape, DETAIL)
        entry = max(level.entries.values(), default=0.0)
        box.width = max(level.width, entry + text + PADDING) + 4 * PADDING
        box.height = level.height + HEADER + 2 * PADDING
        return box


def _pages(cuts: Sequence[tuple[int, float]], height: float, limit: float, count: int) -> list[int] | None:
    """Which of the cuts (node, y) make at most ``count`` pages of at most this height; None where none do."""
    chosen: list[int] = []
    top = 0.0
    for (node, y), (_, bottom) in pairwise([*cuts, (-1, height)]):
        if bottom - top > limit:
            chosen.append(node)
            top = y
        if bottom - top > limit or len(chosen) >= count:
            return None
    return chosen if cuts else None


def dimensions(shape: Iterable[int]) -> str:
    """A shape in words."""
    return "×".join(str(size) for size in shape) or "scalar"


def _shown(node: int, repeats: Sequence[Repeat]) -> int:
    """The node that is drawn for this one: the same one of the first repetition."""
    for repeat in repeats:
        if repeat.start <= node < repeat.stop:
            return _shown(repeat.start + (node - repeat.start) % repeat.length, repeat.inner)
    return node


def _shortened(text: str, length: int = _LONGEST_LABEL) -> str:
    return text if len(text) <= length else f"{text[: length // 2]}…{text[1 - length // 2 :]}"


def _lines(texts: list[str]) -> list[str]:
    """Texts side by side as long as they fit into a line."""
    lines: list[str] = []
    for text in texts:
        if lines and len(lines[-1]) + len(text) < _LONGEST_LABEL:
            lines[-1] += f", {text}"
        else:
            lines.append(text)
    return lines


def text_width(text: str, size: float, bold: bool = False) -> float:
    """Width of a line of text."""
    return size * sum(_advance(character, bold) for character in text)


@lru_cache(maxsize=4096)
def _advance(character: str, bold: bool) -> float:
    """Width of a character in a font of size 1."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    def width(text: str) -> float:
        font = FontProperties(size=100, weight="bold" if bold else "normal")
        return float(text_to_path.get_text_width_height_descent(text, font, False)[0])

    # Between others, because a blank at an end has no width; hinting makes texts wider than their outlines.
    return 1.06 * (width(f"|{character}|") - width("||")) / 100
