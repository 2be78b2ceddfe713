"""Which graphs a generator was trained on, and how far from them a graph is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hypergen.graph import ComputationalGraph
from hypergen.graph.operations import SHAPE_OPS
from hypergen.graph.vocabulary import OPERATIONS

_NUMBERS = {op: number for number, op in enumerate(OPERATIONS)}
_KINDS = len(OPERATIONS) + 1  # the last is that of all others
_SIZES = 2  # nodes and values, in units of about a factor 16
_DIMS = 4  # dimensions of an input or an output that are compared, without the batch axis
_SHOWN = 6


@dataclass(frozen=True)
class GraphDescription:
    """What a graph is compared by.

    Attributes:
        point: Root of the share of each operation, and two sizes, ``[num_operations + 1 + 2]``, float32: how networks
            are spelled in reshapes makes no difference.
        sides: Shape of the input and of the output without the batch axis, filled with zeros, ``[2 · 4]``, int64.
        values: How many numbers the parameters hold.
        unknown: Operations without a type of their own.
    """

    point: Tensor
    sides: Tensor
    values: int
    unknown: tuple[str, ...] = ()


def describe_graph(graph: ComputationalGraph) -> GraphDescription:
    """Describe a graph for :class:`TrainingGraphs`."""
    counts = torch.zeros(_KINDS)
    operations = [node.op for node in graph.nodes if node.op not in SHAPE_OPS]
    for op in operations:
        counts[_NUMBERS.get(op, len(OPERATIONS))] += 1
    values = sum(math.prod(shape) for shape in graph.parameter_shapes.values())
    sizes = torch.tensor([math.log2(1 + len(operations)), math.log2(1 + values)]) / 4
    inputs = next((node.shape[1:] for node in graph.nodes if node.op == "input"), ())
    outputs = graph.nodes[graph.outputs[0]].shape[1:] if graph.outputs else ()
    sides = [size for shape in (inputs, outputs) for size in (*shape[:_DIMS], *[0] * (_DIMS - len(shape)))]
    unknown = tuple(sorted({op for op in operations if op not in _NUMBERS}))
    return GraphDescription(
        torch.cat([(counts / max(len(operations), 1)).sqrt(), sizes]), torch.tensor(sides), values, unknown
    )


class TrainingGraphs(nn.Module):
    """A few training graphs that cover all of them.

    They are chosen one after the other, each the farthest from those before it (Gonzalez, "Clustering to Minimize the
    Maximum Intercluster Distance", 1985): no training graph is farther from the nearest of them than ``radius``.

    Args:
        count: How many are kept.

    Shapes:
        ``points``: ``[count, num_operations + 3]``; ``sides``: ``[2, 8]``, the least and the greatest in training.
    """

    points: Tensor
    sides: Tensor
    radius: Tensor
    values: Tensor
    operations: Tensor

    def __init__(self, count: int = 128) -> None:
        super().__init__()
        self.register_buffer("points", torch.zeros(count, _KINDS + _SIZES))
        self.register_buffer("sides", torch.zeros(2, 2 * _DIMS, dtype=torch.int64))
        self.register_buffer("radius", torch.full((), math.inf))
        self.register_buffer("values", torch.zeros(2, dtype=torch.int64))
        self.register_buffer("operations", torch.ones(_KINDS, dtype=torch.bool))

    def cover(self, descriptions: Sequence[GraphDescription]) -> None:
        """Take what training showed.

        Args:
            descriptions: Those of the training graphs; fewer than are kept repeat.
        """
        points = torch.stack([description.point for description in descriptions])
        chosen = [0]
        distances = (points - points[0]).norm(dim=1)
        while len(chosen) < len(self.points):
            chosen.append(int(distances.argmax()))
            distances = torch.minimum(distances, (points - points[chosen[-1]]).norm(dim=1))
        sides = torch.stack([description.sides for description in descriptions])
        values = [description.values for description in descriptions]
        self.points.copy_(points[chosen])
        self.radius.fill_(float(distances.max()))
        self.sides.copy_(torch.stack([sides.amin(0), sides.amax(0)]))
        self.values.copy_(torch.tensor([min(values), max(values)]))
        self.operations.copy_((points[:, :_KINDS] > 0).any(0))

    def differences(self, graph: ComputationalGraph) -> tuple[str, ...]:
        """In which respects a graph is unlike all training graphs, in words.

        Returns:
            A clause for each of: its input, its output, its number of parameters, its operations, and its distance to
            the nearest; none where it is like them, or where nothing is known of training.
        """
        if not math.isfinite(float(self.radius)):
            return ()
        description, found = describe_graph(graph), []
        for name, part in (("input", slice(0, _DIMS)), ("output", slice(_DIMS, 2 * _DIMS))):
            own, low, high = description.sides[part], self.sides[0, part], self.sides[1, part]
            if bool(((own < low) | (own > high)).any()):
                seen = _shape(low) if torch.equal(low, high) else f"{_shape(low)} to {_shape(high)}"
                found.append(f"{name} {_shape(own)}, in training {seen}")
        low, high = self.values.tolist()
        if not low <= description.values <= high:
            found.append(f"{description.values:,} parameters, in training {low:,} to {high:,}")
        new = (description.point[:_KINDS] > 0) & ~self.operations
        names = [OPERATIONS[i] for i in new.nonzero().flatten().tolist() if i < len(OPERATIONS)]
        if bool(new[-1]):
            names += description.unknown
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            found.append(f"operations that training never showed: {', '.join(names[:_SHOWN])}{more}")
        distance = float((self.points - description.point).norm(dim=1).min())
        if distance > float(self.radius):
            found.append(
                f"its graph is {distance:.2f} from the nearest training graph, and no training graph is farther than "
                f"{float(self.radius):.2f}"
            )
        return tuple(found)


def _shape(sides: Tensor) -> list[int]:
    return [size for size in sides.tolist() if size]
