"""Graph neural networks: torch_geometric's models and convolutions, on a graph of eight nodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric import nn as pyg
from torch_geometric.nn import aggr

from benchmarks.trace_suites import Case

EXCLUDED: Mapping[str, str] = {
    "SchNet, DimeNet, DimeNetPlusPlus": "build their graph from positions with torch_cluster, which is not installed",
}

_NODES, _FEATURES, _EDGE_FEATURES = 8, 6, 4


def cases() -> Iterator[Case]:
    """Every whole model, and a network of two layers per convolution."""
    for name in ("GCN", "GraphSAGE", "GIN", "GAT", "EdgeCNN"):
        yield Case(name, partial(getattr(pyg, name), _FEATURES, 8, 3, 2), _graph)
    yield Case("GATv2", partial(pyg.GAT, _FEATURES, 8, 3, 2, v2=True, heads=2), _graph)
    yield Case("GCN-jumping-knowledge", partial(pyg.GCN, _FEATURES, 8, 3, 2, norm="batch", jk="lstm"), _graph)
    yield Case("PNA", _pna, _graph)
    yield Case("GraphUNet", partial(pyg.GraphUNet, _FEATURES, 8, 2, 2), _graph)
    yield Case("GPS", GPS, lambda: (*_graph(), _edge_features()))
    yield Case("graph-classifier", GraphClassifier, lambda: (*_graph(), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])))
    yield Case("top-k-pooling", TopKClassifier, lambda: (*_graph(), torch.zeros(_NODES, dtype=torch.int64)))
    yield Case("heterogeneous", _heterogeneous, _heterogeneous_graph)
    yield Case("LightGCN", partial(pyg.LightGCN, _NODES, 8, 2), lambda: (_edges(),))
    yield Case("DeepGCN", DeepGCN, lambda: (*_graph(), _edge_features()))
    yield Case("MetaPath-free-MLP", partial(pyg.MLP, [_FEATURES, 8, 3]), lambda: (torch.randn(_NODES, _FEATURES),))
    yield Case("AttentiveFP", partial(pyg.AttentiveFP, _FEATURES, 8, 3, _EDGE_FEATURES, 2, 2), _attentive)
    for name, build in CONVOLUTIONS.items():
        yield Case(name, partial(TwoLayers, build), _graph)
    for name, build in WITH_EDGE_FEATURES.items():
        yield Case(name, partial(TwoLayers, build), lambda: (*_graph(), _edge_features()))
    yield Case("RGCNConv", partial(TwoLayers, lambda i, o: pyg.RGCNConv(i, o, 3)), lambda: (*_graph(), _edge_types()))


CONVOLUTIONS: dict[str, Any] = {
    **{
        name: getattr(pyg, name)
        for name in """GCNConv SAGEConv GraphConv GATConv GATv2Conv TransformerConv LEConv ClusterGCNConv GENConv
        SuperGATConv ResGatedGraphConv MFConv GeneralConv FiLMConv EGConv SGConv TAGConv ARMAConv
        LGConv AntiSymmetricConv""".split()
        if name not in ("LGConv", "AntiSymmetricConv", "EGConv")
    },
    "ChebConv": lambda i, o: pyg.ChebConv(i, o, K=3),
    "SSGConv": lambda i, o: pyg.SSGConv(i, o, alpha=0.1),
    "GINConv": lambda i, o: pyg.GINConv(nn.Sequential(nn.Linear(i, o), nn.ReLU(), nn.Linear(o, o))),
    "EdgeConv": lambda i, o: pyg.EdgeConv(nn.Linear(2 * i, o)),
    "EGConv": lambda i, o: pyg.EGConv(i, o, num_heads=1),
    "GatedGraphConv": lambda i, o: pyg.GatedGraphConv(max(i, o), 2),
    "APPNP": lambda i, o: pyg.Sequential("x, e", [(nn.Linear(i, o), "x -> x"), (pyg.APPNP(2, 0.1), "x, e -> x")]),
}

WITH_EDGE_FEATURES: dict[str, Any] = {
    "GINEConv": lambda i, o: pyg.GINEConv(nn.Linear(i, o), edge_dim=_EDGE_FEATURES),
    "GATConv-edges": lambda i, o: pyg.GATConv(i, o, edge_dim=_EDGE_FEATURES, heads=2, concat=False),
    "TransformerConv-edges": lambda i, o: pyg.TransformerConv(i, o, edge_dim=_EDGE_FEATURES, heads=2, concat=False),
    "NNConv": lambda i, o: pyg.NNConv(i, o, nn.Linear(_EDGE_FEATURES, i * o)),
    "CGConv": lambda i, o: pyg.Sequential(
        "x, e, a", [(pyg.CGConv(i, _EDGE_FEATURES), "x, e, a -> x"), (nn.Linear(i, o), "x -> x")]
    ),
    "GMMConv": lambda i, o: pyg.GMMConv(i, o, dim=_EDGE_FEATURES, kernel_size=2),
}


class TwoLayers(nn.Module):
    """A convolution, a ReLU and a convolution."""

    def __init__(self, build: Any) -> None:
        super().__init__()
        self.first, self.second = build(_FEATURES, 8), build(8, 3)

    def forward(self, x: Tensor, *graph: Tensor) -> Tensor:
        """Map node features to node features."""
        return self.second(torch.relu(self.first(x, *graph)), *graph)


class GPS(nn.Module):
    """Local convolutions beside global attention (Rampášek et al., 2022)."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.edges = nn.Linear(_FEATURES, 8), nn.Linear(_EDGE_FEATURES, 8)
        self.layers = nn.ModuleList(pyg.GPSConv(8, pyg.GINEConv(nn.Linear(8, 8)), heads=2) for _ in range(2))

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        """Map node features to node features."""
        x, edge_attr = self.encode(x), self.edges(edge_attr)
        batch = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
        for layer in self.layers:
            x = layer(x, edge_index, batch, edge_attr=edge_attr)
        return x


