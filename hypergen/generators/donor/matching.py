"""Which layers of two traced networks belong together: by operation, role, sizes and order, never by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hypergen.generators.donor.layers import Layer, layers_of
from hypergen.graph import ComputationalGraph

Depth = Literal["even", "stack", "first", "last", "identity"]
DEPTHS: tuple[Depth, ...] = ("even", "stack", "first", "last", "identity")

_SKIP = (
    0.02  # What a layer without a partner costs: less than any match is worth, so that gaps lie where they save most.
)


@dataclass(frozen=True)
class LayerPair:
    """A layer of the target and the layer of the donor that it starts from.

    Attributes:
        target: The target's layer.
        donor: The donor's layer.
        block: Number of the repeated block that the target's layer belongs to, counted from the first; None outside.
        new: Whether the block has no partner of its own in the donor and repeats another block's layers.
    """

    target: Layer
    donor: Layer
    block: int | None = None
    new: bool = False


def match_layers(target: ComputationalGraph, donor: ComputationalGraph, depth: Depth = "even") -> list[LayerPair]:
    """Pair the layers of two networks.

    Runs of equal blocks are found in both networks and paired as runs, so that networks of different depth are mapped
    block by block; what lies between is aligned in order (Needleman and Wunsch, 1970), gaps where they cost least.

    Args:
        target: Graph of the network that is initialised.
        donor: Graph of the trained network.
        depth: Which block of the donor each block of a longer or shorter run starts from: ``"even"`` spaces them out
            (repeats neighbours when growing, skips when shrinking), ``"stack"`` counts round and round, ``"first"``
            and ``"last"`` keep one end, ``"identity"`` is ``"even"`` with added blocks marked as new.

    Returns:
        At most one pair per layer of the target, in its order.
    """
    theirs, ours = layers_of(donor), layers_of(target)
    units = {*_units(ours), *_units(theirs)}
    runs_ours, runs_theirs = _runs(ours, units), _runs(theirs, units)
    best = [[0.0] * (len(theirs) + 1) for _ in range(len(ours) + 1)]
    step: list[list[tuple[int, int, int]]] = [[(0, 0, 0)] * (len(theirs) + 1) for _ in range(len(ours) + 1)]
    for i in range(len(ours), -1, -1):
        for j in range(len(theirs), -1, -1):
            choices: list[tuple[float, tuple[int, int, int]]] = []
            if i < len(ours):
                choices.append((best[i + 1][j] - _SKIP, (1, 0, 0)))
            if j < len(theirs):
                choices.append((best[i][j + 1] - _SKIP, (0, 1, 0)))
            if i < len(ours) and j < len(theirs):
                worth = _similarity(ours[i], theirs[j])
                if worth:
                    choices.append((best[i + 1][j + 1] + worth, (1, 1, 0)))
                for unit in runs_ours[i].keys() & runs_theirs[j].keys():
                    mine, its = runs_ours[i][unit], runs_theirs[j][unit]
                    size = len(unit)
                    worth = mine * sum(_similarity(ours[i + k], theirs[j + k]) for k in range(size))
                    worth += 0.01 - _SKIP / 2 * size * abs(mine - its)
                    choices.append((best[i + mine * size][j + its * size] + worth, (mine, its, size)))
            if choices:
                best[i][j], step[i][j] = max(choices)
    return _read(ours, theirs, step, depth)


def _read(
    ours: list[Layer], theirs: list[Layer], step: list[list[tuple[int, int, int]]], depth: Depth
) -> list[LayerPair]:
    pairs: list[LayerPair] = []
    i = j = 0
    while i < len(ours) or j < len(theirs):
        mine, its, size = step[i][j]
        if size:
            for number, (block, new) in enumerate(_blocks(mine, its, depth)):
                for k in range(size):
                    pairs.append(LayerPair(ours[i + number * size + k], theirs[j + block * size + k], number, new))
            i, j = i + mine * size, j + its * size
            continue
        if mine and its:
            pairs.append(LayerPair(ours[i], theirs[j]))
        i, j = i + mine, j + its
    return pairs


def _blocks(mine: int, its: int, depth: Depth) -> list[tuple[int, bool]]:
    """For every block of the target: the donor's block, and whether it is an additional one."""
    if depth == "stack":
        chosen = [number % its for number in range(mine)]
    elif depth == "first":
        chosen = [min(number, its - 1) for number in range(mine)]
    elif depth == "last":
        chosen = [max(number - mine + its, 0) for number in range(mine)]
    elif mine >= its:
        chosen = [number * its // mine for number in range(mine)]
    else:
        chosen = [round(number * (its - 1) / (mine - 1)) if mine > 1 else its // 2 for number in range(mine)]
    seen: set[int] = set()
    result = []
    for block in chosen:
        result.append((block, depth == "identity" and block in seen))
        seen.add(block)
    return result


def _similarity(one: Layer, other: Layer) -> float:
    """From 0, which is no match, to 1."""
    if one.kind != other.kind:
        return 0.0
    agreeing = sum(a == b for a, b in zip(one.settings, other.settings, strict=True)) / len(one.settings)
    apart = sum(abs(a - b) for a, b in zip(one.sizes, other.sizes, strict=True))
    return 0.65 + 0.33 * agreeing + 0.02 / (1 + apart)


Unit = tuple[tuple[object, ...], ...]


def _signature(layer: Layer) -> tuple[object, ...]:
    return (layer.kind, layer.settings)


def _units(layers: Sequence[Layer]) -> set[Unit]:
    """Blocks of layers that follow themselves at least once, the shortest period of every run."""
    signatures = [_signature(layer) for layer in layers]
    units: set[Unit] = set()
    start = 0
    while start < len(signatures):
        for size in range(1, (len(signatures) - start) // 2 + 1):
            if signatures[start : start + size] == signatures[start + size : start + 2 * size]:
                units.add(tuple(signatures[start : start + size]))
                break
        start += 1
    return units


def _runs(layers: Sequence[Layer], units: set[Unit]) -> list[dict[Unit, int]]:
    """For every layer: the units that start there, with how often they follow each other."""
    signatures = [_signature(layer) for layer in layers]
    found: list[dict[Unit, int]] = []
    for start in range(len(signatures)):
        here: dict[Unit, int] = {}
        for unit in units:
            count, size = 0, len(unit)
            while tuple(signatures[start + count * size : start + (count + 1) * size]) == unit:
                count += 1
            if count:
                here[unit] = count
        found.append(here)
    return found
