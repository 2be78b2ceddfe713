"""What a graph hypernetwork reads of a canonical graph: sizes that do not depend on the layout of tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from hypergen.generators.ghn.addresses import SEGMENT_SHIFT, AxisAddresses
from hypergen.generators.ghn.canonical import ROLES, CanonicalGraph
from hypergen.generators.ghn.layout import BlockedParameter
from hypergen.generators.ghn.slots import NORM_OPS, Slot, slots_of
from hypergen.graph import OpNode

_FLAT = {"last": "last_flat", "linear": "flat", "expand": "flat", "reduce": "flat"}
_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")  # rows of several gates lie one after the other

Addresses = Mapping[str, Tensor]


def addressed_slots(
    canonical: CanonicalGraph, axes: Mapping[str, Sequence[AxisAddresses]], channel_identity: bool
) -> tuple[tuple[Slot, ...], Addresses, Addresses]:
    """What is to be predicted, with the addresses of rows and columns that are not called by their number."""
    nodes = canonical.graph.nodes
    slots, rows, columns = [], {}, {}
    for slot in slots_of(canonical.graph):
        node = nodes[slot.node]
        own = axes.get(canonical.parameter(slot.name), ())
        if not own or any(node.op.startswith(op) for op in _RECURRENT):
            slots.append(slot)
            continue
        if slot.is_matrix and len(own) >= 2 and slot.site != "table":
            column = own[0 if slot.transposed else 1]
            slot, address = _with_columns(slot, node, column, canonical.patches.get(slot.node), channel_identity)
            if address is not None:
                columns[slot.name] = address
        row = own[1 if slot.is_matrix and slot.transposed else 0] if len(own) > 1 or not slot.is_matrix else None
        if row is not None and channel_identity:
            address = _row_address(slot, row, canonical)
            if address is not None:
                rows[slot.name] = address
        slots.append(slot)
    return tuple(slots), rows, columns


def blocked_parameters(canonical: CanonicalGraph) -> tuple[BlockedParameter, ...]:
    """Which parameters are put together from blocks, and how."""
    found: dict[str, list[str]] = {}
    for name, block in canonical.blocks.items():
        found.setdefault(block.parameter, []).append(name)
    result = []
    for parameter, names in found.items():
        rows = torch.cat([canonical.blocks[name].rows for name in names])
        order = rows.argsort()
        plain = bool((order == torch.arange(len(order))).all())
        dim = canonical.blocks[names[0]].dim
        result.append(BlockedParameter(parameter, dim, tuple(names), None if plain else order))
    return tuple(result)


def canonical_attributes(canonical: CanonicalGraph, slots: Sequence[Slot]) -> Tensor:
    """Sizes and settings of the nodes, about unit range: ``[num_nodes, num_attributes]``."""
    graph = canonical.graph
    count = len(graph.nodes)
    incoming = graph.incoming
    depth = [0] * count
    for i, sources in enumerate(incoming):
        depth[i] = max((depth[source] + 1 for source in sources), default=0)
    largest = {slot.node: slot for slot in sorted(slots, key=lambda slot: math.prod(slot.shape))}
    channels, positions = _sizes(graph.nodes, incoming, largest)
    deepest, parameters = max(depth, default=0), math.log2(1 + len(slots)) / 3 - 1
    rows = []
    for i, node in enumerate(graph.nodes):
        slot, attributes = largest.get(i), node.attributes
        kernel = slot.grid if slot else _sides(attributes.get("kernel_size"))[:1]
        first = incoming[i][0] if incoming[i] else -1
        mixes = slot is not None and first >= 0 and slot.columns != channels[first] and slot.columns == positions[first]
        role = canonical.roles.get(i, -1)
        rows.append(
            [
                depth[i] / max(deepest, 1),
                math.log2(max(count, 1)) / 6 - 1,
                math.log2(channels[i]) / 4 - 1,
                math.log2(positions[i]) / 4,
                math.log2(max(slot.rows, 1)) / 4 - 1 if slot else 0.0,
                math.log2(max(slot.columns, 1)) / 4 - 1 if slot else 0.0,
                math.log2(max(slot.fan_in, 1)) / 4 - 1 if slot else 0.0,
                math.log2(max(math.prod(kernel), 1)) / 4 if kernel else 0.0,
                math.log2(max(_sides(attributes.get("stride")))),
                math.log2(max(int(attributes.get("groups", 1)), 1)) / 4,
                float(slot is not None and slot.site == "depthwise"),
                math.log2(max(_sides(attributes.get("dilation")))),
                len(incoming[i]) / 2 - 0.5,
                len(graph.outgoing[i]) / 2 - 0.5,
                float(mixes),
                parameters,
                *(float(role == number) for number in range(len(ROLES))),
            ]
        )
    return torch.tensor(rows, dtype=torch.float32)


def _with_columns(
    slot: Slot, node: OpNode, column: AxisAddresses, patch: tuple[int, int] | None, identity: bool
) -> tuple[Slot, Tensor | None]:
    """A slot with the channels and positions that its columns stand for, and their addresses."""
    if patch is not None:
        slot = replace(slot, site="first_conv", columns=column.count, grid=patch)
        address = column.channels * math.prod(patch) + column.positions
        return slot, None if _counts_on(address) else address
    places = len(column.channels)
    if column.patch and slot.site in ("first_linear", *_FLAT) and len(node.shape) == 2:  # the whole image
        slot = replace(slot, site="first_linear", columns=column.count, grid=tuple(column.patch))
        address = column.channels * math.prod(column.patch) + column.positions
        return slot, None if _counts_on(address) else address
    if column.grid and node.op == "linear" and len(slot.shape) == 2 and len(node.shape) == 2:
        positions = math.prod(column.grid)
        slot = replace(slot, site=_FLAT.get(slot.site, slot.site), columns=column.count, grid=column.grid)
        address = column.channels * positions + column.positions
        if identity:
            address = address + (column.segments << SEGMENT_SHIFT)
        return slot, None if _counts_on(address) else address
    if not identity or column.grid or column.plain or slot.columns != places:
        return slot, None
    # A channel keeps its kernel positions together.
    kernel = torch.arange(slot.positions)
    address = (column.channels[:, None] * slot.positions + kernel).flatten()
    return slot, address + (column.segments << SEGMENT_SHIFT).repeat_interleave(slot.positions)


def _row_address(slot: Slot, row: AxisAddresses, canonical: CanonicalGraph) -> Tensor | None:
    if row.grid or row.patch or row.plain:
        return None
    channels, segments = row.channels, row.segments
    if slot.name in canonical.blocks:
        own = canonical.blocks[slot.name].rows
        if len(channels) <= int(own.max()):
            return None
        channels, segments = channels[own], torch.zeros_like(own)
    if len(channels) != slot.rows:
        return None
    address = channels + (segments << SEGMENT_SHIFT)
    return None if _counts_on(address) else address


def _counts_on(address: Tensor) -> bool:
    return bool((address == torch.arange(len(address))).all())


def _sizes(
    nodes: Sequence[OpNode], incoming: Sequence[Sequence[int]], largest: Mapping[int, Slot]
) -> tuple[list[int], list[int]]:
    """Channels and positions of what each node gives, whichever axes they lie along."""
    batch = next((node.shape[0] for node in nodes if node.op == "input" and node.shape), 1) or 1
    channels: list[int] = []
    positions: list[int] = []
    for i, node in enumerate(nodes):
        slot, sources = largest.get(i), incoming[i]
        values = max(math.prod(node.shape) // batch, 1)
        if slot is not None and (slot.is_matrix or node.op in NORM_OPS):
            own = slot.columns if slot.site == "table" else slot.rows * (slot.groups if slot.transposed else 1)
        elif node.op in ("cat", "stack") and sources:
            own = max(values // positions[sources[0]], 1)
        elif sources:
            own = channels[sources[0]]
        elif len(node.shape) > 3:
            own = node.shape[1]
        else:
            own = node.shape[-1] if node.shape else 1
        own = max(int(own), 1)
        channels.append(own)
        positions.append(max(values // own, 1))
    return channels, positions


def _sides(value: object) -> tuple[int, ...]:
    values = value if isinstance(value, (tuple, list)) else (value,)
    return tuple(v if isinstance(v, int) and v > 0 else 1 for v in values) or (1,)
