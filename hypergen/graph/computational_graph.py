"""The computational graph: operations as nodes, dataflow as edges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from hypergen.errors import TraceError
from hypergen.graph.calls import Calls
from hypergen.graph.parameter_spec import UNUSED, ParameterSpec, axis_roles, with_groups
from hypergen.graph.vocabulary import OPERATIONS, has_own_type

# What the methods of a graph that stand above it are done by, as module and function. They are imported by name when
# they are called: what is above imports the graph, so that an import here would close a circle, and loading a graph
# would load all that reads it.
_CONSUMERS = {
    "symmetry": ("hypergen.symmetry.symmetry", "find_symmetry"),
    "parameter_graph": ("hypergen.symmetry.parameter_graph", "build_parameter_graph"),
    "draw": ("hypergen.graph.visualize.draw", "draw"),
}


class TracingMode(StrEnum):
    """What a network is run on to trace it, in the order in which the tracer tries."""

    META = "meta"
    """Meta tensors: shapes alone."""
    KNOWN_INTEGERS = "known integers"
    """Meta tensors, but integers and booleans have values."""
    REAL_VALUES = "real values"
    """Real values of everything."""


@dataclass(frozen=True)
class OpNode:
    """One operation of a traced network.

    Attributes:
        op: The operation's name in the terms of PyTorch, without underscores (``conv2d``, ``add``, ``input``).
        module: Dotted name of the innermost module that ran it; empty for the network itself.
        parameters: Role in the operation → parameter name. The role is the argument's name (``weight``, ``bias``) where
            there is one, else the parameter's own last name (``pos_embed``).
        shape: Shape of the (first) output, batch axis included.
        attributes: What else decides the computation, for example ``stride``, ``groups`` or ``dim``, in one form
            however it was given: with the defaults, axes counted from the front, a size for each spatial axis.
        shared: Role → name of parameters that the operation reads, too, but that belong to an earlier node: those of a
            module that is called again, or a table that is tied to a head.
    """

    op: str
    module: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    shape: tuple[int, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    shared: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ComputationalGraph:
    """Operations and dataflow of a network, in topological order.

    Attributes:
        nodes: The operations, in the order in which they ran.
        edges: Source → target, ``[2, num_edges]``, int64; source < target.
        parameter_shapes: Every parameter of the network, tied ones once.
        unused_parameters: Parameters that no operation reads.
        tied_parameters: Alias name → the name that carries it.
        outputs: The nodes whose values the network returns, in the order in which it returns them; empty where that is
            not known.
        calls: The calls that were traced, from which :meth:`symmetry` is worked out.
        further_passes: The calls of passes that took another way: in training mode, or with branches on data decided
            otherwise. The symmetry leaves them unchanged, too.
        tracing_mode: What the network was run on.
        parameter_dtypes: Name → data type of the parameter.
    """

    nodes: tuple[OpNode, ...]
    edges: Tensor
    parameter_shapes: Mapping[str, tuple[int, ...]]
    unused_parameters: tuple[str, ...] = ()
    tied_parameters: Mapping[str, str] = field(default_factory=dict)
    outputs: tuple[int, ...] = ()
    calls: Calls | None = field(default=None, repr=False)
    further_passes: tuple[Calls, ...] = field(default=(), repr=False)
    tracing_mode: TracingMode = TracingMode.META
    parameter_dtypes: Mapping[str, torch.dtype] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        """Summarise the graph in one line."""
        numbers = f"{len(self.nodes)} nodes, {self.edges.shape[1]} edges, {len(self.parameter_shapes)} parameters"
        return f"ComputationalGraph({numbers}, {len(self.unused_parameters)} unused)"

    @cached_property
    def parameters(self) -> Mapping[str, ParameterSpec]:
        """Name → what is known of the parameter, tied ones once, in the order of registration."""
        specs = {}
        for name, shape in self.parameter_shapes.items():
            number, role = self.readers.get(name, (-1, name.rpartition(".")[2]))
            node = self.nodes[number] if number >= 0 else OpNode(UNUSED)
            axes = axis_roles(node.op, role, len(shape))
            blocks = int(node.attributes.get("groups", 1))
            dtype = self.parameter_dtypes.get(name)
            specs[name] = ParameterSpec(name, shape, dtype, node.op, role, number, axes, (), blocks)
        return specs

    def parameter_specs(self, groups: bool = False) -> Mapping[str, ParameterSpec]:
        """:attr:`parameters`, with the permutation groups of whole axes filled in where they are asked for.

        Args:
            groups: Whether to work out the symmetry.

        Raises:
            TraceError: Groups are asked for and the graph was not traced.
        """
        return with_groups(self.parameters, self.symmetry().simple_groups) if groups else self.parameters

    @cached_property
    def readers(self) -> Mapping[str, tuple[int, str]]:
        """Parameter name → (index of the node that reads it, its role there)."""
        return {name: (i, role) for i, node in enumerate(self.nodes) for role, name in node.parameters.items()}

    @property
    def unknown_operations(self) -> Mapping[str, int]:
        """Operations that have no type of their own in the vocabulary and share one embedding → how many there are."""
        return Counter(node.op for node in self.nodes if not has_own_type(node.op, bool(node.parameters)))

    def to_pyg(self) -> Any:
        """The graph as ``torch_geometric.data.Data``.

        Returns:
            ``x`` ``[num_nodes, 1]``: the operations' numbers in the vocabulary; ``edge_index`` ``[2, num_edges]``.
            :meth:`from_pyg` leads back.
        """
        from hypergen.graph.pyg import graph_data  # torch_geometric takes seconds to import.

        facts = ("parameter_shapes", "unused_parameters", "tied_parameters", "outputs")
        return graph_data(
            [{each.name: getattr(node, each.name) for each in fields(node)} for node in self.nodes],
            [OPERATIONS.index(node.op) if node.op in OPERATIONS else len(OPERATIONS) for node in self.nodes],
            self.edges,
            {name: getattr(self, name) for name in facts},
        )

    @classmethod
    def from_pyg(cls, data: Any) -> ComputationalGraph:
        """The computational graph of what :meth:`to_pyg` gave, but for the traced calls that symmetry is read from."""
        return cls(tuple(OpNode(**node) for node in data.nodes), data.edge_index.clone(), **data.facts)

    @cached_property
    def incoming(self) -> tuple[tuple[int, ...], ...]:
        """For every node, those that it reads, in the order of the edges."""
        sources: list[list[int]] = [[] for _ in self.nodes]
        for source, target in self.edges.t().tolist():
            sources[target].append(source)
        return tuple(map(tuple, sources))

    @cached_property
    def outgoing(self) -> tuple[tuple[int, ...], ...]:
        """For every node, those that read it, in the order of the edges."""
        targets: list[list[int]] = [[] for _ in self.nodes]
        for source, target in self.edges.t().tolist():
            targets[source].append(target)
        return tuple(map(tuple, targets))

    def layers_behind(self, numbers: Iterable[int]) -> list[int]:
        """The nearest nodes with parameters that values of these nodes come from, the nodes themselves included."""
        found, waiting, seen = [], list(numbers), set()
        while waiting:
            current = waiting.pop()
            if current in seen:
                continue
            seen.add(current)
            if self.nodes[current].parameters:
                found.append(current)
            else:
                waiting += self.incoming[current]
        return found

    def without(self, ops: Collection[str]) -> ComputationalGraph:
        """The graph with parameter-free nodes of these operations contracted: their inputs feed their outputs."""
        keep = [bool(node.parameters) or node.op not in ops for node in self.nodes]
        if all(keep):
            return self
        origins: list[tuple[int, ...]] = []  # the kept nodes whose values reach the output of node i
        number, edges = 0, []
        for i in range(len(self.nodes)):
            reached = tuple(dict.fromkeys(origin for source in self.incoming[i] for origin in origins[source]))
            if keep[i]:
                edges += [(origin, number) for origin in reached]
                origins.append((number,))
                number += 1
            else:
                origins.append(reached)
        return ComputationalGraph(
            tuple(node for node, kept in zip(self.nodes, keep, strict=True) if kept),
            edge_tensor(edges),
            self.parameter_shapes,
            self.unused_parameters,
            self.tied_parameters,
            tuple(dict.fromkeys(origin for output in self.outputs for origin in origins[output])),
            self.calls,
            self.further_passes,
            self.tracing_mode,
            self.parameter_dtypes,
        )

    def shortest_paths(self, cutoff: int = 50) -> Tensor:
        """Directed shortest-path lengths in hops.

        Args:
            cutoff: Longer paths count as ``cutoff``.

        Returns:
            ``[num_nodes, num_nodes]``, int16: entry (i, j) is the length from i to j; -1 where there is no path.
        """
        import numpy as np

        count = len(self.nodes)
        far = np.iinfo(np.int16).max - 1
        lengths = np.full((count, count), far, dtype=np.int16)
        np.fill_diagonal(lengths, 0)
        # From the last node to the first, what a node reaches is one hop behind what its targets reach.
        for source, target in sorted(self.edges.t().tolist(), reverse=True):
            np.minimum(lengths[source], lengths[target] + 1, out=lengths[source])
        return torch.from_numpy(np.where(lengths == far, -1, np.minimum(lengths, cutoff)).astype(np.int16))

    def symmetry(self, outputs: Sequence[str] | None = None) -> Any:
        """The permutations of the network's parameters that leave its function as it is.

        Args:
            outputs: Which of the returned tensors have to stay as they are, by their places in what the network
                returns (``graph.calls.outputs``): ``["logits"]`` leaves hidden states that are returned, too, free.
                None for all.

        Returns:
            A :class:`~hypergen.symmetry.Symmetry`: the groups, and what every axis of every parameter is made of.

        Raises:
            TraceError: The graph was not traced, so that nothing is known of the operations' arguments.
            UnknownNameError: The network returns nothing of that name.
        """
        if self.calls is None:
            raise TraceError("This graph has no record of calls to find its symmetry from; make it with trace(model).")
        return _consumer("symmetry")((self.calls, *self.further_passes), outputs)

    def parameter_graph(self, outputs: Sequence[str] | None = None, buffers: bool = True) -> Any:
        """Neurons as nodes, weights as edges: what metanetworks read, built from :meth:`symmetry`.

        Args:
            outputs: Which of the returned tensors have to stay as they are, as for :meth:`symmetry`.
            buffers: Whether the running statistics of batch norms belong to it.

        Returns:
            A :class:`~hypergen.symmetry.parameter_graph.ParameterGraph`.

        Raises:
            TraceError: The graph was not traced.
            UnknownNameError: The network returns nothing of that name.
        """
        return _consumer("parameter_graph")(self, outputs, buffers)

    def draw(self, path: str | Path, folded: bool = True) -> None:
        """Draw the graph into a file.

        Args:
            path: Where to; the suffix decides the format: ``.svg``, ``.png``, ``.pdf``, or ``.html`` for a page that
                zooms, searches and shows a node's details offline.
            folded: Whether repeated blocks are drawn once.

        Raises:
            ValueError: The suffix is none of these.
        """
        _consumer("draw")(self, path, folded)


def _consumer(method: str) -> Callable[..., Any]:
    """The function that does a method of the graph."""
    module, function = _CONSUMERS[method]
    return cast(Callable[..., Any], getattr(import_module(module), function))


def edge_tensor(edges: list[tuple[int, int]]) -> Tensor:
    """Pairs as ``[2, num_edges]``, int64."""
    return torch.tensor(edges, dtype=torch.int64).reshape(-1, 2).t().contiguous()
