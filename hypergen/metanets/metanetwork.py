"""Graph metanetworks: an encoder of parameter graphs, and what is read out of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from hypergen.errors import ParameterError
from hypergen.metanets.embedding import Embedding, scaled, spread
from hypergen.metanets.layers.edge_layer import EdgeLayer
from hypergen.metanets.layers.incidences import (
    NUM_ROLES,
    SEGMENT_FEATURES,
    Incidences,
    along,
    ends_of,
    incidences_of,
    padded,
    view_of,
)
from hypergen.metanets.layers.product_layer import ProductLayer
from hypergen.metanets.layers.relational_layer import RelationalLayer
from hypergen.symmetry.parameter_graph import Block, ParameterData, ParameterGraph

Message = Literal["edge", "film", "attention", "transformer", "product"]
_CHUNK = 2**22  # values of a weight's hidden channels that are decoded at once


class States(NamedTuple):
    """What an encoder made of networks of one architecture.

    Attributes:
        incidences: Incidences of their parameter graph.
        data: Their parameters, ``[batch, *shape, features]`` per block.
        nodes: ``[batch, num_nodes, hidden]``.
        edges: ``[batch, *shape, hidden]`` per block; None without edge states.
        blocks: What is known of blocks, ``[batch, num_blocks, hidden]``.
        sizes: The root mean square of each block's weights, ``[batch, features]``.
    """

    incidences: Incidences
    data: ParameterData
    nodes: Tensor
    edges: tuple[Tensor, ...] | None
    blocks: Tensor
    sizes: tuple[Tensor, ...]


class GraphMetanetwork(nn.Module):
    """Reads networks: rounds of messages on their parameter graph.

    ``message="edge"`` makes it a graph metanetwork (GMN), ``"film"`` with several aggregators an NG-GNN,
    ``"transformer"`` an NG-T, ``"attention"`` the like over the edges that there are; ``"product"`` keeps no edge
    states, for networks of any size. All are equivariant to the symmetry that the parameter graph was made from.

    Args:
        features: Per weight: the number of mappings that are passed.
        hidden: Channels.
        layers: Rounds.
        message: ``"edge"``, ``"film"``, ``"attention"`` (:class:`EdgeLayer`), ``"transformer"``
            (:class:`RelationalLayer`) or ``"product"`` (:class:`ProductLayer`).
        aggregators: Aggregators of messages, for ``"edge"`` and ``"film"``.
        heads: Number of attention heads.
        statistics: Whether blocks are told the moments of their weights.
    """

    def __init__(
        self,
        features: int = 1,
        hidden: int = 32,
        layers: int = 3,
        message: Message = "edge",
        aggregators: Sequence[str] = ("mean",),
        heads: int = 4,
        statistics: bool = True,
    ) -> None:
        super().__init__()
        if features < 1 or hidden < 1 or layers < 0:
            raise ValueError(f"features and hidden must be positive, layers not negative: {features, hidden, layers}")
        self.features, self.hidden, self.keeps_edges = features, hidden, message != "product"
        self.embedding = Embedding(features, hidden, statistics, self.keeps_edges)
        self.layers = nn.ModuleList(_layer(message, features, hidden, aggregators, heads) for _ in range(layers))

    def forward(self, graph: ParameterGraph, *tensors: Mapping[str, Tensor]) -> States:
        """Read networks of one architecture.

        Args:
            graph: Its parameter graph.
            *tensors: As many mappings as ``features``, for :meth:`ParameterGraph.to_data`: tensors [batch, *shape], or
                [*shape] for one network.

        Raises:
            ParameterError: The tensors do not fit the graph, or there are more or fewer mappings than features.
        """
        if len(tensors) != self.features:
            raise ParameterError(f"This metanetwork reads {self.features} features per weight; got {len(tensors)}.")
        if not graph.blocks:
            raise ParameterError("This network has no parameters to read.")
        data = graph.to_data(*tensors)
        lead = data[0].dim() - len(graph.blocks[0].shape) - 1
        if lead > 1:
            raise ParameterError(f"Pass networks with one axis for the batch, or none; got {lead} leading axes.")
        if lead == 0:
            data = tuple(values.unsqueeze(0) for values in data)
        incidences = incidences_of(graph)
        blocks, sizes = self.embedding.of_blocks(incidences, data)
        fixed = self.embedding.of_nodes(incidences, data[0])
        nodes = fixed.expand(len(data[0]), *fixed.shape)
        if not self.keeps_edges:
            for layer in self.layers:
                nodes = layer(incidences, nodes, data, sizes, blocks)
            return States(incidences, data, nodes, None, blocks, tuple(sizes))
        edges = []
        for number, (block, values) in enumerate(zip(graph.blocks, data, strict=True)):
            edge = self.embedding.of_edges(values, sizes[number], blocks[:, number])
            for segments, view in _segments(incidences, block):
                edge = edge + self.embedding.segments(segments.to(edge)).reshape(1, *view, -1)
            edges.append(edge)
        for layer in self.layers:
            nodes, edges = layer(incidences, nodes, edges)
        return States(incidences, data, nodes, tuple(edges), blocks, tuple(sizes))


def _layer(message: Message, features: int, hidden: int, aggregators: Sequence[str], heads: int) -> nn.Module:
    if message == "product":
        return ProductLayer(hidden, features)
    if message == "transformer":
        return RelationalLayer(hidden, heads)
    return EdgeLayer(hidden, message, aggregators, heads)


class InvariantMetanetwork(nn.Module):
    """Reads properties off networks: the same for all permutations of a network's neurons.

    Args:
        encoder: Reads the networks.
        outputs: How many numbers to return.
        extra: How many further features are passed with each network, as the responses to probes.
        dropout: Before the last layer.
        ends: Read so many inputs and outputs one by one, too, besides their mean, for networks that all have as many:
            pixels and classes, or coordinates and colours.
    """

    def __init__(
        self, encoder: GraphMetanetwork, outputs: int = 1, extra: int = 0, dropout: float = 0.0, ends: int = 0
    ) -> None:
        super().__init__()
        self.encoder, self.extra, self.ends = encoder, extra, ends
        hidden = encoder.hidden
        per_block = hidden * (3 if encoder.keeps_edges else 1)
        self.block = nn.Sequential(
            nn.LayerNorm(per_block), nn.Linear(per_block, 2 * hidden), nn.ReLU(), nn.Linear(2 * hidden, 2 * hidden)
        )
        width = (2 + 2 * 3 + ends) * hidden + extra
        self.head = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4 * hidden, outputs),
        )

    def features(self, graph: ParameterGraph, *tensors: Mapping[str, Tensor]) -> Tensor:
        """What is known of each network, ``[batch, (8 + ends) · hidden]``.

        Means over blocks; means and spreads of nodes by their kind; and the nodes of inputs and outputs.
        """
        states = self.encoder(graph, *tensors)
        blocks = states.blocks
        if states.edges is not None:
            pooled = []
            for edges in states.edges:
                flat = edges.flatten(1, -2)
                pooled.append(torch.cat([flat.mean(1), (flat.var(1, correction=0) + 1e-5).sqrt()], -1))
            blocks = torch.cat([blocks, torch.stack(pooled, 1)], -1)
        masks = states.incidences.kind_masks.to(states.nodes)
        means = torch.einsum("kn,bnh->bkh", masks, states.nodes)
        squares = torch.einsum("kn,bnh->bkh", masks, states.nodes.square())
        spreads = (squares - means.square()).clamp(min=0) + 1e-5
        found = [self.block(blocks).mean(1), means.flatten(1), spreads.sqrt().flatten(1)]
        if self.ends:
            found.append(ends_of(states.nodes, states.incidences, self.ends))
        return torch.cat(found, -1)

    def forward(self, graph: ParameterGraph, *tensors: Mapping[str, Tensor], extra: Tensor | None = None) -> Tensor:
        """Properties of networks of one architecture.

        Args:
            graph: Its parameter graph.
            *tensors: The same as for :class:`GraphMetanetwork`.
            extra: Further features, ``[batch, extra]``.

        Returns:
            ``[batch, outputs]``.
        """
        features = self.features(graph, *tensors)
        given = 0 if extra is None else extra.shape[-1]
        if given != self.extra:
            raise ParameterError(f"This metanetwork reads {self.extra} further features of a network; got {given}.")
        return self.head(features if extra is None else torch.cat([features, extra], -1))


class EquivariantMetanetwork(nn.Module):
    """Writes numbers for every weight: permuting the neurons of a network permutes them alike.

    Each comes from the edge and the nodes at its ends. Without edge states they are decoded in chunks, so that memory
    beyond the result is bounded.

    Args:
        encoder: Reads the networks.
        outputs: How many numbers per weight.
        decoder_hidden: Channels from which they are decoded; None for as many as the encoder has.
        relative: Whether they are in units of the root mean square of their tensor's weights.
    """

    def __init__(
        self, encoder: GraphMetanetwork, outputs: int = 1, decoder_hidden: int | None = None, relative: bool = True
    ) -> None:
        super().__init__()
        self.encoder, self.relative = encoder, relative
        hidden, self.hidden = encoder.hidden, decoder_hidden or encoder.hidden
        self.read = nn.Linear(hidden, NUM_ROLES * self.hidden)
        self.block = nn.Linear(hidden, self.hidden)
        self.edge = nn.Linear(hidden if encoder.keeps_edges else 2 * encoder.features, self.hidden)
        self.segments = nn.Linear(SEGMENT_FEATURES, self.hidden, bias=False)
        self.out = nn.Linear(self.hidden, outputs)

    def forward(self, graph: ParameterGraph, *tensors: Mapping[str, Tensor]) -> ParameterData:
        """Numbers for the weights of networks of one architecture.

        Args:
            graph: Its parameter graph.
            *tensors: The same as for :class:`GraphMetanetwork`.

        Returns:
            ``[batch, *shape, outputs]`` per block, without the batch where one network was passed;
            :meth:`ParameterGraph.to_params` makes parameters of it.
        """
        states = self.encoder(graph, *tensors)
        first = graph.blocks[0]
        alone = tensors[0][first.name].dim() == len(first.tensor_shape)
        tables = padded(self.read(states.nodes)).chunk(NUM_ROLES, -1)
        context = self.block(states.blocks)
        result = []
        for number, block in enumerate(graph.blocks):
            values = torch.cat(list(self._decoded(states, number, block, tables, context[:, number])), 1)
            if self.relative:
                values = values * spread(states.sizes[number][:, :1], values)
            result.append(values[0] if alone else values)
        return tuple(result)

    def _decoded(
        self, states: States, number: int, block: Block, tables: Sequence[Tensor], context: Tensor
    ) -> Iterator[Tensor]:
        """Parts of a block, cut along its first axis."""
        operands = [along(tables[role], block, axis) for axis, role in states.incidences.axes[number]]
        for segments, view in _segments(states.incidences, block):
            operands.append(self.segments(segments.to(context)).reshape(1, *view, -1))
        data = states.data[number]
        rows = data.shape[1]
        step = rows
        if states.edges is None:
            step = max(1, _CHUNK // max(1, data[..., 0].numel() // rows * self.hidden))
        for start in range(0, rows, step):
            part = slice(start, start + step)
            if states.edges is not None:
                hidden = self.edge(states.edges[number])
            else:
                cut = data[:, part]
                size = states.sizes[number]
                hidden = self.edge(torch.cat([cut, scaled(cut, size)], -1))
            for operand in operands:
                hidden = hidden + (operand[:, part] if operand.shape[1] > 1 else operand)
            yield self.out((hidden + spread(context, hidden)).relu())


def _segments(incidences: Incidences, block: Block) -> Iterator[tuple[Tensor, list[int]]]:
    """Features of segments along the axes that have any, with the view of the block in which they lie."""
    for axis in block.axes:
        segments = incidences.segments(axis)
        if segments is not None:
            yield segments, view_of(block, (axis.dim,))
