"""Computational graphs as graphs of torch_geometric, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hypergen.errors import HypergenError


def graph_data(
    nodes: Sequence[Mapping[str, Any]], operations: Sequence[int], edges: Tensor, facts: Mapping[str, Any]
) -> Any:
    """Make the ``Data`` of a computational graph.

    Args:
        nodes: Fields of each operation.
        operations: Number of each operation in the vocabulary.
        edges: ``[2, num_edges]``.
        facts: What else the graph states.

    Returns:
        ``torch_geometric.data.Data``: ``x`` ``[num_nodes, 1]`` holds the operations' numbers, ``edge_index`` the
        dataflow, ``nodes`` and ``facts`` what the way back needs.

    Raises:
        HypergenError: torch_geometric is not installed.
    """
    Data = _torch_geometric().data.Data
    x = torch.tensor(operations, dtype=torch.int64)[:, None]
    return Data(x=x, edge_index=edges.clone(), nodes=[dict(node) for node in nodes], facts=dict(facts))


def _torch_geometric() -> Any:
    try:
        import torch_geometric.data
    except ImportError as error:
        raise HypergenError("A graph of torch_geometric needs torch_geometric: pip install torch_geometric.") from error
    return torch_geometric
