"""The parameter graph: parameters go into it and come back bit by bit, and nodes are what the symmetry says."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

from hypergen.errors import ParameterError
from hypergen.graph import trace
from hypergen.metanets import GraphMetanetwork, InvariantMetanetwork

_SPEC = importlib.util.spec_from_file_location("symmetry_networks", Path(__file__).with_name("networks.py"))
networks = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(networks)


def tensors_of(net, *batch):
    own = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    return {name: torch.randn((*batch, *tensor.shape)) for name, tensor in own.items()}


@pytest.mark.parametrize("build", networks.NETWORKS, ids=lambda build: build.__name__)
def test_parameters_come_back_bit_by_bit(build):
    net = build()
    graph = trace(net, networks.NETWORKS[build]).parameter_graph()
    for batch in ((), (2,)):
        tensors = tensors_of(net, *batch)
        back = graph.to_params(graph.to_data(tensors))
        assert {name for name, _ in net.named_parameters()} <= set(back)
        assert all(torch.equal(values, tensors[name]) for name, values in back.items())


def test_several_mappings_are_features():
    net = networks.mlp()
    graph = trace(net, networks.VECTORS).parameter_graph()
    histories = [tensors_of(net, 4) for _ in range(3)]
    data = graph.to_data(*histories)
    assert [tuple(values.shape) for values in data] == [(4, 4, 6, 3), (4, 4, 3), (4, 3, 4, 3), (4, 3, 3)]
    assert all(torch.equal(graph.to_params(data, 1)[name], histories[1][name]) for name in histories[1])


def test_gradients_go_through():
    net = networks.packed_attention()
    graph = trace(net, networks.TOKENS).parameter_graph()
    parameters = dict(net.named_parameters())
    doubled = graph.to_params([2 * values for values in graph.to_data(parameters)])
    sum(values.sum() for values in doubled.values()).backward()
    assert all(torch.equal(parameter.grad, torch.full_like(parameter, 2)) for parameter in parameters.values())


def nodes_of(graph, name, dim=0):
    block = next(block for block in graph.blocks if block.name == name)
    axis = next(axis for axis in block.axes if axis.dim == dim)
    return axis.nodes


def test_what_is_permuted_together_has_the_same_nodes():
    graph = trace(networks.cnn(), networks.IMAGES).parameter_graph()
    channels = nodes_of(graph, "0.weight")
    for name in ("0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"):
        assert torch.equal(nodes_of(graph, name), channels)
    flattened = nodes_of(graph, "5.weight", 1)  # channels, and places of the image
    assert torch.equal(flattened[:, 0], channels[:, 0].repeat_interleave(9))
    assert len(flattened[:, 1:].unique(dim=0)) == 9


def test_channels_within_heads_have_their_heads_as_nodes_too():
    graph = trace(networks.packed_attention(), networks.TOKENS).parameter_graph()
    rows = nodes_of(graph, "attention.in_proj_weight")
    queries, keys, values = rows.chunk(3)
    assert torch.equal(queries, keys)  # which are multiplied, channel by channel
    assert torch.equal(queries[:, 0], values[:, 0])  # the same heads
    assert not set(queries[:, 1].tolist()) & set(values[:, 1].tolist())
    assert [len(column.unique()) for column in queries.unbind(1)] == [3, 12]
    assert torch.equal(nodes_of(graph, "attention.out_proj.weight", 1), values)


def test_groups_of_a_convolution_are_divided_from_their_channels():
    graph = trace(networks.grouped(), networks.IMAGES).parameter_graph()
    block = next(block for block in graph.blocks if block.name == "2.weight")
    assert block.tensor_shape == (12, 2, 3, 3)
    assert block.shape == (3, 4, 2, 3, 3)
    assert [axis.dims for axis in block.axes] == [(0,), (0, 1), (0, 2), (3,), (4,)]


def test_tied_weights_are_one_block():
    graph = trace(networks.tied_language_model(), networks.WORDS).parameter_graph()
    assert [block.name for block in graph.blocks].count("table.weight") == 1


def test_blocks_know_what_reads_them():
    graph = trace(networks.cnn(), networks.IMAGES).parameter_graph()
    roles = {block.name: (block.op, block.role) for block in graph.blocks}
    assert roles["0.weight"] == ("conv2d", "weight")
    assert roles["1.running_var"] == ("batch_norm", "running_var")
    assert roles["5.bias"] == ("linear", "bias")
    depths = [block.depth for block in graph.blocks if block.name in ("0.weight", "1.weight", "5.weight")]
    assert depths == sorted(depths)


def test_an_operation_without_a_rule_is_reported():
    graph = trace(networks.without_a_rule(), networks.VECTORS).parameter_graph()
    assert graph.unsupported == ("linalg_inv",)
    assert "linalg_inv" in repr(graph)


def test_bad_tensors_are_named():
    net = networks.cnn()
    graph = trace(net, networks.IMAGES).parameter_graph()
    tensors = tensors_of(net, 2)
    with pytest.raises(ParameterError, match=r"'5.bias'.*another architecture"):
        graph.to_data({**tensors, "5.bias": torch.zeros(2, 3)})
    with pytest.raises(ParameterError, match="no tensor '0.weight'"):
        graph.to_data({name: tensor for name, tensor in tensors.items() if name != "0.weight"})
    with pytest.raises(ParameterError, match=r"'1.running_mean'.*parameter_graph\(buffers=False\)"):
        graph.to_data({name: tensor for name, tensor in tensors.items() if "running" not in name})
    for value in (float("nan"), float("inf"), float("-inf")):
        spoilt = tensors["1.bias"].clone()
        spoilt[1, 2] = value
        with pytest.raises(ParameterError, match=r"'1.bias' has values that are NaN or infinite"):
            graph.to_data({**tensors, "1.bias": spoilt})
    with pytest.raises(ParameterError, match="batch"):
        graph.to_data({**tensors, "1.bias": torch.zeros(3, 4)})
    with pytest.raises(ParameterError, match="5 tensors"):
        graph.to_params(graph.to_data(tensors)[:5])
    with pytest.raises(ParameterError, match=r"'0.weight'"):
        graph.to_params([values[..., 0] for values in graph.to_data(tensors)])


def test_large_values_whose_sum_overflows_are_finite():
    net = nn.Linear(3, 2)
    graph = trace(net, torch.zeros(1, 3)).parameter_graph()
    large = {"weight": torch.full((2, 3), 3e38), "bias": torch.zeros(2)}
    assert torch.equal(graph.to_data(large)[0][..., 0], large["weight"])


def test_tensors_without_values_have_no_block():
    net = nn.Linear(3, 2)
    net.nothing = nn.Parameter(torch.zeros(0, 3))
    assert [block.name for block in trace(net, torch.zeros(1, 3)).parameter_graph().blocks] == ["weight", "bias"]


def test_an_axis_of_segments_without_nodes_is_read_by_its_segments():
    def forward(self, x):
        ends = [x.amin(-1, keepdim=True), x.amax(-1, keepdim=True), x.mean(-1, keepdim=True)]
        return self.head(torch.relu(self.stem(torch.cat(ends, -1))))

    net = networks.Net(forward, stem=nn.Linear(3, 4), head=nn.Linear(4, 2))
    graph = trace(net, networks.VECTORS).parameter_graph()
    bare = [axis for block in graph.blocks for axis in block.axes if not axis.nodes.shape[1]]
    assert bare and all(axis.segments.tolist() == [0, 1, 2] and not axis.receives for axis in bare)
    tensors = tensors_of(net)
    assert all(torch.equal(values, tensors[name]) for name, values in graph.to_params(graph.to_data(tensors)).items())


def test_a_scalar_is_a_block_of_one():
    net = networks.Net(
        lambda self, x: self.scale * self.stem(x), stem=nn.Linear(6, 2), scale=nn.Parameter(torch.zeros(()))
    )
    graph = trace(net, networks.VECTORS).parameter_graph()
    tensors = tensors_of(net, 3)
    back = graph.to_params(graph.to_data(tensors))
    assert back["scale"].shape == (3,) and torch.equal(back["scale"], tensors["scale"])
    reader = InvariantMetanetwork(GraphMetanetwork(hidden=8))
    other = {**tensors, "scale": tensors["scale"] + 1}
    assert not torch.allclose(reader(graph, tensors), reader(graph, other))


def test_buffers_may_be_left_out():
    net = networks.cnn()
    graph = trace(net, networks.IMAGES).parameter_graph(buffers=False)
    assert set(graph.to_params(graph.to_data(dict(net.named_parameters())))) == {n for n, _ in net.named_parameters()}
