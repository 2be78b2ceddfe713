"""Graphs as the published graph hypernetworks read them: few primitives, a node per parameter, virtual edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hypergen.graph import ComputationalGraph, OpNode

# Their order is that of the released embedding tables.
PRIMITIVES = (
    "max_pool", "avg_pool", "sep_conv", "dil_conv", "conv", "msa", "cse", "sum", "concat", "input", "bias", "bn", "ln",
    "pos_enc", "glob_avg",
)  # fmt: skip
LANGUAGE_PRIMITIVES = (*PRIMITIVES, "rmsnorm", "rot_emb", "gate")

_NORMS = {"batch_norm": "bn", "instance_norm": "bn", "layer_norm": "ln", "group_norm": "ln", "rms_norm": "rmsnorm"}
_LAYERS = ("linear", "addmm", "bilinear", "embedding", "embedding_bag")
_GATES = ("sigmoid", "hardsigmoid")


@dataclass(frozen=True)
class Target:
    """A parameter that a node stands for.

    Attributes:
        name: Its name.
        node: The node.
        shape: Its shape.
        kind: ``weight``, ``norm_weight``, ``norm_bias``, ``bias``; the last two nodes of a graph are ``class_weight``
            and ``class_bias``.
    """

    name: str
    node: int
    shape: tuple[int, ...]
    kind: str


@dataclass(frozen=True)
class ReleasedGraph:
    """A graph for a released hypernetwork.

    Attributes:
        primitives: Number of each node's primitive, ``[num_nodes]``, int64.
        shapes: What the shape encoder is told of each node; None for nodes without a shape.
        distances: Shortest-path lengths up to the cutoff, 0 where there is no such path, ``[num_nodes, num_nodes]``.
        targets: The parameters that nodes stand for.
        unseen: Parameters that the published systems have no node for: layer scales, class tokens, …
    """

    primitives: Tensor
    shapes: tuple[tuple[int, ...] | None, ...]
    distances: Tensor
    targets: tuple[Target, ...]
    unseen: tuple[str, ...]


def released_graph(graph: ComputationalGraph, language: bool = False, cutoff: int = 50) -> ReleasedGraph:
    """Describe ``graph`` as GHN-2, GHN-3 and LoGAH do.

    The published code walks the autograd graph of a real forward pass. This gives the same nodes and paths for the
    networks that it handles, from the traced graph; a node's place among nodes that no path joins may differ, which
    the hypernetworks do not see.

    Args:
        graph: The network.
        language: With the three further primitives of LoGAH's language version.
        cutoff: Longest path that becomes a virtual edge.
    """
    view = _View(graph, LANGUAGE_PRIMITIVES if language else PRIMITIVES)
    for i, node in enumerate(graph.nodes):
        view.add(i, node)
    return view.finished(cutoff)


class _View:
    """Builds the view node by node, in the order of the traced graph."""

    def __init__(self, graph: ComputationalGraph, known: tuple[str, ...]) -> None:
        self.graph, self.known = graph, known
        self.incoming = graph.incoming
        self.primitives: list[str] = ["input"]
        self.shapes: list[tuple[int, ...] | None] = [None]
        self.edges: list[tuple[int, int]] = []
        self.targets: list[Target] = []
        self.carriers: list[tuple[int, ...]] = []  # the nodes here that carry the value of node i there
        self.squeezes = self._squeezes()

    def add(self, i: int, node: OpNode) -> None:
        """Add what stands for one operation."""
        sources = tuple(dict.fromkeys(c for source in self.incoming[i] for c in self.carriers[source]))
        carriers = sources
        if node.op == "input":
            carriers = (0,)
        elif node.op == "multi_head_attention":
            carriers = self._attention(node, sources)
        elif node.op in _NORMS or self._is_written_out_rms_norm(i, node):
            carriers = self._norm(node, sources)
        elif node.op in _LAYERS or "conv" in node.op:
            carriers = self._layer(node, sources)
        elif primitive := self._primitive(i, node, sources):
            tables = [name for name in node.parameters.values() if primitive == "sum"]
            places = [self._node("pos_enc", (), name, "weight") for name in tables]
            carriers = (self._node(primitive, (*sources, *places)),)
        if "pool2d" in node.op and carriers != sources and "adaptive" not in node.op:
            self.shapes[carriers[0]] = (1, 1, *_pair(node.attributes.get("kernel_size", 3)))
        self.carriers.append(carriers)

    def _primitive(self, i: int, node: OpNode, sources: Sequence[int]) -> str | None:
        """The primitive of an operation without layers' parameters; None for those that have no node."""
        op = node.op
        if op.startswith(("max_pool", "avg_pool")):
            return op[:8]
        if op.startswith("adaptive_avg_pool") or (op == "mean" and not self._averages_channels(i)):
            return None if i in self.squeezes else "glob_avg"
        if op in ("scaled_dot_product_attention", "softmax"):
            return "msa"
        if op == "mul" and any(self.graph.nodes[s].op in _GATES for s in self.incoming[i]) and len(sources) > 1:
            return "cse" if "gate" not in self.known else "gate"
        if op == "add":
            tables = [n for n in node.parameters.values() if sum(s > 1 for s in self.graph.parameter_shapes[n]) > 1]
            return "sum" if len(sources) > 1 or tables else None
        return "concat" if op == "cat" and len(sources) > 1 else None

    def _averages_channels(self, i: int) -> bool:
        """Whether a mean runs over the last axis alone, as norms that are written out do."""
        before = [self.graph.nodes[source].shape for source in self.incoming[i]]
        shape = self.graph.nodes[i].shape
        return any(old[:-1] in (shape, shape[:-1]) and len(old) > 2 for old in before)

    def _is_written_out_rms_norm(self, i: int, node: OpNode) -> bool:
        """A vector times x · rsqrt(mean(x²))."""
        if node.op != "mul" or not node.parameters:
            return False
        factors = [s for source in self.incoming[i] for s in self.incoming[source]]
        return any(self.graph.nodes[s].op == "rsqrt" for s in factors)

    def _squeezes(self) -> set[int]:
        """Global averages inside squeeze-and-excitation blocks, which the published graphs leave out."""
        found = set()
        for i, node in enumerate(self.graph.nodes):
            current = i
            while node.op in _GATES and len(self.incoming[current]) == 1:
                (current,) = self.incoming[current]
                if self.graph.nodes[current].op.startswith(("adaptive_avg_pool", "mean")):
                    found.add(current)
                    break
        return found

    def _node(self, primitive: str, sources: Sequence[int], name: str | None = None, kind: str = "") -> int:
        if primitive not in self.known:
            primitive = "ln"
        number = len(self.primitives)
        self.primitives.append(primitive)
        self.shapes.append(None)
        self.edges += [(source, number) for source in sources]
        if name is not None:
            self.shapes[number] = self.graph.parameter_shapes[name]
            self._target(name, number, kind)
        return number

    def _target(self, name: str, node: int, kind: str) -> None:
        self.targets.append(Target(name, node, self.graph.parameter_shapes[name], kind))

    def _layer(self, node: OpNode, sources: tuple[int, ...]) -> tuple[int, ...]:
        primitive = "pos_enc" if "embedding" in node.op else "conv"
        if "conv" in node.op and node.attributes.get("groups", 1) > 1:
            primitive = "dil_conv" if min(_pair(node.attributes.get("dilation", 1))) > 1 else "sep_conv"
        return self._weight_and_bias(node.parameters.get("weight"), node.parameters.get("bias"), primitive, sources)

    def _weight_and_bias(
        self, weight: str | None, bias: str | None, primitive: str, sources: tuple[int, ...]
    ) -> tuple[int, ...]:
        if weight is not None:
            sources = (self._node(primitive, sources or (0,), weight, "weight"),)
        if bias is not None:
            sources = (self._node("bias", sources, bias, "bias"),)
        return sources

    def _norm(self, node: OpNode, sources: tuple[int, ...]) -> tuple[int, ...]:
        names = [name for role, name in node.parameters.items() if "bias" not in role]
        bias = node.parameters.get("bias")
        if not names:
            return self._weight_and_bias(None, bias, "", sources)
        number = self._node(_NORMS.get(node.op, "rmsnorm"), sources, names[0], "norm_weight")
        if bias is not None:
            self._target(bias, number, "norm_bias")
        return (number,)

    def _attention(self, node: OpNode, sources: tuple[int, ...]) -> tuple[int, ...]:
        roles = node.parameters
        weights = [roles[role] for role in roles if role.endswith("proj_weight") and not role.startswith("out")]
        for weight in weights[:1]:
            sources = self._weight_and_bias(weight, roles.get("in_proj_bias"), "conv", sources)
        for weight in weights[1:]:  # apart where queries, keys and values have different widths
            sources = (*sources, *self._weight_and_bias(weight, None, "conv", sources[:1]))
        sources = (self._node("msa", sources),)
        return self._weight_and_bias(roles.get("out_proj_weight"), roles.get("out_proj_bias"), "conv", sources)

    def finished(self, cutoff: int) -> ReleasedGraph:
        """The view of the whole graph."""
        count = len(self.primitives)
        self._put_average_before_classifier()
        edges = torch.tensor(sorted(set(self.edges)), dtype=torch.int64).reshape(-1, 2).t()
        lengths = ComputationalGraph(tuple(OpNode(p) for p in self.primitives), edges, {}).shortest_paths(2**14)
        lengths = lengths.long().clamp(min=0)
        targets = []
        for target in self.targets:
            kind = target.kind
            if kind == "weight" and target.node == count - 2 and _is_matrix(target.shape):
                kind = "class_weight"
            elif kind == "bias" and target.node == count - 1:
                kind = "class_bias"
            targets.append(Target(target.name, target.node, target.shape, kind))
        served = {target.name for target in targets} | set(self.graph.unused_parameters)
        return ReleasedGraph(
            torch.tensor([self.known.index(primitive) for primitive in self.primitives]),
            tuple(self.shapes),
            lengths.masked_fill(lengths > cutoff, 0),
            tuple(targets),
            tuple(name for name in self.graph.parameter_shapes if name not in served),
        )

    def _put_average_before_classifier(self) -> None:
        """Where a fully convolutional network averages what its classifier gives, exchange both, as for SqueezeNet.

        Only what the last three nodes stand for moves; they are a chain, so edges stay.
        """
        last = len(self.primitives) - 1
        if self.primitives[-3:] != ["conv", "bias", "glob_avg"] or not _is_matrix(self.shapes[-3] or ()):
            return
        self.primitives[-3:] = ["glob_avg", "conv", "bias"]
        self.shapes[-3:] = [self.shapes[-1], *self.shapes[-3:-1]]
        moved = {last - 2: last - 1, last - 1: last}
        self.targets = [
            replace(target, node=moved[target.node]) if target.node in moved else target for target in self.targets
        ]


def _is_matrix(shape: Sequence[int]) -> bool:
    return len(shape) == 2 or (len(shape) == 4 and max(shape[2:]) == 1)


def _pair(value: int | Sequence[int]) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else tuple(value)
