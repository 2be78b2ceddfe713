import numpy as np
import pytest
import torch
from torch import nn

from hypergen.generators.ghn.features import PATH_CUTOFF, GraphBatch
from hypergen.generators.ghn.gated_gnn import GatedGNN
from hypergen.generators.ghn.graphormer import Graphormer
from hypergen.generators.ghn.node_features import NodeFeatures
from hypergen.graph import ComputationalGraph, OpNode

HIDDEN = 8
ENCODERS = {
    "graphormer": lambda: Graphormer(HIDDEN, layers=2, heads=2),
    "gated_gnn": lambda: GatedGNN(HIDDEN),
    "node_features": lambda: Surroundings(),
}


class Surroundings(nn.Module):
    """The part of the node features that looks around, as an encoder."""

    def __init__(self):
        super().__init__()
        self.features = NodeFeatures(HIDDEN, reach=3)
        self.features.operation = nn.Identity()
        self.features.attributes = nn.Identity()

    def forward(self, nodes, batch):
        return self.features(GraphBatch(nodes, torch.zeros_like(nodes), *list(vars(batch).values())[2:]))


@pytest.fixture(params=ENCODERS)
def encoder(request):
    torch.manual_seed(0)
    encoder = ENCODERS[request.param]()
    # Away from initialisation, where some parts (biases, tables) are still alike.
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.5)
    return encoder


def random_edges(seed, count, share=0.25):
    chosen = np.random.default_rng(seed).random((count, count)) < share
    return [(i, j) for i in range(count) for j in range(i + 1, count) if chosen[i, j]]


def chain(count):
    return [(i, i + 1) for i in range(count - 1)]


def distances_of(count, edges):
    edges = torch.tensor(edges, dtype=torch.int64).reshape(-1, 2).t()
    graph = ComputationalGraph(tuple(OpNode("relu") for _ in range(count)), edges, {})
    return graph.shortest_paths(PATH_CUTOFF).long()


def make_batch(*distances):
    size = max(map(len, distances))
    padded = torch.full((len(distances), size, size), -1)
    mask = torch.zeros(len(distances), size, dtype=torch.bool)
    for i, d in enumerate(distances):
        padded[i, : len(d), : len(d)] = d
        mask[i, : len(d)] = True
    none = torch.zeros(0, dtype=torch.int64)
    return GraphBatch(mask.long(), mask.float(), padded, mask, none, none, none, none.float(), ())


def states(*shape, seed=0):
    return torch.randn(*shape, HIDDEN, generator=torch.Generator().manual_seed(seed))


def test_padding_is_ignored(encoder):
    small, large = distances_of(5, random_edges(0, 5)), distances_of(9, random_edges(1, 9))
    nodes = states(2, 9)
    both = encoder(nodes, make_batch(small, large))
    torch.testing.assert_close(both[:1, :5], encoder(nodes[:1, :5], make_batch(small)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(both[1:], encoder(nodes[1:], make_batch(large)), rtol=1e-5, atol=1e-5)
    # What lies in the padding reaches nobody.
    nodes[0, 5:] = 100.0
    torch.testing.assert_close(encoder(nodes, make_batch(small, large))[0, :5], both[0, :5], rtol=1e-5, atol=1e-5)


def test_padding_sends_no_gradient(encoder):
    nodes = states(2, 9).requires_grad_()
    encoded = encoder(nodes, make_batch(distances_of(5, chain(5)), distances_of(9, chain(9))))
    (encoded[0, :5].sum(-1) @ torch.arange(5.0)).backward()
    assert nodes.grad.isfinite().all() and (nodes.grad[0, 5:] == 0).all() and (nodes.grad[1] == 0).all()


@pytest.mark.parametrize("other", ["missing", "moved", "reversed"])
def test_graphs_that_differ_in_an_edge_are_told_apart(encoder, other):
    edges = chain(6)
    others = {
        "missing": edges[:3] + edges[4:],
        "moved": [*edges[:-1], (3, 5)],
        "reversed": [(5 - target, 5 - source) for source, target in edges],
    }
    # The same states in both. They differ from node to node, because an average of equals shows no weights.
    nodes = states(1, 6)
    distances = distances_of(6, edges if other != "reversed" else [(0, 2), *edges])
    changed = distances_of(6, others[other]) if other != "reversed" else distances.t()
    one, two = (encoder(nodes, make_batch(d)) for d in (distances, changed))
    assert (one - two).abs().amax() > 1e-2


def test_order_of_the_nodes_does_not_matter(encoder):
    distances, nodes = distances_of(8, random_edges(2, 8)), states(1, 8)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    shuffled = encoder(nodes[:, order], make_batch(distances[order][:, order]))
    torch.testing.assert_close(shuffled, encoder(nodes, make_batch(distances))[:, order], rtol=1e-4, atol=1e-5)


def test_a_single_node_is_encoded(encoder):
    assert encoder(states(1, 1), make_batch(distances_of(1, []))).isfinite().all()


def one_by_one(gnn, nodes, edges):
    """The gated graph neural network as its paper writes it: one node after the other."""
    count = len(nodes)
    lengths = np.full((count, count), np.inf)
    for source, target in edges:
        lengths[source, target] = 1
    for via in range(count):
        lengths = np.minimum(lengths, lengths[:, via : via + 1] + lengths[via : via + 1])
    nodes = list(nodes)
    for order, length in ((range(count), lengths), (reversed(range(count)), lengths.T)):
        for v in order:
            message = torch.zeros(HIDDEN)
            for u in range(count):
                if length[u, v] == 1:
                    message = message + gnn.near(nodes[u])
                elif length[u, v] < PATH_CUTOFF:
                    message = message + gnn.far(nodes[u]) / float(length[u, v])
            nodes[v] = gnn.gru(message[None], nodes[v][None])[0]
    return gnn.norm(torch.stack(nodes))


@pytest.mark.parametrize(
    ("count", "edges"),
    [
        (1, []),
        (4, []),
        (7, chain(7)),
        (PATH_CUTOFF + 5, chain(PATH_CUTOFF + 5)),
        (5, [(0, 1), (0, 2), (1, 3), (2, 3), (0, 4), (3, 4)]),
        *((12, random_edges(seed, 12)) for seed in range(4)),
        (12, random_edges(4, 12, 0.7)),
    ],
)
def test_levelwise_sweep_equals_node_by_node(count, edges):
    torch.manual_seed(0)
    gnn, nodes = GatedGNN(HIDDEN), states(count)
    with torch.no_grad():
        expected = one_by_one(gnn, nodes, edges)
        found = gnn(nodes[None], make_batch(distances_of(count, edges)))[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_surroundings_by_hand():
    surroundings = Surroundings()
    nodes, distances = states(1, 5), distances_of(5, chain(5))
    weights = surroundings.features.around.weight.view(HIDDEN, 6, HIDDEN)
    expected = nodes[0].clone()
    for i in range(5):
        for distance in (1, 2, 3):
            for weight, j in ((distance - 1, i + distance), (distance + 2, i - distance)):
                if 0 <= j < 5:
                    expected[i] = expected[i] + weights[:, weight] @ nodes[0, j]
    torch.testing.assert_close(surroundings(nodes, make_batch(distances))[0], expected, rtol=1e-4, atol=1e-5)
