"""The residual branches of a traced network."""

from __future__ import annotations

from dataclasses import dataclass

from hypergen.graph import ComputationalGraph

# Of ``nn.MultiheadAttention``, whose other parameters are those of the output.
_INWARD = ("in_proj", "q_proj", "k_proj", "v_proj", "bias_k", "bias_v")


@dataclass(frozen=True)
class Branches:
    """What depth rules need to know of a graph.

    Attributes:
        count: Number of residual branches that hold parameters.
        inside: Parameters of nodes on residual branches.
        ends: Parameters of the last node with parameters of each branch: their scale is that of the branch.
    """

    count: int
    inside: frozenset[str]
    ends: frozenset[str]


def residual_branches(graph: ComputationalGraph) -> Branches:
    """Find the additions of a value to something that was computed from it.

    An addition of ``x`` and ``f(x)`` is told from one of two inputs (an embedding and its positions, a projected
    shortcut) by ``x`` being an ancestor of ``f(x)``.
    """
    # Bit i of ancestors[n]: the value of node i reaches node n; a node is its own ancestor.
    ancestors: list[int] = []
    for number, sources in enumerate(graph.incoming):
        reached = 1 << number
        for source in sources:
            reached |= ancestors[source]
        ancestors.append(reached)
    count, inside, ends = 0, set[str](), set[str]()
    for number, node in enumerate(graph.nodes):
        read = list(dict.fromkeys(graph.incoming[number]))
        if node.op != "add" or len(read) != 2:
            continue
        shortcut, end = sorted(read)
        if not ancestors[end] >> shortcut & 1:
            continue
        between = (each for each in range(shortcut + 1, end + 1) if ancestors[end] >> each & 1)
        within = [each for each in between if ancestors[each] >> shortcut & 1]
        names = {name for each in within for name in graph.nodes[each].parameters.values()}
        if not names:
            continue
        count += 1
        inside |= names
        for last in graph.layers_behind([end]):
            roles = graph.nodes[last].parameters.items()
            ends |= {name for role, name in roles if not role.startswith(_INWARD)}
    return Branches(count, frozenset(inside), frozenset(ends))
