"""Parameter graphs as graphs of torch_geometric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hypergen.errors import HypergenError


def parameter_data(blocks: Sequence[Any], node_sets: Sequence[Any], num_nodes: int, values: Sequence[Tensor]) -> Any:
    """Make the ``Data`` of the parameters of one network.

    Args:
        blocks: Blocks of the parameter graph.
        node_sets: Its node sets.
        num_nodes: Number of its nodes.
        values: Parameters in the graph's form, ``[*block.shape, features]`` per block.

    Returns:
        ``torch_geometric.data.Data``, see :meth:`ParameterGraph.to_pyg`.

    Raises:
        HypergenError: torch_geometric is not installed.
    """
    try:
        from torch_geometric.data import Data
    except ImportError as error:
        raise HypergenError("A graph of torch_geometric needs torch_geometric: pip install torch_geometric.") from error
    x = torch.full((num_nodes, 3), -1)
    for number, each in enumerate(node_sets):
        nodes = slice(each.start, each.start + each.size)
        x[nodes, 0] = number
        # Nodes that stay as they are have a place; those that permute are alike but for their weights.
        x[nodes, 1] = torch.arange(each.size) if each.group.fixed else -1
        x[nodes, 2] = 2 if each.is_place else int(bool(each.group.fixed))
    ends = [_ends(block, num_nodes) for block in blocks]
    sizes = [torch.Size(block.shape).numel() for block in blocks]
    return Data(
        x=x,
        edge_index=torch.cat([each[:2] for each in ends], 1),
        edge_attr=torch.cat([value.reshape(-1, value.shape[-1]) for value in values]),
        edge_block=torch.repeat_interleave(torch.arange(len(blocks)), torch.tensor(sizes)),
        edge_place=torch.cat([each[2] for each in ends]),
    )


def _ends(block: Any, none: int) -> Tensor:
    """Source, target and place in a kernel of each weight of a block, ``[3, weights]``."""
    axes = [axis for axis in block.axes if axis.nodes.shape[-1] and bool((axis.nodes < none).any())]
    neurons = [_nodes(block, axis, none) for axis in axes if axis.receives]
    places = [_nodes(block, axis, none) for axis in axes if not axis.receives]
    if not neurons:
        neurons, places = places, []
    size = torch.Size(block.shape).numel()
    if not neurons:
        neurons = [torch.zeros(size, dtype=torch.int64)]
    place = torch.zeros(size, dtype=torch.int64)
    for nodes in places:
        first = int(nodes.min())
        place = place * (int(nodes.max()) - first + 1) + nodes - first
    # A bias belongs to its neuron alone; a weight leads from the last axis of neurons to the first, as in a matrix.
    source, target = neurons[-1], neurons[0]
    target = torch.where(target == none, source, target)
    source = torch.where(source == none, target, source)
    return torch.stack((source, target, place)).clamp(max=none - 1)


def _nodes(block: Any, axis: Any, none: int) -> Tensor:
    """The node of each weight along an axis, ``[weights]``; of a head and a channel in it, the channel."""
    order = sorted(range(axis.nodes.shape[1]), key=lambda slot: -len(axis.nodes[:, slot].unique()))
    nodes = axis.nodes[:, order[0]]
    for slot in order[1:]:
        nodes = torch.where(nodes == none, axis.nodes[:, slot], nodes)
    view = [size if dim in axis.dims else 1 for dim, size in enumerate(block.shape)]
    return nodes.reshape(view).expand(block.shape).flatten()
