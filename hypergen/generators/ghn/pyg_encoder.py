"""Models of torch_geometric as encoders of graph hypernetworks."""

from __future__ import annotations

import difflib
from typing import Any

import torch
from torch import Tensor, nn

from hypergen.errors import GeneratorError
from hypergen.generators.ghn.features import GraphBatch


class PyGEncoder(nn.Module):
    """Runs a model of torch_geometric over the operations of computational graphs, along the dataflow and back.

    ``GraphHypernetwork(encoder="pyg:GIN")`` makes one by name; any other model, ``model(x, edge_index, batch=…)``
    with ``x`` ``[num_nodes, hidden]`` → the same, is passed to this class and assigned to ``generator.encoder``.

    Args:
        model: Model, or its name: ``"GPS"`` for Rampášek et al., *Recipe for a General, Powerful, Scalable Graph
            Transformer*, 2022 (arXiv 2205.12454), over GIN layers; or a class of ``torch_geometric.nn`` that is built
            from channels and layers, such as ``"GIN"``, ``"GAT"`` or ``"GCN"``.
        hidden: Width of the node states.
        layers: Layers of the model.
        heads: Attention heads of GPS.

    Shapes:
        nodes: ``[num_graphs, max_nodes, hidden]`` → the same.

    Raises:
        GeneratorError: torch_geometric is not installed, or has no such model.
    """

    def __init__(self, model: nn.Module | str, hidden: int = 64, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.model: Any = _by_name(model, hidden, layers, heads) if isinstance(model, str) else model

    def forward(self, nodes: Tensor, batch: GraphBatch) -> Tensor:
        """Encode the nodes of a batch of graphs; padding stays zero."""
        numbers = batch.mask.flatten().cumsum(0).view_as(batch.mask) - 1
        graph, source, target = torch.nonzero(batch.distances == 1, as_tuple=True)
        forth = torch.stack((numbers[graph, source], numbers[graph, target]))
        of_graph = batch.mask.nonzero()[:, 0]
        states = self.model(nodes[batch.mask], torch.cat((forth, forth.flip(0)), 1), batch=of_graph)
        return torch.zeros_like(nodes).masked_scatter(batch.mask[..., None], states.to(nodes.dtype))


class _GPS(nn.Module):
    """GPS layers over GIN: message passing and attention within each graph side by side."""

    def __init__(self, hidden: int, layers: int, heads: int) -> None:
        super().__init__()
        from torch_geometric.nn import GINConv, GPSConv

        def conv() -> nn.Module:
            return GINConv(nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, hidden)))

        # Normalised node by node: with statistics of a batch, a graph's parameters would depend on the other graphs.
        self.layers = nn.ModuleList(GPSConv(hidden, conv(), heads, norm="layer_norm") for _ in range(layers))

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, edge_index, batch)
        return x


def _by_name(name: str, hidden: int, layers: int, heads: int) -> nn.Module:
    try:
        import torch_geometric.nn as pyg
        from torch_geometric.nn.models.basic_gnn import BasicGNN
    except ImportError as error:
        raise GeneratorError(
            f"encoder='pyg:{name}' needs torch_geometric. Install it: pip install torch_geometric."
        ) from error
    if name == "GPS":
        return _GPS(hidden, layers, heads)
    # Only classes of one base: a checkpoint gives the name, and must not choose what else is called.
    known = {kind.__name__: kind for kind in BasicGNN.__subclasses__() if hasattr(pyg, kind.__name__)}
    if name not in known:
        near = difflib.get_close_matches(name, [*known, "GPS"], 1)
        raise GeneratorError(
            f"torch_geometric has no model {name!r} that is built from channels and layers; known are GPS, "
            f"{', '.join(sorted(known))}.{f' Did you mean {near[0]!r}?' if near else ''} Give another model to "
            "PyGEncoder itself."
        )
    return known[name](hidden, hidden, layers, hidden)
