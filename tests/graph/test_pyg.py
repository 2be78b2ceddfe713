import pytest
import torch
from torch import nn

import hypergen
from hypergen.generators import GraphHypernetwork

pytest.importorskip("torch_geometric")


def test_a_computational_graph_goes_to_torch_geometric_and_back():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 5))
    graph = hypergen.trace(net, torch.zeros(1, 3, 8, 8))
    data = graph.to_pyg()
    assert data.num_nodes == len(graph.nodes) and torch.equal(data.edge_index, graph.edges) and data.validate()
    assert data.x.unique().numel() == len({node.op for node in graph.nodes})
    back = type(graph).from_pyg(data)
    for name in ("nodes", "parameter_shapes", "unused_parameters", "tied_parameters", "outputs"):
        assert getattr(back, name) == getattr(graph, name), name
    torch.manual_seed(0)
    generator = GraphHypernetwork(hidden=16, heads=2, rank=8, steered_rank=2, width=16).eval()
    with torch.no_grad():
        expected, found = generator.generate(graph), generator.generate(back)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_graphs_are_batched_as_those_of_torch_geometric_are():
    from torch_geometric.data import Batch

    graphs = [hypergen.trace(nn.Linear(4, width), torch.zeros(1, 4)).to_pyg() for width in (2, 3)]
    assert Batch.from_data_list(graphs).num_nodes == sum(graph.num_nodes for graph in graphs)
