import copy
from itertools import product

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from hypergen.functional import distinct_value_share
from hypergen.generators.ghn.features import batch_graphs, graph_features
from hypergen.generators.ghn.model import DECODERS, ENCODERS, GraphHypernetwork
from hypergen.generators.ghn.parametrization import PARAMETRIZATIONS
from hypergen.generators.ghn.slots import SITES
from hypergen.graph import trace

CONFIGURATIONS = list(product(ENCODERS, DECODERS, PARAMETRIZATIONS))
SMALL = {
    "hidden": 16, "reach": 2, "layers": 2, "heads": 2, "rank": 8, "steered_rank": 4, "width": 8, "max_shape": 4,
}  # fmt: skip


class ViT(nn.Module):
    """Class token, position table, joined queries, keys and values, layer scale."""

    def __init__(self, width=8, classes=10):
        super().__init__()
        self.patch = nn.Conv2d(3, width, 16, 16)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.zeros(1, 5, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.layer_scale = nn.Parameter(torch.ones(width))
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        b, n, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, n, 3, 2, d // 2).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d)
        x = x + self.layer_scale * self.projection(attended)
        return self.head((x + self.mlp(self.norm2(x)))[:, 0])


class TiedLanguageModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.positions = nn.Embedding(20, 8), nn.Embedding(12, 8)
        self.norm, self.hidden = nn.RMSNorm(8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        x = self.embedding(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        return self.head(x + self.hidden(self.norm(x)).relu())


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.joined = nn.MultiheadAttention(8, 2, batch_first=True, add_bias_kv=True)
        self.separate = nn.MultiheadAttention(8, 2, kdim=6, vdim=4, batch_first=True)
        self.keys, self.values = nn.Linear(8, 6), nn.Linear(8, 4)

    def forward(self, x):
        x = self.joined(x, x, x)[0]
        return self.separate(x, self.keys(x), self.values(x))[0]


class Bilinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.bilinear = nn.Bilinear(3, 3, 5)

    def forward(self, x):
        return self.bilinear(x, x)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(5, 6, 2, batch_first=True, bidirectional=True)
        self.projected = nn.LSTM(12, 6, batch_first=True, proj_size=3)
        self.gru, self.out = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 1)

    def forward(self, x):
        return self.out(self.gru(self.projected(self.lstm(x)[0])[0])[0])


class RawParameters(nn.Module):
    """Parameters of odd shapes that no layer holds."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(5, 7)
        self.a = nn.Parameter(torch.zeros(3, 1, 5))
        self.b = nn.Parameter(torch.zeros(7))
        self.c = nn.Parameter(torch.zeros(2, 3, 4, 5, 6))
        self.scale, self.shift = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(0.0))
        self.kernel = nn.Parameter(torch.zeros(7, 4))
        self.weight = nn.Parameter(torch.zeros(4, 3))
        self.empty = nn.Parameter(torch.zeros(0))
        self.slope, self.slopes = nn.PReLU(), nn.PReLU(3)

    def forward(self, x):
        x = self.first((x + self.a).mean(0)) * self.scale + self.b
        x = self.slopes(self.slope(torch.addmm(self.shift, x @ self.kernel, self.weight)))
        return x.sum() * self.c + self.empty.sum()


class Branches(nn.Module):
    """Twins that only their place tells apart, registered in another order than they run in."""

    def __init__(self):
        super().__init__()
        self.right, self.left = nn.Linear(6, 6), nn.Linear(6, 6)
        self.head, self.first = nn.Linear(6, 3), nn.Linear(4, 6)
        self.weight, self.offset = nn.Parameter(torch.ones(6)), nn.Parameter(torch.zeros(6))

    def forward(self, x):
        x = self.first(x)
        return self.head(self.left(x) * self.weight + self.right(x).tanh() + self.offset)


def _image(*shape):
    return torch.zeros(1, *shape)


TARGETS = {
    "mlp": lambda: (
        nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 10)),
        _image(1, 8, 8),
    ),
    "cnn": lambda: (
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1, bias=False),
            nn.BatchNorm2d(16), nn.SiLU(), nn.Conv2d(16, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1),
        ),
        _image(3, 8, 8),
    ),
    "flattened": lambda: (
        nn.Sequential(
            nn.Conv2d(1, 4, 2), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5), nn.Unflatten(1, (5, 1, 1)), nn.ReLU(),
            nn.Conv2d(5, 2, 1), nn.Upsample(scale_factor=4), nn.Flatten(), nn.Linear(32, 3),
        ),
        _image(1, 8, 8),
    ),
    "convolutions": lambda: (
        nn.Sequential(
            nn.Conv2d(4, 8, 3, groups=4, padding=1), nn.Conv2d(8, 8, 3, groups=8, padding=2, dilation=2),
            nn.Conv2d(8, 6, 1, groups=2), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 3, (11, 3)), nn.Conv2d(3, 5, 7),
            nn.Conv2d(5, 6, 1), nn.Conv2d(6, 2, 1),
        ),
        _image(4, 20, 12),
    ),
    "transposed": lambda: (
        nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ConvTranspose2d(4, 4, 2, stride=2, groups=4), nn.ConvTranspose2d(4, 8, 3, groups=4),
            nn.ConvTranspose2d(8, 6, 3, groups=2), nn.ConvTranspose2d(6, 3, 4, bias=False),
        ),
        _image(1, 6, 6),
    ),
    "conv1d": lambda: (
        nn.Sequential(
            nn.Conv1d(2, 4, 5), nn.ConvTranspose1d(4, 3, 3), nn.InstanceNorm1d(3, affine=True), nn.Flatten(),
            nn.Linear(42, 3),
        ),
        _image(2, 16),
    ),
    "conv3d": lambda: (
        nn.Sequential(
            nn.Conv3d(2, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.ConvTranspose3d(4, 2, 2, bias=False),
            nn.Conv3d(2, 2, (1, 3, 2), groups=2),
        ),
        _image(2, 5, 6, 6),
    ),
    "vit": lambda: (ViT(classes=1000), _image(3, 32, 32)),
    "tied": lambda: (TiedLanguageModel(), torch.zeros(1, 6, dtype=torch.int64)),
    "attention": lambda: (Attention(), _image(3, 8)),
    "encoder": lambda: (
        nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), 2, enable_nested_tensor=False),
        _image(3, 8),
    ),
    "recurrent": lambda: (Recurrent(), _image(3, 5)),
    "raw": lambda: (RawParameters(), torch.zeros(2, 5)),
    "branches": lambda: (Branches(), torch.zeros(1, 4)),
    "weight_norm": lambda: (
        nn.Sequential(weight_norm(nn.Conv1d(2, 3, 3)), nn.Flatten(), weight_norm(nn.Linear(18, 2))), _image(2, 8)
    ),
    "bilinear": lambda: (Bilinear(), torch.zeros(2, 3)),
    "bias_free": lambda: (
        nn.Sequential(nn.Linear(4, 4, bias=False), nn.Tanh(), nn.Linear(4, 2, bias=False)), torch.zeros(1, 4)
    ),
    "width_1": lambda: (nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1), nn.Linear(1, 1)), torch.zeros(1, 1)),
    "one_channel": lambda: (
        nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1), nn.Conv2d(1, 1, 3), nn.Flatten(), nn.Linear(4, 1)),
        _image(1, 4, 4),
    ),
    "only_vectors": lambda: (nn.Sequential(nn.LayerNorm(4), nn.PReLU()), torch.zeros(1, 4)),
    "only_a_matrix": lambda: (nn.Linear(3, 2, bias=False), torch.zeros(1, 3)),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def targets():
    return {name: make() for name, make in TARGETS.items()}


@pytest.fixture(scope="module")
def graphs(targets):
    return {name: trace(module, inputs) for name, (module, inputs) in targets.items()}


@pytest.fixture(scope="module")
def features(graphs):
    return {name: graph_features(graph) for name, graph in graphs.items()}


@pytest.fixture(scope="module", params=CONFIGURATIONS, ids="-".join)
def generator(request):
    return make_generator(*request.param)


def make_generator(encoder="graphormer", decoder="low_rank", parametrization="anchored", seed=0, **arguments):
    torch.manual_seed(seed)
    return GraphHypernetwork(encoder, decoder, parametrization, **(arguments or SMALL))


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_targets_have_parameters_of_every_site(features):
    assert {slot.site for f in features.values() for slot in f.slots} == set(SITES)


@pytest.mark.parametrize("name", TARGETS)
def test_every_parameter_gets_a_finite_value_of_its_shape(generator, targets, graphs, name):
    with torch.no_grad():
        parameters = generator.generate(graphs[name])
    expected = {name: parameter.shape for name, parameter in targets[name][0].named_parameters()}
    assert {name: value.shape for name, value in parameters.items()} == expected
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in parameters.values())


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", TARGETS)
def test_predicted_parameters_run(targets, name):
    module, inputs = targets[name]
    parameters = make_generator().generate(module, example_inputs=inputs)
    outputs = torch.func.functional_call(module, parameters, (torch.ones_like(inputs),))
    assert outputs.isfinite().all()


def test_gradients_reach_every_tensor(generator, features):
    generator.zero_grad()
    predicted = generator(batch_graphs(list(features.values())))
    # Random directions: a plain sum is blind to what only turns or shifts.
    directions = [torch.randn(flat.shape, generator=torch.Generator().manual_seed(1)) for flat in predicted]
    torch.autograd.backward(predicted, directions)
    untouched = [n for n, p in generator.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # A constant on all attention scores of a head: a softmax does not see it, but for rounding.
    assert set(untouched) <= {"encoder.bias.1.bias"}
    assert all(p.grad.isfinite().all() for p in generator.parameters())
    generator.zero_grad()


def test_same_seed_gives_the_same_bits(request, generator, graphs):
    twin = make_generator(*request.node.callspec.params["generator"])
    with torch.no_grad():
        first = {name: generator.generate(graph) for name, graph in graphs.items()}
        for name, graph in graphs.items():
            assert_same(first[name], twin.generate(graph))
            assert_same(first[name], generator.generate(graph))


def test_another_seed_gives_other_values(graphs):
    one, other = make_generator().generate(graphs["vit"]), make_generator(seed=1).generate(graphs["vit"])
    assert not any(torch.equal(value, other[name]) for name, value in one.items())


def test_batch_equals_one_by_one(generator, features):
    with torch.no_grad():
        together = generator(batch_graphs(list(features.values())))
        for flat, (name, f) in zip(together, features.items(), strict=True):
            (alone,) = generator(batch_graphs([f]))
            torch.testing.assert_close(flat, alone, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_predictions_survive_saving(generator, graphs, tmp_path):
    loaded = GraphHypernetwork.from_pretrained(generator.save_pretrained(tmp_path / "saved"))
    assert loaded.config == generator.config
    with torch.no_grad():
        for graph in graphs.values():
            assert_same(generator.generate(graph), loaded.generate(graph))


def with_registration_reversed(module):
    """The same network with its parts registered the other way round, where their order isn't what runs them."""
    module = copy.deepcopy(module)
    for part in module.modules():
        for held in (part._modules, part._parameters):
            # The order of a recurrent network's weights is part of its call.
            if not isinstance(part, (nn.Sequential, nn.ModuleList, nn.RNNBase)):
                items = list(held.items())
                held.clear()
                held.update(reversed(items))
    return module


@pytest.mark.parametrize("configuration", CONFIGURATIONS[:2] + CONFIGURATIONS[-1:], ids="-".join)
@pytest.mark.parametrize("name", ["vit", "attention", "recurrent", "raw", "branches", "cnn", "tied"])
def test_order_of_registration_changes_nothing(configuration, targets, graphs, name):
    generator = make_generator(*configuration)
    module, inputs = targets[name]
    shuffled = with_registration_reversed(module)
    order = [name for name, _ in shuffled.named_parameters()]
    assert order != [name for name, _ in module.named_parameters()]
    expected = generator.generate(graphs[name])
    predicted = generator.generate(shuffled, example_inputs=inputs)
    if name == "tied":  # the first to be registered carries the shared values
        predicted["embedding.weight"] = predicted.pop("head.weight")
    assert_same(expected, predicted)


@pytest.mark.parametrize("name", ["cnn", "vit", "recurrent", "raw"])
def test_prediction_depends_on_the_architecture_alone(generator, targets, graphs, name):
    module, inputs = targets[name]
    other = copy.deepcopy(module).train()
    for tensor in (*other.parameters(), *other.buffers()):
        if tensor.is_floating_point():
            nn.init.uniform_(tensor)
    half = copy.deepcopy(module).eval().bfloat16().requires_grad_(False)
    expected = generator.generate(graphs[name])
    assert_same(expected, generator.generate(other, example_inputs=inputs))
    assert_same(expected, generator.generate(half, example_inputs=inputs.bfloat16()))
    meta = copy.deepcopy(module).to("meta")
    assert_same(expected, generator.generate(meta, example_inputs=inputs.to("meta")))
    assert all(parameter.is_meta for parameter in meta.parameters())


def test_the_generator_and_its_mode_leave_no_trace(generator, graphs):
    state = torch.get_rng_state()
    before = copy.deepcopy(generator.state_dict())
    expected = generator.train().generate(graphs["vit"])
    assert_same(expected, generator.eval().generate(graphs["vit"]))
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(before, generator.state_dict())


WIDE = {
    "cnn": lambda f: (
        nn.Sequential(
            nn.Conv2d(3, 11 * f, 3), nn.Conv2d(11 * f, 13 * f, 3), nn.Conv2d(13 * f, 13 * f, 5, groups=13 * f),
            nn.Conv2d(13 * f, 7 * f, 1), nn.Conv2d(7 * f, 9 * f, 1), nn.Conv2d(9 * f, 9 * f, 1), nn.Flatten(),
            nn.Linear(9 * f * 16, 8 * f), nn.Linear(8 * f, 30 * f), nn.Linear(30 * f, 9 * f), nn.Linear(9 * f, 12 * f),
        ),
        _image(3, 12, 12),
    ),
    "patches": lambda f: (nn.Conv2d(3, 12 * f, 16, 16), _image(3, 32, 32)),
    "image_mlp": lambda f: (nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 12 * f)), _image(1, 28, 28)),
    "tables": lambda f: (
        nn.Sequential(nn.Embedding(50 * f, 12 * f), nn.Linear(12 * f, 12 * f)), torch.zeros(1, 3, dtype=torch.int64)
    ),
}  # fmt: skip


