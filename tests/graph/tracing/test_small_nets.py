"""Traced graphs of small networks against graphs written out by hand."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from hypergen.graph import ComputationalGraph, trace
from tests.graph.tracing.hand_written import Net, parameter

VECTORS = torch.zeros(2, 6)
TOKENS = torch.zeros(2, 3, 6)
IMAGES = torch.zeros(2, 3, 8, 8)


def described(graph: ComputationalGraph):
    """Per node: the operation, the nodes that feed it, the parameters by role."""
    sources = [[] for _ in graph.nodes]
    for source, target in graph.edges.t().tolist():
        assert source < target
        sources[target].append(source)
    return [(node.op, sources[i], dict(node.parameters)) for i, node in enumerate(graph.nodes)]


def check(net, inputs, expected, unused=(), tied=()):
    graph = trace(net, inputs)
    expected = [node if len(node) == 3 else (*node, {}) for node in expected]
    assert described(graph) == expected
    assert graph.unused_parameters == tuple(unused)
    assert dict(graph.tied_parameters) == dict(tied)
    return graph


def weights(prefix):
    return {"weight": f"{prefix}.weight", "bias": f"{prefix}.bias"}


def test_mlp():
    net = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    graph = check(
        net, VECTORS, [("input", []), ("linear", [0], weights("0")), ("relu", [1]), ("linear", [2], weights("2"))]
    )
    assert [node.module for node in graph.nodes] == ["", "0", "1", "2"]
    assert [node.shape for node in graph.nodes] == [(2, 6), (2, 4), (2, 4), (2, 3)]
    assert dict(graph.parameter_shapes) == {"0.weight": (4, 6), "0.bias": (4,), "2.weight": (3, 4), "2.bias": (3,)}
    assert graph.readers["2.weight"] == (3, "weight")


def residual_block(forward):
    return Net(
        forward, conv=nn.Conv2d(3, 3, 3, 2, 1, groups=3, bias=False), norm=nn.BatchNorm2d(3), skip=nn.Conv2d(3, 3, 1, 2)
    )


def test_convolution_norm_and_residual_add():
    net = residual_block(lambda self, x: self.norm(self.conv(x)) + self.skip(x))
    expected = [
        ("input", []),
        ("conv2d", [0], {"weight": "conv.weight"}),
        ("batch_norm", [1], weights("norm")),
        ("conv2d", [0], weights("skip")),
        ("add", [2, 3]),
    ]
    graph = check(net, IMAGES, expected)
    assert graph.nodes[1].attributes == {"stride": (2, 2), "padding": (1, 1), "dilation": (1, 1), "groups": 3}


def test_add_in_place_is_an_add():
    def forward(self, x):
        y = self.norm(self.conv(x))
        y += self.skip(x)
        return F.relu_(y) + y

    expected = [
        ("input", []),
        ("conv2d", [0], {"weight": "conv.weight"}),
        ("batch_norm", [1], weights("norm")),
        ("conv2d", [0], weights("skip")),
        ("add", [2, 3]),
        ("relu", [4]),
        ("add", [5]),  # both operands are the rectified tensor
    ]
    check(residual_block(forward), IMAGES, expected)


def test_concatenated_branches():
    net = Net(
        lambda self, x: self.last(torch.cat([self.left(x), x, F.gelu(self.right(x))], dim=1)),
        left=nn.Linear(6, 2), right=nn.Linear(6, 3), last=nn.Linear(11, 1),
    )  # fmt: skip
    expected = [
        ("input", []),
        ("linear", [0], weights("left")),
        ("linear", [0], weights("right")),
        ("gelu", [2]),
        ("cat", [1, 0, 3]),
        ("linear", [4], weights("last")),
    ]
    assert check(net, VECTORS, expected).nodes[4].attributes == {"dim": 1}


def test_module_registered_twice():
    layer = nn.Linear(6, 6)
    expected = [("input", []), ("linear", [0], weights("0")), ("linear", [1])]
    check(nn.Sequential(layer, layer), VECTORS, expected, tied={"1.weight": "0.weight", "1.bias": "0.bias"})


def test_tied_weights():
    net = Net(lambda self, x: self.head(self.table(x)), table=nn.Embedding(9, 4), head=nn.Linear(4, 9, bias=False))
    net.head.weight = net.table.weight
    ids = torch.zeros(2, 5, dtype=torch.int64)
    expected = [("input", []), ("embedding", [0], {"weight": "table.weight"}), ("linear", [1])]
    graph = check(net, ids, expected, tied={"head.weight": "table.weight"})
    assert dict(graph.parameter_shapes) == {"table.weight": (9, 4)}


def test_class_token_and_positions():
    def forward(self, x):
        token = self.cls_token.expand(x.shape[0], -1, -1)
        return torch.cat([token, x], 1) + self.positions[:, : x.shape[1] + 1]

    net = Net(forward, cls_token=parameter(1, 1, 6), positions=parameter(1, 9, 6))
    expected = [
        ("input", []),
        ("cat", [0], {"cls_token": "cls_token"}),
        ("add", [1], {"positions": "positions"}),
    ]
    check(net, TOKENS, expected)


def test_embedded_positions_are_computed_from_constants():
    def forward(self, x):
        return x + self.table(torch.arange(x.shape[1], device=x.device))

    net = Net(forward, table=nn.Embedding(9, 6))
    check(net, TOKENS, [("input", []), ("embedding", [], {"weight": "table.weight"}), ("add", [0, 1])])


ATTENTION = {
    "in_proj_weight": "in_proj_weight", "in_proj_bias": "in_proj_bias",
    "out_proj_weight": "out_proj.weight", "out_proj_bias": "out_proj.bias",
}  # fmt: skip


def attention(prefix):
    return {role: prefix + name for role, name in ATTENTION.items()}


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("looks_at_values", [False, True])
def test_transformer_layer_never_takes_its_fused_path(frozen, looks_at_values):
    layer = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)
    net = Net(lambda self, x: self.layer(x if not looks_at_values or x.sum().item() < 1e9 else x[:0]), layer=layer)
    net.requires_grad_(not frozen)
    expected = [
        ("input", []),
        ("transpose", [0]),
        ("multi_head_attention", [1], attention("layer.self_attn.")),
        ("transpose", [2]),
        ("add", [0, 3]),
        ("layer_norm", [4], weights("layer.norm1")),
        ("linear", [5], weights("layer.linear1")),
        ("relu", [6]),
        ("linear", [7], weights("layer.linear2")),
        ("add", [5, 8]),
        ("layer_norm", [9], weights("layer.norm2")),
    ]
    check(net, TOKENS, expected)


@pytest.mark.parametrize(("layer", "op"), [(nn.LSTM, "lstm"), (nn.GRU, "gru"), (nn.RNN, "rnn_tanh")])
def test_recurrent_layers(layer, op):
    net = Net(lambda self, x: self.rnn(x)[0], rnn=layer(6, 4, bidirectional=True, batch_first=True))
    names = [f"{name}_l0{way}" for way in ("", "_reverse") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    graph = check(net, TOKENS, [("input", []), (op, [0], {name: f"rnn.{name}" for name in names})])
    assert graph.nodes[1].shape == (2, 3, 8)


def test_setitem_writes_into_a_constant_and_its_views():
    def forward(self, x):
        out = torch.zeros(2, 4)
        flat = out.view(-1)
        out[:, :2] = self.left(x)
        out[:, 2:] = self.right(x)
        return flat * 2

    expected = [
        ("input", []),
        ("linear", [0], weights("left")),
        ("setitem", [1]),
        ("linear", [0], weights("right")),
        ("setitem", [2, 3]),
        ("reshape", [4]),
        ("mul", [5]),
    ]
    check(Net(forward, left=nn.Linear(6, 2), right=nn.Linear(6, 2)), VECTORS, expected)


def test_writing_into_one_view_leaves_its_neighbours():
    def forward(self, x):
        query, key, value = self.layer(x).view(2, 3, 2).unbind(1)  # interleaved in memory
        query *= 0.5
        return query @ key.T @ value

    expected = [
        ("input", []),
        ("linear", [0], weights("layer")),
        ("reshape", [1]),
        ("unbind", [2]),
        ("mul", [3]),
        ("transpose", [3]),
        ("matmul", [4, 5]),
        ("matmul", [6, 3]),
    ]
    check(Net(forward, layer=nn.Linear(6, 6)), VECTORS, expected)


def test_writing_into_a_tensor_reaches_its_views():
    def forward(self, x):
        y = self.layer(x)
        row = y[0]
        y.mul_(2)
        torch.sigmoid_(y)
        return row + 1

    expected = [
        ("input", []),
        ("linear", [0], weights("layer")),
        ("mul", [1]),
        ("sigmoid", [2]),
        ("getitem", [3]),  # the row once more, of what has been written
        ("add", [4]),
    ]
    check(Net(forward, layer=nn.Linear(6, 6)), VECTORS, expected)


def test_a_parameter_in_the_place_of_the_input_is_called_by_its_own_name():
    net = Net(lambda self, x: x + F.layer_norm(input=self.queries, normalized_shape=(6,)), queries=parameter(1, 6))
    check(net, VECTORS, [("input", []), ("layer_norm", [], {"queries": "queries"}), ("add", [0, 1])])


def test_parameters_read_through_views():
    def forward(self, x):
        y = x @ self.weight.t()
        return (y + self.shift.view(1, -1).expand_as(y)) * self.scale.exp()

    net = Net(forward, weight=parameter(4, 6), shift=parameter(4), scale=parameter(4))
    expected = [
        ("input", []),
        ("matmul", [0], {"weight": "weight"}),
        ("add", [1], {"shift": "shift"}),
        ("exp", [], {"scale": "scale"}),
        ("mul", [2, 3]),
    ]
    check(net, VECTORS, expected)


def test_operations_on_parameters_alone():
    def forward(self, x):
        return F.linear(x, torch.cat([self.query.weight, self.key.weight]), torch.cat([self.query.bias, self.key.bias]))

    expected = [
        ("input", []),
        ("cat", [], {"weight": "query.weight", "weight1": "key.weight"}),
        ("cat", [], {"bias": "query.bias", "bias1": "key.bias"}),
        ("linear", [0, 1, 2]),
    ]
    check(Net(forward, query=nn.Linear(6, 2), key=nn.Linear(6, 2)), VECTORS, expected)


def test_weight_norm():
    names = ("parametrizations.weight.original1", "parametrizations.weight.original0")
    expected = [
        ("input", []),
        ("weight_norm", [], {"original1": names[0], "original0": names[1]}),
        ("linear", [0, 1], {"bias": "bias"}),
    ]
    check(nn.utils.parametrizations.weight_norm(nn.Linear(6, 3)), VECTORS, expected)


def test_parameter_list_and_unused_parameters():
    net = Net(
        lambda self, x: x * self.scales[0] * self.scales[1],
        scales=nn.ParameterList([parameter(6), parameter(6), parameter(6)]),
        idle=nn.Linear(2, 2),
    )
    expected = [("input", []), ("mul", [0], {"scales": "scales.0"}), ("mul", [1], {"scales": "scales.1"})]
    check(net, VECTORS, expected, unused=["scales.2", "idle.weight", "idle.bias"])


def test_parameters_that_a_module_keeps_in_a_plain_list_too():
    net = Net(lambda self, x: self.plain[0](x) * self.more[0], layer=nn.Linear(6, 6), scale=parameter(6))
    net.plain, net.more = [net.layer], [net.scale]
    check(net, VECTORS, [("input", []), ("linear", [0], weights("layer")), ("mul", [1], {"scale": "scale"})])


@pytest.mark.parametrize("container", [dict, list])
def test_nested_inputs(container):
    def forward(self, features, shift):
        (features,) = features.values() if container is dict else features
        return {"out": [self.layer(features) - shift]}

    features = {"x": VECTORS} if container is dict else [VECTORS]
    expected = [("input", []), ("input", []), ("linear", [0], weights("layer")), ("sub", [2, 1])]
    net = Net(forward, layer=nn.Linear(6, 6))
    check(net, (features, VECTORS), expected)
    check(net, {"features": features, "shift": VECTORS}, expected)


def test_dropout_casts_and_copies_get_no_node():
    def forward(self, x):
        x = self.drop(x).float().to(torch.float32).contiguous().clone()
        return self.layer(x.type_as(self.layer.weight).view_as(x))

    net = Net(forward, drop=nn.Dropout(), layer=nn.Linear(6, 3))
    check(net.train(), VECTORS, [("input", []), ("linear", [0], weights("layer"))])


def test_control_flow_takes_the_branch_that_runs():
    def forward(self, x):
        if self.training:
            x = self.layers[1](x)
        for layer in self.layers:
            if layer.out_features == x.shape[-1]:
                x = x + layer(x)
        return x

    net = Net(forward, layers=nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 5)]))
    expected = [("input", []), ("linear", [0], weights("layers.0")), ("add", [0, 1])]
    check(net.train(), VECTORS, expected, unused=["layers.1.weight", "layers.1.bias"])


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale):
        ctx.save_for_backward(x, scale)
        return x * scale

    @staticmethod
    def backward(ctx, gradient):
        x, scale = ctx.saved_tensors
        return gradient * scale, gradient * x


def test_autograd_functions():
    net = Net(
        lambda self, x: self.layer(Scaled.apply(Straight.apply(x), self.scale)),
        layer=nn.Linear(6, 3),
        scale=parameter(6),
    )
    check(net, VECTORS, [("input", []), ("mul", [0], {"scale": "scale"}), ("linear", [1], weights("layer"))])


def test_constants_and_empty_caches_get_no_node():
    def forward(self, x):
        mask = torch.full_like(x, 1.0).tril() + torch.zeros(6, device="cpu")
        cache = torch.cat([torch.empty(0, 6), x])
        return self.layer(cache) * mask * self.table

    net = Net(forward, layer=nn.Linear(6, 6), table=torch.ones(6))
    check(net, VECTORS, [("input", []), ("linear", [0], weights("layer")), ("mul", [1]), ("mul", [2])])


def test_lookup_in_a_raw_table():
    net = Net(lambda self, ids: self.table[ids], table=parameter(9, 4))
    check(net, torch.zeros(2, 3, dtype=torch.int64), [("input", []), ("getitem", [0], {"table": "table"})])


def test_branch_on_values_is_followed_with_real_values():
    def forward(self, x):
        return self.layer(x) if x.abs().sum().item() < 1e9 else self.other(x)

    net = Net(forward, layer=nn.Linear(6, 6), other=nn.Linear(6, 6))
    expected = [("input", []), ("linear", [0], weights("layer"))]  # no output depends on the sum
    check(net, VECTORS, expected, unused=["other.weight", "other.bias"])


def test_gradients_inside_a_network():
    def forward(self, x):
        with torch.enable_grad():
            return torch.autograd.grad(self.layer(x).sum(), x)[0]

    net = Net(forward, layer=nn.Linear(6, 6))
    expected = [("input", []), ("linear", [0], weights("layer")), ("sum", [1]), ("grad", [2, 0])]
    check(net, torch.zeros(2, 6, requires_grad=True), expected)


def test_vmap():
    def forward(self, x):
        sums = torch.func.vmap(lambda row: torch.cumsum(row, 0))(x)
        return self.last(torch.func.vmap(self.first)(sums))

    net = Net(forward, first=nn.Linear(6, 6), last=nn.Linear(6, 2))
    expected = [("input", []), ("cumsum", [0]), ("linear", [1], weights("first")), ("linear", [2], weights("last"))]
    check(net, VECTORS, expected)


def test_devices_that_the_network_asks_for_do_not_matter():
    def forward(self, x):
        x = x.cuda().to("cuda:0").to(torch.device("cuda"), torch.float32)
        return self.layer(x + torch.ones(6, device="cuda"))

    net = Net(forward, layer=nn.Linear(6, 3))
    check(net, VECTORS, [("input", []), ("add", [0]), ("linear", [1], weights("layer"))])


def test_an_operation_that_nothing_knows_keeps_its_name():
    @torch.library.custom_op("hypergen_tests::mystery", mutates_args=())
    def mystery(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    mystery.register_fake(torch.empty_like)
    net = Net(lambda self, x: torch.erfinv(torch.ops.hypergen_tests.mystery(self.layer(x))), layer=nn.Linear(6, 3))
    check(net, VECTORS, [("input", []), ("linear", [0], weights("layer")), ("mystery", [1]), ("erfinv", [2])])


def test_network_without_parameters():
    check(nn.Softmax(1), VECTORS, [("input", []), ("softmax", [0])])


def test_the_order_of_registration_does_not_matter():
    def forward(self, x):
        y = self.norm(self.first(x)) + self.table
        return self.head(self.attention(y, y, y)[0] * self.scale + y)

    def parts():
        return {
            "first": nn.Linear(6, 4), "norm": nn.LayerNorm(4), "table": parameter(3, 4), "scale": parameter(4),
            "attention": nn.MultiheadAttention(4, 2), "head": nn.Sequential(nn.GELU(), nn.Linear(4, 2)),
        }  # fmt: skip

    reference = trace(Net(forward, **parts()), TOKENS)
    for seed in range(5):
        names = list(parts())
        order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
        shuffled = {names[i]: parts()[names[i]] for i in order}
        graph = trace(Net(forward, **shuffled), TOKENS)
        assert graph.nodes == reference.nodes
        assert torch.equal(graph.edges, reference.edges)
        assert graph.parameter_shapes == reference.parameter_shapes