class GraphClassifier(nn.Module):
    """Convolutions, several ways to pool, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = pyg.GCNConv(_FEATURES, 8), pyg.GraphNorm(8)
        self.pool = aggr.MultiAggregation(["mean", "max", "std", aggr.Set2Set(8, 2)])
        self.attention = aggr.AttentionalAggregation(nn.Linear(8, 1))
        self.head = nn.Linear(8 * 6, 3)

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        """Map a batch of graphs to classes."""
        x = self.norm(self.conv(x, edge_index).relu(), batch)
        return self.head(torch.cat([self.pool(x, batch), self.attention(x, batch)], dim=1))


class TopKClassifier(nn.Module):
    """Keeps the nodes of the highest scores: the graph that is left depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool, self.last = pyg.GraphConv(_FEATURES, 8), pyg.TopKPooling(8), pyg.GraphConv(8, 3)

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        """Map a batch of graphs to classes."""
        x = self.conv(x, edge_index).relu()
        x, edge_index, _, batch, _, _ = self.pool(x, edge_index, batch=batch)
        return pyg.global_mean_pool(self.last(x, edge_index), batch)


class DeepGCN(nn.Module):
    """Residual layers of generalised aggregation (Li et al., 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.edges = nn.Linear(_FEATURES, 8), nn.Linear(_EDGE_FEATURES, 8)
        self.layers = nn.ModuleList(
            pyg.DeepGCNLayer(pyg.GENConv(8, 8, aggr="softmax", learn_t=True), nn.LayerNorm(8), nn.ReLU())
            for _ in range(2)
        )

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        """Map node features to node features."""
        x, edge_attr = self.encode(x), self.edges(edge_attr)
        for layer in self.layers:
            x = layer(x, edge_index, edge_attr)
        return x


def _pna() -> nn.Module:
    degrees = torch.bincount(torch.tensor([2] * _NODES))
    return pyg.PNA(
        _FEATURES, 8, 2, 3, aggregators=["mean", "max", "std"], scalers=["identity", "amplification"], deg=degrees
    )


def _heterogeneous() -> nn.Module:
    layer = pyg.HeteroConv(
        {("paper", "cites", "paper"): pyg.GCNConv(-1, 8), ("author", "writes", "paper"): pyg.SAGEConv((-1, -1), 8)}
    )
    with torch.device("cpu"):
        layer(*_heterogeneous_graph())  # gives the lazy layers their shapes
    return layer


def _heterogeneous_graph() -> tuple[dict[str, Tensor], dict[Any, Tensor]]:
    x = {"paper": torch.randn(_NODES, _FEATURES), "author": torch.randn(_NODES, 5)}
    return x, {("paper", "cites", "paper"): _edges(), ("author", "writes", "paper"): _edges()}


def _edges() -> Tensor:
    """A ring, both ways."""
    start = torch.arange(_NODES)
    end = (start + 1) % _NODES
    return torch.stack([torch.cat([start, end]), torch.cat([end, start])])


def _graph() -> tuple[Tensor, Tensor]:
    return torch.randn(_NODES, _FEATURES), _edges()


def _edge_features() -> Tensor:
    return torch.rand(2 * _NODES, _EDGE_FEATURES)


def _edge_types() -> Tensor:
    return torch.arange(2 * _NODES) % 3


def _attentive() -> tuple[Tensor, ...]:
    return (*_graph(), _edge_features(), torch.zeros(_NODES, dtype=torch.int64))
