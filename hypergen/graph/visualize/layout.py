"""Where the nodes and edges of a computational graph go in a drawing: rows, columns and lanes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Layout:
    """A layered layout, row 0 on top.

    The longest path from the first node runs down column 0. Every branch has a column to the right of it. An edge over
    several rows runs down a column where that one is free, and else through a lane: lanes -1, -2, … to the left of
    column 0, lanes 1, 2, … to the right of the last column.

    Attributes:
        row: Row of each node.
        column: Column of each node.
        channels: Edge over several rows → where it runs: ``("column", number)`` or ``("lane", number)``.
    """

    row: tuple[int, ...]
    column: tuple[int, ...]
    channels: dict[tuple[int, int], tuple[str, int]] = field(default_factory=dict)


def lay_out(count: int, edges: Sequence[tuple[int, int]], entries: int = 0, exits: int = 0) -> Layout:
    """Lay out a graph whose edges go from lower to higher nodes.

    Args:
        count: Number of nodes.
        edges: Source and target of each edge.
        entries: So many nodes, the first ones, share row 0 with nobody.
        exits: So many nodes, the last ones, share the last row with nobody.

    Returns:
        Rows, columns and channels.
    """
    targets: list[list[int]] = [[] for _ in range(count)]
    sources: list[list[int]] = [[] for _ in range(count)]
    for source, target in edges:
        targets[source].append(target)
        sources[target].append(source)
    row = _rows(targets, sources, entries, exits)
    paths = _paths(row, targets)
    column = [0] * count
    taken: dict[int, dict[int, int]] = defaultdict(dict)  # column → row → the path, or the edge's source, that has it
    for number, path in enumerate(paths):
        first = max((row[s] for s in sources[path[0]]), default=row[path[0]] - 1)
        last = max((row[t] for t in targets[path[-1]]), default=row[path[-1]] + 1)
        rows = range(first + 1, max(last, row[path[-1]] + 1))
        place = 0 if number == 0 else next(c for c in range(1, count + 1) if not taken[c].keys() & set(rows))
        taken[place].update(dict.fromkeys(rows, -1 - number))
        for node in path:
            column[node] = place
    path_of = {node: -1 - number for number, path in enumerate(paths) for node in path}
    channels: dict[tuple[int, int], tuple[str, int]] = {}
    in_lanes: list[tuple[int, int]] = []
    nodes_at = {(column[node], row[node]) for node in range(count)}
    for source, target in sorted(edges, key=lambda edge: row[edge[1]] - row[edge[0]]):
        passed = range(row[source] + 1, row[target])
        if not passed:
            continue
        for node in (target, source):
            own = (path_of[node], source)
            free = all((column[node], r) not in nodes_at and taken[column[node]].get(r, source) in own for r in passed)
            if free:
                taken[column[node]].update(dict.fromkeys(passed, source))
                channels[source, target] = ("column", column[node])
                break
        else:
            in_lanes.append((source, target))
    for side in (-1, 1):
        chosen = [(s, t) for s, t in in_lanes if (column[s] == column[t] == 0) == (side == -1)]
        channels |= {edge: ("lane", side * lane) for edge, lane in _lanes(chosen, row).items()}
    return Layout(tuple(row), tuple(column), channels)


def _rows(targets: list[list[int]], sources: list[list[int]], entries: int, exits: int) -> list[int]:
    """The length of the longest path to each node; what the first nodes do not feed moves down to its reader."""
    count = len(targets)
    on_top = max(entries, 1)
    row, fed = [0] * count, [node < on_top for node in range(count)]
    for node in range(entries, count):
        row[node] = max((row[s] + 1 for s in sources[node]), default=min(entries, 1))
        fed[node] = fed[node] or any(fed[s] for s in sources[node])
    for node in range(count - 1, on_top - 1, -1):
        if not fed[node] and targets[node]:
            row[node] = min(row[t] for t in targets[node]) - 1
    if exits:
        row[count - exits :] = [max(row[: count - exits], default=0) + 1] * exits
    return row


def _paths(row: list[int], targets: list[list[int]]) -> list[list[int]]:
    """Every node on one path, each path as long as it can be when its turn comes; the longest from node 0 first."""
    count = len(targets)
    height = [0] * count
    for node in range(count - 1, -1, -1):
        height[node] = max((height[t] + 1 for t in targets[node]), default=0)
    free, paths = [True] * count, []
    for node in range(count):
        if free[node]:
            path = [node]
            free[node] = False
            while following := [t for t in targets[path[-1]] if free[t]]:
                path.append(max(following, key=lambda t: (height[t], -row[t])))
                free[path[-1]] = False
            paths.append(path)
    return paths


def _lanes(edges: list[tuple[int, int]], row: list[int]) -> dict[tuple[int, int], int]:
    """Lanes for edges, short ones next to the nodes; edges from one source share a lane."""
    furthest: dict[int, int] = {}
    for source, target in edges:
        furthest[source] = max(furthest.get(source, 0), row[target])
    lane_of: dict[int, int] = {}
    lanes: list[list[tuple[int, int]]] = []
    for source, end in sorted(furthest.items(), key=lambda item: item[1] - row[item[0]]):
        start = row[source]
        free = (i for i, spans in enumerate(lanes) if all(end <= s or e <= start for s, e in spans))
        lane = next(free, len(lanes))
        if lane == len(lanes):
            lanes.append([])
        lanes[lane].append((start, end))
        lane_of[source] = lane + 1
    return {(source, target): lane_of[source] for source, target in edges}
