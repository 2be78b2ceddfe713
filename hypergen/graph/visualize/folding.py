"""Repeated blocks of a computational graph, found from the graph alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from os.path import commonprefix
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from hypergen.graph.computational_graph import ComputationalGraph, OpNode

_LEAST_SAVED = 4  # nodes; to fold less explains nothing
_LISTS = frozenset(("cat", "stack"))  # operations to which any number of equal tensors may go


@dataclass(frozen=True)
class Repeat:
    """A block of nodes that is followed by equal ones.

    Repetition ``r`` consists of the nodes ``start + r * length`` up to ``start + (r + 1) * length``. Equal means: the
    same operations, attributes, shapes and parameter roles in the same order, and the same edges, where each repetition
    reads what the one before it made, or all read the same from outside.

    Attributes:
        start: First node of the first repetition.
        length: Nodes in one repetition.
        count: Number of repetitions.
        modules: Which modules each repetition stands for: the name of the one it is, or the first and the last of
            several; empty where modules do not tell.
        inner: Repeats inside the first repetition.
    """

    start: int
    length: int
    count: int
    modules: tuple[tuple[str, ...], ...]
    inner: tuple[Repeat, ...] = ()

    @property
    def stop(self) -> int:
        """The node behind the last repetition."""
        return self.start + self.length * self.count

    @property
    def label(self) -> str:
        """What is repeated, in one line: ``blocks.0 … 11``."""
        first, last = self.modules[0], self.modules[-1]
        if not first or first == last:
            return "–".join(dict.fromkeys(first))
        home = first[0].split(".")
        shared = min(len(commonprefix([home, name.split(".")])) for name in (*first, *last))
        one, other = (
            "–".join(dict.fromkeys(".".join(name.split(".")[shared:]) for name in names)) for names in (first, last)
        )
        stem = one.rstrip("0123456789")
        if stem == other.rstrip("0123456789"):  # block_0 … 11
            other = other[len(stem) :]
        return ".".join([*home[:shared], f"{one} … {other}"])


def fold(graph: ComputationalGraph) -> tuple[Repeat, ...]:
    """The repeated blocks of a graph, those that save most nodes first chosen, with repeats inside them.

    Blocks that differ in anything but names, as in shapes, are not equal. Nor do blocks repeat that are read from
    outside, unless it is the last one alone, or all of them alike are part of one list (of the network's outputs, or
    that ``cat`` takes): to fold others would hide where an edge starts.

    Args:
        graph: The graph.

    Returns:
        Repeats in the order of their nodes, without overlap.
    """
    return _Folder(graph).repeats(0, len(graph.nodes))


class _Folder:
    def __init__(self, graph: ComputationalGraph) -> None:
        numbers: dict[Any, int] = {}
        self.ops = [node.op for node in graph.nodes]
        self.modules = [tuple(node.module.split(".")) if node.module else () for node in graph.nodes]
        self.sources = graph.incoming
        self.targets = [list(targets) for targets in graph.outgoing]
        for node in graph.outputs:  # the caller reads them
            self.targets[node].append(len(graph.nodes))
        keys = ((_signature(node, graph), len(self.sources[i])) for i, node in enumerate(graph.nodes))
        self.kinds = np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)

    def repeats(self, start: int, stop: int) -> tuple[Repeat, ...]:
        """The repeats among the nodes from ``start`` to ``stop``."""
        pending, found = [(start, stop)], []
        while pending:
            start, stop = pending.pop()
            best = self._best(start, stop)
            if best is not None:
                inner = self.repeats(best.start, best.start + best.length)
                found.append(replace(best, inner=inner))
                pending += [(start, best.start), (best.stop, stop)]
        return tuple(sorted(found, key=lambda repeat: repeat.start))

    def _best(self, start: int, stop: int) -> Repeat | None:
        best: Repeat | None = None
        saved = _LEAST_SAVED - 1
        for most, length, first, last in self._candidates(start, stop):
            if most <= saved:
                break
            repeat = self._placed(length, first, last)
            if repeat is not None and repeat.length * (repeat.count - 1) > saved:
                best, saved = repeat, repeat.length * (repeat.count - 1)
        return best

    def _candidates(self, start: int, stop: int) -> list[tuple[int, int, int, int]]:
        """(Nodes that would be saved at most, period, first node, node behind the last) of periodic stretches."""
        found = []
        for length in range(1, (stop - start) // 2 + 1):
            equal = self.kinds[start : stop - length] == self.kinds[start + length : stop]
            changes = np.flatnonzero(np.diff(np.concatenate(([0], equal.view(np.int8), [0]))))
            for first, last in changes.reshape(-1, 2).tolist():
                if last - first >= length:
                    most = (last - first) // length * length
                    found.append((most, length, start + first, start + last + length))
        return sorted(found, key=lambda candidate: (-candidate[0], candidate[1:]))

    def _placed(self, length: int, first: int, last: int) -> Repeat | None:
        """The best place for blocks of this length in a periodic stretch.

        Cuts between modules, as far out in the tree of modules as can be, come before cuts inside of them; then those
        that few values cross; then those that leave the most repetitions.
        """

        def depth(phase: int) -> int:
            cuts = range(phase + length, last - length + 1, length)
            return max(len(commonprefix([self.modules[cut - 1], self.modules[cut]])) for cut in cuts)

        phases: dict[int, list[int]] = defaultdict(list)
        for phase in range(first, min(first + length, last - 2 * length + 1)):
            phases[depth(phase)].append(phase)
        best: Repeat | None = None
        for _, group in sorted(phases.items()):
            runs = [run for phase in group for run in self._runs(length, phase, last)]
            most = max((count for _, count, _ in runs), default=0)
            if most > (best.count if best else 0) + 1:
                runs = [(crossing, -count, at) for crossing, count, at in runs if count >= most - 1]
                _, count, at = min(runs)
                best = self._repeat(at, length, -count)
        return best

    def _repeat(self, start: int, length: int, count: int) -> Repeat:
        blocks = [self.modules[at : at + length] for at in range(start, start + length * count, length)]
        homes = [tuple(commonprefix(block)) for block in blocks]
        if len(set(homes)) == count and all(homes):
            return Repeat(start, length, count, tuple((".".join(home),) for home in homes))
        shared = len(commonprefix(homes))
        for depth in range(shared + 1, max(map(len, self.modules[start : start + length])) + 1):
            parts = [list(dict.fromkeys(".".join(m[:depth]) for m in block if shared < len(m))) for block in blocks]
            if any(part != parts[0] for part in parts):
                return Repeat(start, length, count, tuple((part[0], part[-1]) if part else () for part in parts))
        # The same modules again and again.
        return Repeat(start, length, count, ((".".join(homes[0]),) if homes[0] else (),) * count)

    def _runs(self, length: int, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """(Values that cross a cut, count, first node) of the longest valid run of blocks from this start on."""
        count = (stop - start) // length
        inputs = [self._inputs(start + r * length, length) for r in range(count)]
        alike = [before == after for before, after in pairwise(inputs)]
        r = 0
        while r < count - 1:
            end = r + 1  # the last block of the run
            if not self._may_follow(start + r * length, length, inputs[r + 1]):
                r += 1
                continue
            while end < count - 1 and alike[end]:
                end += 1
            while end > r and not self._read_alike(start + r * length, length, end - r + 1):
                end -= 1
            if end > r:
                carried = {at for kind, at in inputs[r + 1] if kind == "before"}
                yield len(carried), end - r + 1, start + r * length
            r = max(end, r + 1)

    def _may_follow(self, start: int, length: int, after: list[tuple[str, int]]) -> bool:
        """Whether a block may be the first of a run: of its links, only those to the block before may be other ones."""
        sources = [source for node in range(start, start + length) for source in self.sources[node]]
        return all(
            source - start == at if kind == "inside" else source < start and (kind == "before" or source == at)
            for source, (kind, at) in zip(sources, after, strict=True)
        )

    def _inputs(self, start: int, length: int) -> list[tuple[str, int]]:
        """Where the edges into a block come from: inside it, the block before, or anywhere else."""
        found = []
        for node in range(start, start + length):
            for source in self.sources[node]:
                if source >= start:
                    found.append(("inside", source - start))
                elif source >= start - length:
                    found.append(("before", source - start))
                else:
                    found.append(("outside", source))
        return found

    def _read_alike(self, start: int, length: int, count: int) -> bool:
        """Whether outside of the blocks the last one alone is read, or all in the same way."""
        stop = start + length * count

        def readers(block: int) -> set[tuple[int, int]]:
            nodes = range(start + block * length, start + (block + 1) * length)
            return {(node - nodes.start, t) for node in nodes for t in self.targets[node] if t >= stop}

        first = readers(0)
        if any(target < len(self.ops) and self.ops[target] not in _LISTS for _, target in first):
            return False
        if any(readers(block) != first for block in range(1, count - 1)):
            return False
        return not first or readers(count - 1) >= first


def _signature(node: OpNode, graph: ComputationalGraph) -> Any:
    shapes = graph.parameter_shapes
    read = [sorted((role, shapes[name]) for role, name in roles.items()) for roles in (node.parameters, node.shared)]
    return node.op, node.shape, repr(sorted(node.attributes.items())), repr(read)
