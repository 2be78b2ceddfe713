"""A metanetwork that is equivariant to rescaling, or to flipping the signs of, hidden neurons, too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from hypergen.errors import ParameterError
from hypergen.metanets.layers.incidences import (
    FIRST,
    NODE_FEATURES,
    OWN,
    SECOND,
    Incidences,
    along,
    ends_of,
    incidences_of,
    others,
    padded,
)
from hypergen.metanets.layers.product_layer import contract
from hypergen.symmetry.parameter_graph import Block, BlockAxis, ParameterData, ParameterGraph

_CHAIN = ("linear", "conv1d", "conv2d", "conv3d")


class Signals(NamedTuple):
    r"""What is known of nodes.

    Attributes:
        forward: Scales as the neuron's output does, ``[batch, num_nodes, hidden]``.
        backward: Scales inversely, as gradients do, ``[batch, num_nodes, hidden]``.
        invariant: Does not change, ``[batch, num_nodes, 3 · hidden]``.
    """

    forward: Tensor
    backward: Tensor
    invariant: Tensor


class ScaleEquivariantMetanetwork(nn.Module):
    r"""Reads networks of linear layers and convolutions alike, however their hidden neurons are scaled.

    Multiplying what comes into a neuron by :math:`\lambda` and dividing what leaves it by :math:`\lambda` changes
    nothing for positive :math:`\lambda` and ReLU, or for :math:`\lambda = \pm 1` and odd functions as tanh and sine. As
    in ScaleGMN (Kalogeropoulos et al., "Scale Equivariant Graph Metanetworks", 2024, arXiv:2406.10685), messages are
    products of weights and nodes, and what is learned acts on what does not scale. Two signals per node make it
    bidirectional: one goes forward along weights and scales with :math:`\lambda`, one goes backward along the same
    weights and scales with :math:`1/\lambda`, so that no weight is inverted, as the paper's backward edges are; their
    products do not scale.

    Args:
        symmetry: ``"scale"`` for positive factors, ``"sign"`` for signs.
        hidden: Channels.
        layers: Rounds; as many as the networks have layers let the ends meet.
        outputs: Numbers per network, for :meth:`forward`.
        ends: Read so many inputs and outputs one by one, too, for networks that all have as many.
    """

    def __init__(
        self,
        symmetry: Literal["scale", "sign"] = "scale",
        hidden: int = 32,
        layers: int = 4,
        outputs: int = 1,
        ends: int = 0,
    ) -> None:
        super().__init__()
        if symmetry not in ("scale", "sign"):
            raise ValueError(f"symmetry must be 'scale' or 'sign'; got {symmetry!r}")
        self.symmetry, self.hidden, self.ends = symmetry, hidden, ends
        self.embedding = nn.Linear(NODE_FEATURES, 2 * hidden)
        self.layers = nn.ModuleList(_Layer(symmetry, hidden) for _ in range(layers))
        self.last = _Invariants(symmetry, hidden, 1)
        self.head = nn.Sequential(
            nn.LayerNorm((3 + ends) * 3 * hidden),
            nn.Linear((3 + ends) * 3 * hidden, 4 * hidden),
            nn.ReLU(),
            nn.Linear(4 * hidden, outputs),
        )
        self.node_change = nn.Linear(hidden, 1, bias=False)
        self.forward_change = nn.Linear(hidden, hidden, bias=False)
        self.backward_change = nn.Linear(hidden, hidden, bias=False)
        self.factors = nn.ModuleList(nn.Linear(3 * hidden, hidden) for _ in range(2))

    def signals(self, graph: ParameterGraph, parameters: Mapping[str, Tensor]) -> Signals:
        """What is known of the nodes of networks of one architecture, in the end.

        Raises:
            ParameterError: The architecture has other parameters than those of linear layers and convolutions.
        """
        return self._read(graph, parameters)[0]

    def _read(self, graph: ParameterGraph, parameters: Mapping[str, Tensor]) -> tuple[Signals, list[Tensor]]:
        for number, block in enumerate(graph.blocks):
            # A single input, as a channel of grey, has no node.
            ends = (1,) if len(block.shape) == 1 else (1, 2) if number == 0 else (2,)
            if block.op not in _CHAIN or len(block.receivers) not in ends:
                raise ParameterError(
                    f"{block.name!r} belongs to {block.op!r}; scales are known for linear layers and ungrouped "
                    "convolutions. Use GraphMetanetwork for networks with other layers."
                )
        data = [values[..., 0] for values in graph.to_data(parameters)]
        if data[0].dim() != len(graph.blocks[0].shape) + 1:
            raise ParameterError("Pass networks with one axis for the batch.")
        incidences = incidences_of(graph)
        stays = ((incidences.kinds == 1) | (incidences.kinds == 2)).to(data[0])[:, None]
        first = self.embedding(incidences.node_features.to(data[0])) * stays
        forward, backward = (start.expand(len(data[0]), *start.shape) for start in first.chunk(2, -1))
        for layer in self.layers:
            forward, backward = layer(incidences, forward, backward, data)
        return Signals(forward, backward, self.last(forward, backward)[2]), data

    def forward(self, graph: ParameterGraph, parameters: Mapping[str, Tensor]) -> Tensor:
        """Properties of networks, ``[batch, outputs]``, which no permutation and no factor changes."""
        invariant = self.signals(graph, parameters).invariant
        incidences = incidences_of(graph)
        found = [torch.einsum("kn,bnh->bkh", incidences.kind_masks.to(invariant), invariant).flatten(1)]
        if self.ends:
            found.append(ends_of(invariant, incidences, self.ends))
        return self.head(torch.cat(found, -1))

    def change(self, graph: ParameterGraph, parameters: Mapping[str, Tensor]) -> ParameterData:
        """A number for each weight that scales as the weight does, ``[batch, *shape, 1]`` per block."""
        signals, data = self._read(graph, parameters)
        incidences = incidences_of(graph)
        tables = {
            FIRST: padded(torch.cat([self.forward_change(signals.forward), self.factors[0](signals.invariant)], -1)),
            SECOND: padded(torch.cat([self.backward_change(signals.backward), self.factors[1](signals.invariant)], -1)),
            OWN: padded(self.node_change(signals.forward)),
        }
        result = []
        for block, axes, values in zip(graph.blocks, incidences.axes, data, strict=True):
            ends = {role: along(tables[role], block, axis) for axis, role in axes if role in tables}
            if OWN in ends:
                result.append(ends[OWN].expand_as(values[..., None]))
                continue
            added, factor = (ends[FIRST] * ends[SECOND]).chunk(2, -1)
            change = added.mean(-1) + values * factor.mean(-1)
            result.append(change.expand_as(values)[..., None])
        return tuple(result)


class _Invariants(nn.Module):
    """Mixes signals of one kind, and makes of them what does not scale."""

    def __init__(self, symmetry: str, hidden: int, signals: int) -> None:
        super().__init__()
        self.symmetry = symmetry
        self.forward_mix = nn.Linear(signals * hidden, 2 * hidden, bias=False)
        self.backward_mix = nn.Linear(signals * hidden, 2 * hidden, bias=False)

    def forward(self, forward: Tensor, backward: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        one, other = self.forward_mix(forward), self.backward_mix(backward)
        parts = []
        for signal in (one, other):
            first, second = _unit(signal).chunk(2, -1)
            parts.append(first if self.symmetry == "scale" else first * second)
        first, second = one.chunk(2, -1)[0], other.chunk(2, -1)[0]
        product = first * second
        parts.append(product.sign() * product.abs().log1p())
        return first, second, torch.cat(parts, -1)


class _Layer(nn.Module):
    """Sends signals along weights, forward and backward."""

    def __init__(self, symmetry: str, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.places = nn.Linear(NODE_FEATURES, 2 * hidden)
        self.bias = nn.Linear(1, hidden, bias=False)
        self.invariants = _Invariants(symmetry, hidden, 3)
        self.gates = nn.Sequential(nn.Linear(3 * hidden, 2 * hidden), nn.ReLU(), nn.Linear(2 * hidden, 2 * hidden))

    def forward(
        self, incidences: Incidences, forward: Tensor, backward: Tensor, data: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        shape = (len(forward), incidences.num_nodes + 1, self.hidden)
        sums = [forward.new_zeros(shape) for _ in range(3)]
        tables = (padded(forward), padded(backward))
        # A place in a kernel does not scale; it multiplies by 1 and what is learned of it.
        is_place = (incidences.kinds == 3).to(forward)[:, None]
        places = padded((self.places(incidences.node_features.to(forward)) * is_place)[None]).chunk(2, -1)
        for block, axes, values in zip(incidences.graph_blocks, incidences.axes, data, strict=True):
            by_role = {role: axis for axis, role in axes if axis.receives}
            where = [axis for axis, _ in axes if not axis.receives]
            if OWN in by_role and len(block.shape) > 1:
                operands = [(axis.dims, 1 + along(places[0], block, axis)) for axis in where]
                own = contract(values, operands, by_role[OWN].dims, self.hidden).flatten(1, -2)
                sums[0] = sums[0].index_add(1, by_role[OWN].nodes[:, 0], own)
                continue
            if OWN in by_role:
                own = self.bias(values[..., None]).flatten(1, -2)
                sums[2] = sums[2].index_add(1, by_role[OWN].nodes[:, 0], own)
                continue
            for number, (source, target) in enumerate(((SECOND, FIRST), (FIRST, SECOND))):
                message = _sent(block, values, tables[number], places[number], by_role[source], by_role[target], where)
                for slot in range(by_role[target].nodes.shape[1]):
                    sums[number] = sums[number].index_add(1, by_role[target].nodes[:, slot], message)
        received = [total[:, :-1] for total in sums]
        none = torch.zeros_like(received[2])
        one, other, invariant = self.invariants(
            torch.cat([forward, received[0], received[2]], -1), torch.cat([backward, received[1], none], -1)
        )
        first, second = self.gates(invariant).chunk(2, -1)
        neurons = 1 - is_place
        return (forward + one * first) * neurons, (backward + other * second) * neurons


def _sent(
    block: Block,
    values: Tensor,
    table: Tensor,
    places: Tensor,
    source: BlockAxis,
    target: BlockAxis,
    where: list[BlockAxis],
) -> Tensor:
    """Messages along a block, ``[batch, places, hidden]``."""
    operands = [(source.dims, along(table, block, source) * (1 + along(places, block, source)))]
    operands += [(axis.dims, 1 + along(places, block, axis)) for axis in where]
    count = math.prod(block.shape[dim] for dim in others(block, target))
    return contract(values, operands, target.dims, table.shape[-1]).flatten(1, -2) / count**0.5


def _unit(signal: Tensor) -> Tensor:
    """Signals of length 1; of length 0 where they are 0."""
    return signal / signal.norm(dim=-1, keepdim=True).clamp_min(1e-20)
