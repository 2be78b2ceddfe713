"""The same messages as :class:`EdgeLayer`, over one list of all edges, as most libraries for graphs have them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from hypergen.metanets.layers.edge_layer import EdgeLayer
from hypergen.metanets.layers.incidences import (
    NUM_RECEIVING_ROLES,
    NUM_ROLES,
    incidences_of,
    others,
    padded,
    updated,
    view_of,
)
from hypergen.symmetry.parameter_graph import ParameterGraph


class Relation(NamedTuple):
    """Which nodes lie at the ends of some edges.

    Attributes:
        role: What the nodes' axes are to their blocks.
        edges: Numbers of edges, ``[count]``.
        nodes: A node for each, ``[count]``.
        share: What each edge contributes to the mean that the node is sent, ``[count]``; None where it is sent nothing.
    """

    role: int
    edges: Tensor
    nodes: Tensor
    share: Tensor | None


class EdgeList:
    """Every weight of a network as an edge in one list, with the nodes at its ends.

    It computes what dense blocks compute, several times slower; it is there to be compared with, and for models of
    other libraries that want lists of edges.

    Args:
        graph: The parameter graph.

    Attributes:
        relations: The nodes of edges, by role and slot.
        num_edges: The number of edges, in the order of blocks, row-major within each.
    """

    def __init__(self, graph: ParameterGraph) -> None:
        self.incidences = incidences_of(graph)
        found: dict[tuple[int, int, int], list[tuple[Tensor, Tensor, Tensor | None]]] = {}
        start = 0
        for block, axes in zip(graph.blocks, self.incidences.axes, strict=True):
            size = math.prod(block.shape)
            numbers = torch.arange(start, start + size)
            seen: dict[int, int] = {}
            for axis, role in axes:
                order = seen[role] = seen.get(role, -1) + 1
                share = math.prod(block.shape[dim] for dim in others(block, axis))
                for slot in range(axis.nodes.shape[1]):
                    nodes = axis.nodes[:, slot].reshape(view_of(block, axis.dims)).expand(block.shape).flatten()
                    there = nodes < graph.num_nodes
                    weight = torch.full((int(there.sum()),), 1 / share, dtype=torch.float64) if axis.receives else None
                    found.setdefault((role, order, slot), []).append((numbers[there], nodes[there], weight))
            start += size
        self.num_edges = start
        self.relations = tuple(
            Relation(
                role,
                torch.cat([edges for edges, _, _ in parts]),
                torch.cat([nodes for _, nodes, _ in parts]),
                torch.cat([share for _, _, share in parts if share is not None]) if parts[0][2] is not None else None,
            )
            for (role, _, _), parts in found.items()
        )

    @staticmethod
    def flatten(edges: Sequence[Tensor]) -> Tensor:
        """Edges of blocks ``[batch, *shape, channels]`` as one list, ``[batch, num_edges, channels]``."""
        return torch.cat([own.flatten(1, -2) for own in edges], 1)

    def layer(self, layer: EdgeLayer, nodes: Tensor, edges: Tensor, nodes_first: bool = False) -> tuple[Tensor, Tensor]:
        """One round of a layer's messages.

        Args:
            layer: With ``"edge"`` messages and means.
            nodes: ``[batch, num_nodes, hidden]``.
            edges: ``[batch, num_edges, hidden]``.
            nodes_first: Multiply nodes by matrices before they are copied to edges, which saves most of the products;
                else each edge does with its own nodes, as an edge model of ``torch_geometric.nn.MetaLayer`` does.

        Raises:
            ValueError: The layer has other messages.
        """
        if layer.message != "edge" or layer.aggregators != ("mean",):
            raise ValueError("lists of edges are written for 'edge' messages and their mean alone")
        tables = padded(layer.read(nodes)).chunk(NUM_ROLES, -1) if nodes_first else (nodes,) * NUM_ROLES
        weights, biases = layer.read.weight.chunk(NUM_ROLES), layer.read.bias.chunk(NUM_ROLES)
        new = layer.edge(edges)
        for relation in self.relations:
            own = tables[relation.role].index_select(1, relation.nodes)
            if not nodes_first:
                own = functional.linear(own, weights[relation.role], biases[relation.role])
            new = new.index_add(1, relation.edges, own)
        new = edges + new.relu()
        received = [nodes.new_zeros(len(nodes), nodes.shape[1] + 1, layer.hidden) for _ in range(NUM_RECEIVING_ROLES)]
        for relation in self.relations:
            if relation.share is not None:
                message = new.index_select(1, relation.edges) * relation.share.to(new)[:, None]
                received[relation.role] = received[relation.role].index_add(1, relation.nodes, message)
        return updated(nodes, layer.node, received, self.incidences), new
