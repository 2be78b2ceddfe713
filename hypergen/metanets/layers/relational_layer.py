"""Attention of every node to every other, conditioned on the edges between them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hypergen.errors import ParameterError
from hypergen.metanets.layers.edge_layer import UpdatedEdges
from hypergen.metanets.layers.incidences import NUM_RECEIVING_ROLES, NUM_ROLES, Incidences, along, padded, view_of
from hypergen.symmetry.parameter_graph import Block, BlockAxis

_MOST_NODES = 2048


class RelationalLayer(nn.Module):
    r"""A transformer whose tokens are the nodes of a network, of which edges tell how they relate.

    .. math:: \alpha_{ij} = \mathrm{softmax}_j\, q_i \cdot (k_j + K e_{ij}) / \sqrt{d}, \qquad
              x'_i = x_i + \mathrm{MLP}\Big[x_i, \sum_j \alpha_{ij} (v_j + V e_{ij})\Big]

    as in the relational transformer (Diao and Loynd, 2023, arXiv:2210.05062) that NG-T reads networks with (Kofinas et
    al., 2024, arXiv:2403.12143). Edges are updated from their nodes as in :class:`EdgeLayer`. Nodes without an edge
    attend to each other, too, so that memory grows with the square of the number of nodes: for small networks.

    Args:
        hidden: Channels of nodes and edges.
        heads: Number of attention heads.

    Shapes:
        - nodes: ``[batch, num_nodes, hidden]``
        - edges: per block ``[batch, *shape, hidden]``
    """

    def __init__(self, hidden: int, heads: int = 4) -> None:
        super().__init__()
        if hidden % heads:
            raise ValueError(f"hidden must be a multiple of heads; got {hidden} and {heads}")
        self.hidden, self.heads = hidden, heads
        self.read = nn.Linear(hidden, NUM_ROLES * hidden)
        self.edge = nn.Linear(hidden, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.query_key_value = nn.Linear(hidden, 3 * hidden)
        self.relation = nn.ModuleList(nn.Linear(hidden, 2 * hidden, bias=False) for _ in range(NUM_RECEIVING_ROLES))
        self.node = nn.Sequential(
            nn.LayerNorm(2 * hidden), nn.Linear(2 * hidden, 2 * hidden), nn.ReLU(), nn.Linear(2 * hidden, hidden)
        )

    def forward(self, incidences: Incidences, nodes: Tensor, edges: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """One round.

        Raises:
            ParameterError: The network has too many nodes for attention between all pairs.
        """
        count = incidences.num_nodes
        if count > _MOST_NODES:
            raise ParameterError(
                f"A network of {count} nodes is too large for attention between all of them ({_MOST_NODES} at most); "
                "use other messages, as 'product'."
            )
        tables = padded(self.read(nodes)).chunk(NUM_ROLES, -1)
        relations = nodes.new_zeros(len(nodes), (count + 1) ** 2, 2 * self.hidden)
        result = []
        for block, axes, edge in zip(incidences.graph_blocks, incidences.axes, edges, strict=True):
            operands = [along(tables[role], block, axis) for axis, role in axes]
            (new,) = UpdatedEdges.apply(edge, self.edge.weight, self.edge.bias, (), *operands)
            result.append(new)
            ends = [(axis, role) for axis, role in axes if axis.receives]
            # A node that is alone in its block, as that of a bias, relates to itself.
            pairs = itertools.permutations(ends, 2) if len(ends) > 1 else itertools.product(ends, ends)
            for (target, role), (source, _) in pairs:
                relations = self._related(relations, block, new, target, source, role, count + 1)
        grid = relations.view(len(nodes), count + 1, count + 1, 2, self.heads, -1)[:, :-1, :-1]
        return nodes + self.node(torch.cat([nodes, self._attended(nodes, grid, incidences.kinds)], -1)), result

    def _related(
        self, relations: Tensor, block: Block, edge: Tensor, target: BlockAxis, source: BlockAxis, role: int, count: int
    ) -> Tensor:
        """Add what the edges of a block tell of the nodes along two of its axes."""
        dims = {*target.dims, *source.dims}
        others = [1 + dim for dim in range(len(block.shape)) if dim not in dims]
        told = self.relation[role](edge.mean(others, keepdim=True) if others else edge)
        for ours, theirs in itertools.product(_numbers(block, target), _numbers(block, source)):
            pairs = (ours * count + theirs).to(edge.device)
            pairs = pairs.expand(view_of(block, dims)).flatten()
            relations = relations.index_add(1, pairs, told.flatten(1, -2))
        return relations

    def _attended(self, nodes: Tensor, grid: Tensor, kinds: Tensor) -> Tensor:
        """What each node reads, ``[batch, num_nodes, hidden]``."""
        shape = (*nodes.shape[:-1], self.heads, self.hidden // self.heads)
        query, key, value = (part.reshape(shape) for part in self.query_key_value(self.norm(nodes)).chunk(3, -1))
        scores = torch.einsum("bihd,bjhd->bhij", query, key) + torch.einsum("bihd,bijhd->bhij", query, grid[:, :, :, 0])
        # Places in a kernel are no neurons.
        scores = scores.masked_fill((kinds == 3).to(nodes.device), -1e30)
        weights = (scores / shape[-1] ** 0.5).softmax(-1)
        read = torch.einsum("bhij,bjhd->bihd", weights, value) + torch.einsum(
            "bhij,bijhd->bihd", weights, grid[..., 1, :, :]
        )
        return read.flatten(-2)


def _numbers(block: Block, axis: BlockAxis) -> list[Tensor]:
    """The nodes along an axis by slot, each broadcastable over the block."""
    return [column.reshape(view_of(block, axis.dims)) for column in axis.nodes.unbind(-1)]
