"""Initial scales and learning rates from the shape of the computational graph.

Chen et al., *Principled Architecture-aware Scaling of Hyperparameters*, 2024, arXiv 2402.17440.
"""

from __future__ import annotations

import math
from collections import Counter

from hypergen.graph import ComputationalGraph
from hypergen.graph.parameter_spec import AxisRole


def architecture_aware_scales(
    graph: ComputationalGraph, base: ComputationalGraph
) -> dict[str, tuple[float, float | None, float]]:
    """Multiplier, initial standard deviation and learning rate of the weights that multiply.

    ``std = sqrt(2 / (fan_in · d))`` with d the number of values that are added up where the layer's input is made, and
    ``2 / fan_in`` for the last layer; ``lr ∝ (Σ_p L_p³)^(-1/2)`` over all paths p from input to output, L_p the number
    of layers on a path, and in proportion to 3 / kernel size for convolutions. Paths are counted by dynamic
    programming, not listed.
    """
    rate = math.exp((_log_path_cubes(base) - _log_path_cubes(graph)) / 2)
    kernels = [_mean_kernel(each) for each in (graph, base)]
    rate *= kernels[1] / kernels[0]
    weights = [name for name, spec in graph.parameters.items() if AxisRole.INPUT in spec.axes]
    last = max(weights, key=lambda name: graph.parameters[name].node, default="")
    scales: dict[str, tuple[float, float | None, float]] = {name: (1.0, None, rate) for name in graph.parameters}
    for name in weights:
        spec = graph.parameters[name]
        fan_in = spec.size(AxisRole.INPUT) * spec.size(AxisRole.KERNEL)
        degree = _in_degree(graph, spec.node)
        std = 2 / fan_in if name == last else math.sqrt(2 / (fan_in * degree))
        scales[name] = (1.0, std, rate)
    return scales


def _in_degree(graph: ComputationalGraph, number: int) -> int:
    """Number of values that are added up where a layer's input is made."""
    current = number
    while graph.incoming[current]:
        current = graph.incoming[current][0]
        node = graph.nodes[current]
        if node.op == "add":
            return max(len(set(graph.incoming[current])), 1)
        if _is_layer(graph, current):
            break
    return 1


def _is_layer(graph: ComputationalGraph, number: int) -> bool:
    names = graph.nodes[number].parameters.values()
    return any(AxisRole.INPUT in graph.parameters[name].axes for name in names)


def _log_path_cubes(graph: ComputationalGraph) -> float:
    """Logarithm of the sum over all paths of the cube of the number of layers on them."""
    counts: list[Counter[int]] = []
    for number, sources in enumerate(graph.incoming):
        here: Counter[int] = Counter() if sources else Counter({0: 1})
        for source in sources:
            here.update(counts[source])
        counts.append(Counter({k + 1: n for k, n in here.items()}) if _is_layer(graph, number) else here)
    ends = graph.outputs or (len(graph.nodes) - 1,)
    total = sum(count * length**3 for end in ends for length, count in counts[end].items())
    return math.log(max(total, 1))


def _mean_kernel(graph: ComputationalGraph) -> float:
    sizes = [
        spec.shape[axis]
        for spec in graph.parameters.values()
        for axis, role in enumerate(spec.axes)
        if role is AxisRole.KERNEL
    ]
    return sum(sizes) / len(sizes) if sizes else 1.0