def matrices_of(module, parameters):
    """Rows and columns as the layers see them: outputs first."""
    for name, value in parameters.items():
        if value.dim() > 1:
            depthwise = value.dim() > 2 and value.shape[1] == 1
            yield name, value.flatten(1), value.flatten(1) if depthwise else value.transpose(0, 1).flatten(1)


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
@pytest.mark.parametrize("name", WIDE)
def test_targets_wider_than_the_tables_get_distinct_rows(parametrization, name):
    generator = make_generator(parametrization=parametrization, width=16, heads=8)
    (narrow, inputs), (wide, _) = WIDE[name](1), WIDE[name](16)
    with torch.no_grad():
        small = generator.generate(narrow, example_inputs=inputs)
        parameters = generator.generate(wide, example_inputs=inputs)
    for layer, rows, channels in matrices_of(wide, parameters):
        assert len(rows.unique(dim=0)) == len(rows), layer
        assert len(channels.unique(dim=0)) == len(channels), layer
        assert len(rows.unique(dim=1).t()) == rows.shape[1], layer
        # Neither all but equal ones.
        normal = F.normalize(rows[:500] - rows[:500].mean(0), dim=1)
        if rows.shape[1] > 50:
            assert (normal @ normal.t() - torch.eye(len(normal))).max() < 0.999, layer
    for layer, value in parameters.items():
        # In units of what is usual for the width, or of the identity that is.
        usual, reference = (v[0].numel() ** -0.5 if v.dim() > 1 else 1.0 for v in (value, small[layer]))
        ratio = (value.std() / usual) / (small[layer].std() / reference)
        assert 0.2 < ratio < 5 or value.dim() == 1 and value.std() < 1, (layer, ratio)


@pytest.mark.parametrize("name", ["mlp", "cnn", "flattened", "convolutions", "vit", "attention", "tied"])
def test_values_of_small_networks_are_distinct(graphs, name):
    parameters = make_generator(width=64).generate(graphs[name])
    assert distinct_value_share(parameters) >= 0.99


@pytest.mark.parametrize("part", ["encoder", "decoder", "parametrization"])
def test_unknown_parts_are_refused_with_the_known_ones(part):
    with pytest.raises(ValueError, match=rf"{part} 'other' is not one of \w+, "):
        GraphHypernetwork(**{part: "other"})


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="heads=3 doesn't divide hidden=16"):
        make_generator(**{**SMALL, "heads": 3})


def test_tables_are_parameters_of_the_generator(generator):
    tables = {id(p) for p in generator.tables()}
    assert tables and tables < {id(p) for p in generator.parameters()}
