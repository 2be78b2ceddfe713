"""Places for boxes and the lines between them.

All lengths are in points, x to the right, y down.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from hypergen.graph.visualize.folding import Repeat
from hypergen.graph.visualize.layout import lay_out

PADDING = 5.0
HEADER = 16.0
_ROW_GAP, _COLUMN_GAP, _LANE_GAP, _TRACK_GAP = 18.0, 24.0, 10.0, 6.0
_STRIP_GAP, _BEND = 30.0, 10.0

Point = tuple[float, float]


@dataclass
class Box:
    """An operation, or a block that is repeated, with its texts and place.

    Attributes:
        node: The operation, or the first one of the block.
        title: The operation's name, or how often the block is repeated.
        shape: The output's shape, or which modules the block stands for.
        details: Lines of text below the title.
        named: Whether the first of these lines is the module's name.
        kind: What decides the colour; empty for a block.
        width: Width.
        height: Height.
        x: Left side.
        y: Upper side.
        repeat: Number of repetitions of a block.
        level: What is inside a block.
    """

    node: int
    title: str
    shape: str
    details: list[str] = field(default_factory=list)
    named: bool = False
    kind: str = ""
    width: float = 0.0
    height: float = 0.0
    x: float = 0.0
    y: float = 0.0
    repeat: Repeat | None = None
    level: Level | None = None

    @property
    def inside(self) -> Point:
        """Where the level inside a block begins."""
        return self.x + 2 * PADDING, self.y + HEADER + PADDING

    @property
    def anchor(self) -> float:
        """What lies on the middle line of its column, from the left side: where lines arrive."""
        entries = self.level.entries if self.level else {}
        return 2 * PADDING + next(iter(entries.values())) if entries else self.width / 2

    def entry(self, source: int) -> float:
        """Where the value of a node enters from above."""
        return self.inside[0] + self.level.entries[source] if self.level else self.x + self.width / 2

    def exit(self, source: int) -> float:
        """Where the value of a node leaves below."""
        return self.inside[0] + self.level.exits[source] if self.level else self.x + self.width / 2


@dataclass
class Wire:
    """A line.

    Attributes:
        corners: From source to target, horizontal and vertical in turn.
        arrow: Whether it ends at a box.
    """

    corners: list[Point]
    arrow: bool = True


@dataclass
class Level:
    """Boxes side by side and one below the other, and the lines between them.

    Attributes:
        boxes: The boxes.
        wires: The lines between them, the entries and the exits.
        entries: Node outside → x where its value enters from above.
        exits: Node → x where its value leaves below.
        width: Width.
        height: Height.
    """

    boxes: list[Box]
    wires: list[Wire] = field(default_factory=list)
    entries: dict[int, float] = field(default_factory=dict)
    exits: dict[int, float] = field(default_factory=dict)
    width: float = 0.0
    height: float = 0.0


def place(
    boxes: Sequence[Box],
    wires: Iterable[tuple[int, int, int]],
    entries: Sequence[int],
    exits: Mapping[int, int],
) -> Level:
    """Give boxes their places, row by row, and lead the lines around them.

    Args:
        boxes: Boxes in topological order, with their sizes.
        wires: (node whose value it is, box that it leaves or -1 for an entry, box that it enters).
        entries: Nodes outside whose values come from above.
        exits: Node whose value leaves below → its box.

    Returns:
        The level that they make up.
    """
    return _Placing(boxes, sorted(wires), entries, exits).level


def side_by_side(levels: Sequence[Level]) -> Level:
    """One level of several, where the one value that leaves one at the bottom enters the next one at the top."""
    whole = Level([], height=max(level.height for level in levels) + 2 * _BEND)
    for level, following in zip(levels, [*levels[1:], None], strict=True):
        bottom = level.height
        if level is not levels[0]:
            _move(level, whole.width + _STRIP_GAP, _BEND)
            bottom += _BEND
            whole.width += _STRIP_GAP
        whole.width += level.width
        whole.boxes += level.boxes
        whole.wires += level.wires
        if following:
            ((node, out),) = level.exits.items()
            gutter, back = whole.width + _STRIP_GAP / 2, whole.width + _STRIP_GAP + following.entries[node]
            around = [(out, bottom), (out, bottom + _BEND), (gutter, bottom + _BEND), (gutter, 0.0), (back, 0.0)]
            whole.wires.append(Wire([*around, (back, _BEND)], arrow=False))
        else:
            leaving = level.exits.values()
            whole.wires += [Wire([(at, bottom), (at, whole.height)], arrow=False) for at in leaving]
    whole.entries, whole.exits = levels[0].entries, levels[-1].exits
    return whole


def one_below_the_other(levels: Sequence[Level]) -> Level:
    """One level of several, where the one value that leaves one at the bottom enters the next one at the top."""
    places, x, y = [], 0.0, 0.0
    for level, following in zip(levels, [*levels[1:], None], strict=True):
        places.append((x, y))
        if following:
            ((node, out),) = level.exits.items()
            x += out - following.entries[node]
            y += level.height
    left = min(x for x, _ in places)
    whole = Level([], height=y + levels[-1].height)
    for level, (x, y) in zip(levels, places, strict=True):
        _move(level, x - left, y)
        whole.boxes += level.boxes
        whole.wires += level.wires
        whole.width = max(whole.width, x - left + level.width)
    whole.entries, whole.exits = levels[0].entries, levels[-1].exits
    return whole


def _move(level: Level, x: float, y: float) -> None:
    for box in level.boxes:
        box.x, box.y = box.x + x, box.y + y
    for wire in level.wires:
        wire.corners = [(at + x, top + y) for at, top in wire.corners]
    level.entries = {node: at + x for node, at in level.entries.items()}
    level.exits = {node: at + x for node, at in level.exits.items()}


class _Placing:
    """Entries, boxes and exits are numbered in this order."""

    def __init__(
        self,
        boxes: Sequence[Box],
        wires: Sequence[tuple[int, int, int]],
        entries: Sequence[int],
        exits: Mapping[int, int],
    ) -> None:
        entries = _longest_first(entries, wires, len(boxes))
        number = {source: i for i, source in enumerate(entries)}
        ways = [
            (source, number[source] if leaves < 0 else leaves + len(entries), enters + len(entries))
            for source, leaves, enters in wires
        ]
        behind = len(entries) + len(boxes)
        ways += [(node, box + len(entries), behind + i) for i, (node, box) in enumerate(exits.items())]
        dots = [Box(node, "", "") for node in entries], [Box(node, "", "") for node in exits]
        self.boxes = [*dots[0], *boxes, *dots[1]]
        self.readers = Counter(target for _, _, target in ways)
        count = len(self.boxes)
        pairs = sorted({(source, target) for _, source, target in ways})
        self.layout = lay_out(count, pairs, len(entries), len(exits))
        width = self._place_columns()
        for source, leaves, enters in ways:  # straight down out of a block, if that is right above
            if enters >= behind and self.layout.row[enters] == self.layout.row[leaves] + 1:
                self.boxes[enters].x = self.boxes[leaves].exit(source)
        routes = [(self._route(*way), way[2] < behind) for way in ways]
        height = self._place_rows([route for route, _ in routes])
        self.level = Level(
            list(boxes),
            [Wire([(x, self._y(y)) for x, y in route], arrow) for route, arrow in routes],
            {box.node: box.x for box in dots[0]},
            {box.node: box.x for box in dots[1]},
            width,
            height,
        )

    def _place_columns(self) -> float:
        columns = self.layout.column
        count = max(columns, default=0) + 1
        plain, before, behind = [0.0] * count, [0.0] * count, [0.0] * count
        for box, column in zip(self.boxes, columns, strict=True):
            if box.kind:
                plain[column] = max(plain[column], box.width)
        for box, column in zip(self.boxes, columns, strict=True):
            box.width = plain[column] if box.kind else box.width  # one width for all in a column
            before[column] = max(before[column], box.anchor)
            behind[column] = max(behind[column], box.width - box.anchor)
        lanes = [place for kind, place in self.layout.channels.values() if kind == "lane"]
        self.left = x = _LANE_GAP * -min([0, *lanes])
        middles = []
        for left, right in zip(before, behind, strict=True):
            middles.append(x + left)
            x += left + right + _COLUMN_GAP
        self.right = x - _COLUMN_GAP
        for box, column in zip(self.boxes, columns, strict=True):
            box.x = middles[column] - box.anchor
        return self.right + _LANE_GAP * max([0, *lanes])

    def _route(self, source: int, leaves: int, enters: int) -> list[tuple[float, _Height]]:
        """Corners of a line: x, and y as a share of a box's height or as a track in the gap above a row."""
        above, below = self.boxes[leaves], self.boxes[enters]
        kind, number = self.layout.channels.get((leaves, enters), ("column", -1))
        row, last_row = self.layout.row[leaves], self.layout.row[enters]
        start_x, end_x = above.exit(source), below.entry(source)
        if kind == "lane" and number < 0 and above.kind and below.kind:  # out of the left side and back into it
            x = self.left + _LANE_GAP * number
            out, back = _Height(leaves, 0.7), _Height(enters, 0.3)
            return [(above.x, out), (x, out), (x, back), (below.x, back)]
        if kind == "lane":
            x = (self.left if number < 0 else self.right) + _LANE_GAP * number
        elif number < 0:
            x = start_x
        else:
            x = next((x for x, box in ((start_x, leaves), (end_x, enters)) if self.layout.column[box] == number), 0.0)
        if below.level is None and self.readers[enters] > 1 and abs(x - end_x) > 1:
            # Lines from the sides do not hide the one from above.
            offset = min(_COLUMN_GAP / 2, below.width / 4)
            end_x += offset if x > end_x else -offset
        top, bottom = _Height(leaves, 1.0), _Height(enters, 0.0)
        if last_row == row + 1:
            across = _Height(track=_Track(last_row, start_x, end_x, source, 1))
            return [(start_x, top), (start_x, across), (end_x, across), (end_x, bottom)]
        out = _Height(track=_Track(row + 1, start_x, x, source, 0))
        back = _Height(track=_Track(last_row, x, end_x, source, 2))
        return [(start_x, top), (start_x, out), (x, out), (x, back), (end_x, back), (end_x, bottom)]

    def _place_rows(self, routes: Sequence[list[tuple[float, _Height]]]) -> float:
        rows = max(self.layout.row, default=0) + 1
        gaps: dict[int, list[_Track]] = defaultdict(list)
        for route in routes:
            for _, y in route:
                if y.track and y.track not in gaps[y.track.row] and y.track.width > 0.1:
                    gaps[y.track.row].append(y.track)
        heights = [0.0] * rows
        for box, row in zip(self.boxes, self.layout.row, strict=True):
            heights[row] = max(heights[row], box.height)
        self.gap_top = [0.0] * rows
        tops, top = [0.0] * rows, 0.0
        for row in range(rows):
            self.gap_top[row] = top
            top += (_ROW_GAP + _TRACK_GAP * _stack(gaps[row])) if row else 0.0
            tops[row] = top
            top += heights[row]
        for box, row in zip(self.boxes, self.layout.row, strict=True):
            box.y = tops[row]
        return top

    def _y(self, height: _Height) -> float:
        if height.track:
            return self.gap_top[height.track.row] + _ROW_GAP / 2 + _TRACK_GAP * height.track.number
        box = self.boxes[height.box]
        return box.y + box.height * height.share


