"""What metanetworks owe: equivariance to every symmetry, and to nothing else; one result however it is computed."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.sweeps.edge_list import EdgeList
from hypergen.errors import ParameterError
from hypergen.graph import trace
from hypergen.metanets import EquivariantMetanetwork, GraphMetanetwork, InvariantMetanetwork, metanetwork
from hypergen.metanets.layers.edge_layer import EdgeLayer
from hypergen.metanets.layers.incidences import incidences_of
from hypergen.symmetry.verify import Verification, shared_groups, torn

_PATH = Path(__file__).parents[1] / "symmetry" / "networks.py"
_SPEC = importlib.util.spec_from_file_location("symmetry_networks", _PATH)
networks = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(networks)

MESSAGES = {
    "edge": {},
    "film": {"aggregators": ("mean", "min", "max", "std")},
    "attention": {"heads": 2},
    "transformer": {"heads": 2},
    "product": {},
}
# A group without a second parameter that carries it, or whose other uses are averaged out, has nothing to tear apart.
_TORN = [build for build in networks.NETWORKS if build is not networks.shared_within_heads]


def encoder_of(message, features=1, layers=2, hidden=8):
    torch.manual_seed(0)
    options = {"heads": 4, **MESSAGES[message]}
    return GraphMetanetwork(features=features, hidden=hidden, layers=layers, message=message, **options)


def made(build):
    torch.manual_seed(0)
    net, inputs = build(), networks.NETWORKS[build]
    graph = trace(net, inputs).parameter_graph()
    verification = Verification(net, inputs)
    tensors = {block.name: verification.tensors[block.name] for block in graph.blocks}
    return graph, tensors, verification.generator


def distance(one, other):
    gap = sum((one[name] - other[name]).square().sum() for name in one).sqrt()
    return float(gap / sum(values.square().sum() for values in one.values()).sqrt())


@pytest.mark.parametrize("message", MESSAGES)
@pytest.mark.parametrize("build", networks.NETWORKS, ids=lambda build: build.__name__)
@torch.no_grad()
def test_permuting_a_network_permutes_what_is_written_and_not_what_is_read(build, message):
    graph, tensors, generator = made(build)
    writer = EquivariantMetanetwork(encoder_of(message)).double()
    reader = InvariantMetanetwork(encoder_of(message), outputs=3).double()
    element = graph.symmetry.sample(generator)
    permuted = graph.symmetry.apply(tensors, element)
    written = graph.to_params(writer(graph, tensors))
    expected = graph.symmetry.apply(written, element)
    assert distance(expected, graph.to_params(writer(graph, permuted))) < 1e-9
    assert torch.allclose(reader(graph, tensors), reader(graph, permuted), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("message", MESSAGES)
@pytest.mark.parametrize("build", _TORN, ids=lambda build: build.__name__)
@torch.no_grad()
def test_permuting_one_parameter_alone_shows(build, message):
    graph, tensors, _ = made(build)
    reader = InvariantMetanetwork(encoder_of(message), outputs=3).double()
    before = reader(graph, tensors)
    for group in shared_groups(graph.symmetry):
        after = reader(graph, torn(graph.symmetry, group, tensors))
        assert (after - before).abs().max() > 1e-9 * before.abs().max()


@pytest.mark.parametrize("message", MESSAGES)
@torch.no_grad()
def test_permuting_across_heads_shows(message):
    graph, tensors, _ = made(networks.packed_attention)
    reader = InvariantMetanetwork(encoder_of(message), outputs=3).double()
    across = torch.arange(12).roll(1)
    permuted = {name: values.clone() for name, values in tensors.items()}
    for start in (0, 12, 24):
        rows = slice(start, start + 12)
        for name in ("attention.in_proj_weight", "attention.in_proj_bias"):
            permuted[name][rows] = tensors[name][rows][across]
    permuted["attention.out_proj.weight"] = tensors["attention.out_proj.weight"][:, across]
    before, after = reader(graph, tensors), reader(graph, permuted)
    assert (after - before).abs().max() > 1e-6 * before.abs().max()


@torch.no_grad()
def test_other_heads_and_other_running_statistics_show():
    # Where a published metanetwork reads the same (reference/metanets.md).
    outputs = []
    for heads in (2, 4):
        torch.manual_seed(0)
        net = networks.Net(
            lambda self, x: self.head(self.attention(*[self.stem(x)] * 3, need_weights=False)[0]),
            stem=nn.Linear(12, 12),
            attention=nn.MultiheadAttention(12, heads, batch_first=True),
            head=nn.Linear(12, 2),
        )
        graph = trace(net, networks.TOKENS).parameter_graph()
        outputs.append(InvariantMetanetwork(encoder_of("edge"))(graph, dict(net.named_parameters())))
    assert not torch.allclose(*outputs, rtol=1e-4)
    graph, tensors, _ = made(networks.cnn)
    reader = InvariantMetanetwork(encoder_of("product")).double()
    shifted = {**tensors, "1.running_mean": tensors["1.running_mean"] + torch.arange(4.0)}
    assert not torch.allclose(reader(graph, tensors), reader(graph, shifted), rtol=1e-4)


@pytest.mark.parametrize("nodes_first", [False, True])
@pytest.mark.parametrize(
    "build",
    [networks.mlp, networks.cnn, networks.grouped, networks.vit, networks.grouped_queries, networks.two_blocks_in_one],
    ids=lambda build: build.__name__,
)
def test_a_list_of_edges_gives_the_same(build, nodes_first):
    graph, tensors, _ = made(build)
    encoder = encoder_of("edge", layers=0).double()
    layers = [EdgeLayer(8).double() for _ in range(2)]
    states = encoder(graph, tensors)
    nodes, edges = states.nodes, list(states.edges)
    same_nodes, same_edges = states.nodes, EdgeList.flatten(states.edges)
    listed = EdgeList(graph)
    for layer in layers:
        nodes, edges = layer(incidences_of(graph), nodes, edges)
        same_nodes, same_edges = listed.layer(layer, same_nodes, same_edges, nodes_first)
    assert torch.allclose(nodes, same_nodes, rtol=1e-9, atol=1e-9)
    assert torch.allclose(EdgeList.flatten(edges), same_edges, rtol=1e-9, atol=1e-9)
    weights = [*layers[0].parameters(), *layers[1].parameters()]
    dense = torch.autograd.grad(nodes.square().sum() + sum(e.square().sum() for e in edges), weights, retain_graph=True)
    lists = torch.autograd.grad(same_nodes.square().sum() + same_edges.square().sum(), weights)
    assert all(torch.allclose(one, other, rtol=1e-7, atol=1e-7) for one, other in zip(dense, lists, strict=True))


def test_a_list_of_edges_refuses_other_messages():
    graph, _, _ = made(networks.mlp)
    with pytest.raises(ValueError, match="'edge' messages"):
        EdgeList(graph).layer(EdgeLayer(8, "film"), torch.zeros(1), torch.zeros(1))


@pytest.mark.parametrize("build", networks.NETWORKS, ids=lambda build: build.__name__)
@torch.no_grad()
def test_matrix_products_give_the_same_as_a_message_per_weight(build):
    graph, tensors, _ = made(build)
    encoder = encoder_of("product", features=2).double()
    other = {name: values.cos() for name, values in tensors.items()}
    products = encoder(graph, tensors, other).nodes
    for layer in encoder.layers:
        layer.explicit = True
    assert torch.allclose(products, encoder(graph, tensors, other).nodes, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("build", [networks.vit, networks.grouped, networks.lstm], ids=lambda build: build.__name__)
@torch.no_grad()
def test_decoding_in_chunks_gives_the_same(build, monkeypatch):
    graph, tensors, _ = made(build)
    writer = EquivariantMetanetwork(encoder_of("product"), outputs=2).double()
    whole = writer(graph, tensors)
    monkeypatch.setattr(metanetwork, "_CHUNK", 100)
    for one, other in zip(whole, writer(graph, tensors), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("message", MESSAGES)
@torch.no_grad()
def test_a_network_is_read_alone_as_in_a_batch(message):
    net = networks.cnn()
    graph = trace(net, networks.IMAGES).parameter_graph()
    own = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    tensors = {name: torch.rand(3, *values.shape, dtype=torch.float64) for name, values in own.items()}
    reader = InvariantMetanetwork(encoder_of(message), outputs=2).double()
    writer = EquivariantMetanetwork(encoder_of(message)).double()
    together, written = reader(graph, tensors), graph.to_params(writer(graph, tensors))
    for number in range(3):
        alone = {name: values[number] for name, values in tensors.items()}
        assert torch.allclose(reader(graph, alone)[0], together[number], rtol=1e-9, atol=1e-12)
        for name, values in graph.to_params(writer(graph, alone)).items():
            assert torch.allclose(values, written[name][number], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("message", MESSAGES)
def test_every_weight_of_a_metanetwork_learns(message):
    net = networks.packed_attention()
    graph = trace(net, networks.TOKENS).parameter_graph()
    tensors = {name: values.detach() for name, values in net.named_parameters()}
    writer = EquivariantMetanetwork(encoder_of(message))
    sum(values.square().sum() for values in writer(graph, tensors)).backward()
    unused = {name for name, parameter in writer.named_parameters() if parameter.grad is None}
    # The roles of axes that this network does not have: third ones, places, and single ones, which nothing else reads.
    absent = ("read.0.", "read.3.", "read.4.", "relation.3.")
    assert not [name for name in unused if not any(role in name for role in absent)]


def test_gradients_of_edges_are_right():
    torch.manual_seed(0)
    graph, _, _ = made(networks.mlp)
    layer = EdgeLayer(4).double()
    nodes = torch.randn(2, graph.num_nodes, 4, dtype=torch.float64, requires_grad=True)
    edges = [torch.randn(2, *block.shape, 4, dtype=torch.float64, requires_grad=True) for block in graph.blocks]

    def run(nodes, *edges):
        nodes, edges = layer(incidences_of(graph), nodes, edges)
        return nodes, *edges

    assert torch.autograd.gradcheck(run, (nodes, *edges))


@torch.no_grad()
def test_ends_are_read_one_by_one():
    graph, tensors, generator = made(networks.mlp)
    reader = InvariantMetanetwork(encoder_of("product"), ends=9).double()
    permuted = graph.symmetry.apply(tensors, graph.symmetry.sample(generator))
    assert torch.allclose(reader(graph, tensors), reader(graph, permuted), rtol=1e-9)
    with pytest.raises(ParameterError, match="8 inputs and outputs; got 9"):
        InvariantMetanetwork(encoder_of("product"), ends=8).double()(graph, tensors)


def test_what_does_not_fit_is_told():
    graph, tensors, _ = made(networks.mlp)
    reader = InvariantMetanetwork(encoder_of("edge"), extra=2).double()
    with pytest.raises(ParameterError, match="reads 1 features per weight; got 2"):
        reader(graph, tensors, tensors)
    with pytest.raises(ParameterError, match="2 further features of a network; got 0"):
        reader(graph, tensors)
    with pytest.raises(ParameterError, match="2 leading axes"):
        reader(graph, {name: values.expand(2, 3, *values.shape) for name, values in tensors.items()})
    with pytest.raises(ParameterError, match="no parameters"):
        reader(trace(nn.ReLU(), networks.VECTORS).parameter_graph(), {})
    with pytest.raises(ParameterError, match="3[0-9]{3} nodes is too large"):
        wide = nn.Sequential(nn.Linear(6, 3000), nn.Linear(3000, 2))
        GraphMetanetwork(hidden=8, message="transformer")(
            trace(wide, networks.VECTORS).parameter_graph(), dict(wide.named_parameters())
        )
    with pytest.raises(ValueError, match="aggregators"):
        EdgeLayer(8, aggregators=("median",))
    with pytest.raises(ValueError, match="message"):
        EdgeLayer(8, "telegram")
    with pytest.raises(ValueError, match="multiple of heads"):
        EdgeLayer(6, heads=4)
