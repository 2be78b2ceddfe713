import pickle

import torch

from hypergen.graph import ComputationalGraph, OpNode
from hypergen.graph.computational_graph import edge_tensor


def graph_of(ops, edges, parameters=()):
    nodes = tuple(OpNode(op, parameters=dict(parameters).get(i, {})) for i, op in enumerate(ops))
    return ComputationalGraph(nodes, edge_tensor(edges), {})


def test_shortest_paths():
    graph = graph_of("abcdef", [(0, 1), (1, 2), (2, 3), (0, 3), (3, 4)])
    expected = [
        [0, 1, 2, 1, 2, -1],
        [-1, 0, 1, 2, 3, -1],
        [-1, -1, 0, 1, 2, -1],
        [-1, -1, -1, 0, 1, -1],
        [-1, -1, -1, -1, 0, -1],
        [-1, -1, -1, -1, -1, 0],
    ]
    paths = graph.shortest_paths()
    assert paths.dtype == torch.int16
    assert paths.tolist() == expected
    assert graph.shortest_paths(cutoff=2).max() == 2


def test_shortest_paths_against_powers_of_the_adjacency_matrix():
    generator = torch.Generator().manual_seed(0)
    edges = [(i, j) for i in range(30) for j in range(i + 1, 30) if torch.rand((), generator=generator) < 0.08]
    graph = graph_of("x" * 30, edges)
    adjacency = torch.zeros(30, 30)
    adjacency[graph.edges[0], graph.edges[1]] = 1
    expected, reach = torch.full((30, 30), -1), torch.eye(30)
    for length in range(30):
        expected[(expected < 0) & (reach > 0)] = length
        reach = reach @ adjacency
    assert torch.equal(graph.shortest_paths().long(), expected)


def test_a_graph_without_edges():
    graph = graph_of(["input"], [])
    assert graph.edges.shape == (2, 0)
    assert graph.shortest_paths().tolist() == [[0]]
    assert graph.without(["input"]).nodes == ()


def test_without_contracts_nodes():
    ops = ["input", "view", "linear", "view", "view", "add"]
    edges = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (1, 5)]
    smaller = graph_of(ops, edges).without(["view"])
    assert [node.op for node in smaller.nodes] == ["input", "linear", "add"]
    assert smaller.edges.t().tolist() == [[0, 1], [1, 2], [0, 2]]


def test_without_keeps_nodes_that_read_parameters():
    graph = graph_of(["input", "getitem", "getitem"], [(0, 1), (1, 2)], {1: {"table": "table"}}.items())
    assert [dict(node.parameters) for node in graph.without(["getitem"]).nodes] == [{}, {"table": "table"}]


def test_graphs_travel_between_processes():
    graph = graph_of("abc", [(0, 1), (1, 2)])
    graph.readers  # noqa: B018  (a cached property)
    copy = pickle.loads(pickle.dumps(graph))
    assert copy.nodes == graph.nodes
    assert torch.equal(copy.edges, graph.edges)
    assert repr(copy) == "ComputationalGraph(3 nodes, 2 edges, 0 parameters, 0 unused)"


def test_neighbours_and_the_layers_behind_values():
    # input → two layers → sum → tanh → last layer
    edges = [(0, 1), (0, 2), (1, 3), (2, 3), (3, 4), (4, 5)]
    graph = graph_of(
        ["input", "linear", "linear", "add", "tanh", "linear"],
        edges,
        {1: {"weight": "a"}, 2: {"weight": "b"}, 5: {"weight": "c"}},
    )
    assert graph.incoming == ((), (0,), (0,), (1, 2), (3,), (4,))
    assert graph.outgoing == ((1, 2), (3,), (3,), (4,), (5,), ())
    assert sorted(graph.layers_behind([4])) == [1, 2]
    assert sorted(graph.layers_behind(graph.incoming[5])) == [1, 2]
    assert graph.layers_behind([5]) == [5] and graph.layers_behind([0]) == []