@dataclass(eq=False)
class _Track:
    """A horizontal piece of a line in the gap above a row; lines that leave boxes run above those that enter some."""

    row: int
    start: float
    end: float
    source: int
    order: int
    number: int = 0

    @property
    def width(self) -> float:
        return abs(self.end - self.start)


@dataclass
class _Height:
    box: int = -1
    share: float = 0.0
    track: _Track | None = None


def _stack(tracks: list[_Track]) -> int:
    """Number tracks so that pieces of different values lie on top of each other nowhere; the highest number."""
    placed: list[_Track] = []
    for track in sorted(tracks, key=lambda t: (t.order, t.width)):
        low, high = sorted((track.start, track.end))
        over = [t for t in placed if min(t.start, t.end) <= high + 1 and max(t.start, t.end) >= low - 1]
        same = [t.number for t in over if t.source == track.source and t.order == track.order]
        others = [t.number + 1 for t in over if t.source != track.source or t.order != track.order]
        track.number = max([0, *others, *same])
        placed.append(track)
    return max((track.number for track in tracks), default=0)


def _longest_first(entries: Sequence[int], wires: Sequence[tuple[int, int, int]], count: int) -> list[int]:
    """Entries in the order of how far it is from them to the end: what comes first runs down the middle."""
    targets: list[list[int]] = [[] for _ in range(count)]
    for _, leaves, enters in wires:
        if leaves >= 0:
            targets[leaves].append(enters)
    far = [0] * count
    for box in range(count - 1, -1, -1):
        far[box] = max((far[t] + 1 for t in targets[box]), default=0)
    length = {entry: max(far[t] for source, leaves, t in wires if leaves < 0 and source == entry) for entry in entries}
    return sorted(entries, key=lambda entry: -length[entry])
