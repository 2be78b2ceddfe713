"""What the parameters of small networks are, written out by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from hypergen.generators.ghn.features import CONTRACTED
from hypergen.generators.ghn.layout import layout_of
from hypergen.generators.ghn.slots import MATRIX_SITES, SITES, VECTOR_SITES, slots_of
from hypergen.graph import trace


def described(module, inputs):
    """Name → what its slot says, with and without the operations that only move data."""
    graph = trace(module, inputs)
    slots = slots_of(graph)
    short = slots_of(graph.without(CONTRACTED))
    # Features are made of the contracted graph: the meaning of a parameter must not hang on a reshape.
    assert [_without_node(slot) for slot in slots] == [_without_node(slot) for slot in short]
    assert {slot.name for slot in slots} == set(graph.parameter_shapes) - set(graph.unused_parameters)
    assert all(slot.shape == graph.parameter_shapes[slot.name] for slot in slots)
    return {slot.name: slot for slot in slots}


def _without_node(slot):
    return {key: value for key, value in vars(slot).items() if key != "node"}


def sites(module, inputs):
    return {name: slot.site for name, slot in described(module, inputs).items()}


def matrix(slot):
    assert slot.is_matrix
    return slot.site, slot.rows, slot.columns, slot.grid, slot.fan_in


def vector(slot):
    assert not slot.is_matrix and (slot.columns, slot.grid) == (1, ())
    return slot.site, slot.rows


def test_mlp_on_images():
    module = nn.Sequential(
        nn.Flatten(), nn.Linear(3 * 4 * 5, 6), nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 9), nn.Linear(9, 2),
        nn.Linear(2, 7),
    )  # fmt: skip
    slots = described(module, torch.zeros(1, 3, 4, 5))
    assert matrix(slots["1.weight"]) == ("first_linear", 6, 3, (4, 5), 60)
    assert matrix(slots["3.weight"]) == ("linear", 6, 6, (), 6)
    assert matrix(slots["4.weight"]) == ("expand", 9, 6, (), 6)
    assert matrix(slots["5.weight"]) == ("reduce", 2, 9, (), 9)
    assert matrix(slots["6.weight"]) == ("last", 7, 2, (), 2)
    assert [vector(slots[f"{i}.bias"]) for i in (1, 3, 4, 5)] == [("bias", n) for n in (6, 6, 9, 2)]
    assert vector(slots["6.bias"]) == ("last_bias", 7)


def test_flattened_maps():
    module = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.BatchNorm1d(27), nn.Linear(27, 8), nn.ReLU(),
        nn.Linear(8, 10),
    )  # fmt: skip
    slots = described(module, torch.zeros(2, 1, 8, 8))
    assert matrix(slots["5.weight"]) == ("flat", 8, 3, (3, 3), 27)
    assert matrix(slots["7.weight"]) == ("last", 10, 8, (), 8)


def test_flattened_map_before_the_classifier():
    module = nn.Sequential(nn.Conv2d(1, 3, 3), nn.GELU(), nn.Flatten(), nn.Dropout(), nn.Linear(48, 10))
    assert matrix(described(module, torch.zeros(1, 1, 6, 6))["4.weight"]) == ("last_flat", 10, 3, (4, 4), 48)
    module = nn.Sequential(nn.Conv1d(2, 3, 3), nn.Flatten(), nn.Linear(12, 2))
    assert matrix(described(module, torch.zeros(1, 2, 6))["2.weight"]) == ("last_flat", 2, 3, (4,), 12)


@pytest.mark.parametrize("pool", ["flatten", "mean", "squeeze"])
def test_a_pooled_map_is_no_image(pool):
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 2)

        def forward(self, x):
            x = self.conv(x)
            if pool == "mean":
                return self.head(x.mean((2, 3)))
            x = F.adaptive_avg_pool2d(x, 1)
            return self.head(x.flatten(1) if pool == "flatten" else x[:, :, 0, 0])

    assert matrix(described(Pooled(), torch.zeros(1, 1, 8, 8))["head.weight"]) == ("last", 2, 4, (), 4)


def test_layers_over_tokens_read_no_image():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.hidden, self.head = nn.Linear(8, 8), nn.Linear(8, 6), nn.Linear(6, 2)

        def forward(self, x):  # [tokens, 1, 8]: the axes behind the first have 8 values together
            return self.head(self.hidden(self.first(x)).mean(0))

    assert sites(Tokens(), torch.zeros(5, 1, 8)) == {
        "first.weight": "linear", "first.bias": "bias", "hidden.weight": "reduce", "hidden.bias": "bias",
        "head.weight": "last", "head.bias": "last_bias",
    }  # fmt: skip


def test_convolutions():
    module = nn.Sequential(
        nn.Conv2d(3, 8, 5), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 16, (1, 3), groups=8),
        nn.Conv2d(16, 8, 3, groups=2), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 12, 1), nn.Conv2d(12, 4, 1),
        nn.Conv2d(4, 4, (11, 3), padding=5), nn.Conv2d(4, 5, 1),
    )  # fmt: skip
    slots = described(module, torch.zeros(1, 3, 16, 16))
    assert [matrix(slots[f"{i}.weight"]) for i in range(9)] == [
        ("first_conv", 8, 3, (5, 5), 75),
        ("depthwise", 8, 1, (3, 3), 9),
        ("depthwise", 16, 1, (1, 3), 3),
        ("conv", 8, 8, (3, 3), 72),
        ("pointwise", 8, 8, (1, 1), 8),
        ("widen", 12, 8, (1, 1), 8),
        ("narrow", 4, 12, (1, 1), 12),
        ("conv", 4, 4, (11, 3), 132),
        ("last", 5, 4, (1, 1), 4),
    ]
    assert [slots[f"{i}.weight"].groups for i in range(4)] == [1, 8, 8, 2]
    assert [slots[f"{i}.bias"].site for i in range(9)] == ["bias"] * 8 + ["last_bias"]
    assert not any(slot.transposed for slot in slots.values())


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_transposed_convolutions_store_inputs_first(dimensions):
    conv = getattr(nn, f"ConvTranspose{dimensions}d")
    module = nn.Sequential(
        getattr(nn, f"Conv{dimensions}d")(2, 6, 1), conv(6, 4, 3), conv(4, 6, 3, groups=2), conv(6, 6, 2, groups=6)
    )
    slots = described(module, torch.zeros(1, 2, *[4] * dimensions))
    three, two = (3,) * dimensions, (2,) * dimensions
    # Rows are the outputs of one group, columns the inputs of all; an output sums over the inputs of its group.
    assert matrix(slots["1.weight"]) == ("conv", 4, 6, three, 6 * 3**dimensions)
    assert matrix(slots["2.weight"]) == ("conv", 3, 4, three, 2 * 3**dimensions)
    assert matrix(slots["3.weight"]) == ("conv", 1, 6, two, 2**dimensions)
    assert [slots[f"{i}.weight"].transposed for i in range(4)] == [False, True, True, True]
    assert [slots[f"{i}.bias"].rows for i in range(4)] == [6, 4, 6, 6]


def test_addmm_stores_inputs_first():
    class Conv1D(nn.Module):
        """The layer of GPT-2."""

        def __init__(self, inputs, outputs):
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.zeros(inputs, outputs)), nn.Parameter(torch.zeros(outputs))

        def forward(self, x):
            return torch.addmm(self.bias, x, self.weight)

    slots = described(nn.Sequential(Conv1D(4, 12), Conv1D(12, 4), Conv1D(4, 4), nn.Linear(4, 2)), torch.zeros(1, 4))
    assert matrix(slots["0.weight"]) == ("expand", 12, 4, (), 4)
    assert matrix(slots["1.weight"]) == ("reduce", 4, 12, (), 12)
    assert matrix(slots["2.weight"]) == ("linear", 4, 4, (), 4)
    assert all(slots[f"{i}.weight"].transposed for i in range(3)) and not slots["3.weight"].transposed
    assert vector(slots["0.bias"]) == ("bias", 12)


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(11, 6), nn.Linear(6, 6)
        self.token = nn.Parameter(torch.zeros(1, 1, 6))
        self.positions = nn.Parameter(torch.zeros(1, 4, 6))
        self.gamma, self.beta = nn.Parameter(torch.ones(6)), nn.Parameter(torch.zeros(1, 1, 6))
        self.temperature = nn.Parameter(torch.tensor(1.0))
        self.slope = nn.PReLU(6)

    def forward(self, numbers):
        x = torch.cat([self.token, self.words(numbers)], 1) + self.positions
        x = self.slope((x * self.gamma + self.beta).mT).mT
        return self.head(x * self.temperature)


def test_tables_tokens_scales_and_slopes():
    slots = described(Tokens(), torch.zeros(1, 3, dtype=torch.int64))
    assert matrix(slots["words.weight"]) == ("table", 11, 6, (), 6)
    assert matrix(slots["positions"]) == ("table", 4, 6, (), 6)
    assert vector(slots["token"]) == ("token", 6)
    assert vector(slots["gamma"]) == ("scale", 6)
    assert vector(slots["beta"]) == ("bias", 6)
    assert vector(slots["temperature"]) == ("scale", 1)
    assert vector(slots["slope.weight"]) == ("slope", 6)
    assert matrix(slots["head.weight"]) == ("last", 6, 6, (), 6)


@pytest.mark.parametrize(
    ("norm", "shape", "size"),
    [
        (nn.BatchNorm1d(6), (2, 6), 6),
        (nn.BatchNorm2d(6), (2, 6, 3, 3), 6),
        (nn.GroupNorm(2, 6), (1, 6, 3, 3), 6),
        (nn.LayerNorm(6), (1, 4, 6), 6),
        (nn.LayerNorm((4, 3, 2)), (1, 4, 3, 2), 24),
        (nn.InstanceNorm2d(6, affine=True), (1, 6, 3, 3), 6),
        (nn.RMSNorm(6), (1, 4, 6), 6),
    ],
)
def test_norms(norm, shape, size):
    slots = described(norm, torch.zeros(shape))
    expected = {"weight": ("scale", size), "bias": ("shift", size)}
    assert {name: vector(slot) for name, slot in slots.items()} == {name: expected[name] for name in slots}
    assert len(slots) == len(list(norm.parameters()))


def test_bags_of_embeddings_are_tables():
    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.head = nn.EmbeddingBag(9, 4), nn.Linear(4, 2)

        def forward(self, numbers):
            return self.head(self.words(numbers))

    slots = described(Bag(), torch.zeros(1, 3, dtype=torch.int64))
    assert matrix(slots["words.weight"]) == ("table", 9, 4, (), 4)


def test_a_hidden_layer_under_a_tied_head_is_not_the_last():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.hidden, self.head = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9, bias=False)
            self.head.weight = self.words.weight

        def forward(self, numbers):
            return self.head(self.hidden(self.words(numbers)))

    assert sites(Tied(), torch.zeros(1, 3, dtype=torch.int64)) == {
        "words.weight": "table", "hidden.weight": "linear", "hidden.bias": "bias"
    }  # fmt: skip


def test_width_1_has_one_first_and_one_last_layer():
    module = nn.Sequential(nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3), nn.Flatten(), nn.Linear(1, 1), nn.Linear(1, 1))
    weights = {name: site for name, site in sites(module, torch.zeros(1, 1, 5, 5)).items() if "weight" in name}
    assert list(weights.values()) == ["first_conv", "conv", "linear", "last"]


def test_every_head_is_a_last_layer():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.one, self.other = nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(4, 3)
            self.side = nn.Linear(4, 4)

        def forward(self, x):
            y = self.body(x) + self.side(x)
            return self.one(y), self.other(y)

    found = sites(Heads(), torch.zeros(1, 4))
    assert [found[f"{name}.weight"] for name in ("body", "side", "one", "other")] == [
        "linear",
        "linear",
        "last",
        "last",
    ]


def test_computed_weights_are_described_by_their_layer():
    module = nn.Sequential(
        weight_norm(nn.Conv1d(2, 6, 3)), weight_norm(nn.ConvTranspose1d(6, 4, 3, groups=2)),
        spectral_norm(nn.Conv1d(4, 4, 3)), nn.Flatten(), weight_norm(nn.Linear(24, 3)),
    )  # fmt: skip
    slots = described(module, torch.zeros(1, 2, 8))
    name = "{}.parametrizations.weight.original{}".format
    assert matrix(slots[name(0, 1)]) == ("first_conv", 6, 2, (3,), 6)
    assert matrix(slots[name(1, 1)]) == ("conv", 2, 6, (3,), 9) and slots[name(1, 1)].transposed
    assert matrix(slots[name(2, "")]) == ("conv", 4, 4, (3,), 12)
    assert matrix(slots[name(4, 1)]) == ("last_flat", 3, 4, (6,), 24)
    assert [vector(slots[name(i, 0)]) for i in (0, 1, 4)] == [("scale", 6), ("scale", 6), ("scale", 3)]


def test_standardised_weights_are_no_norm_scales():
    class Standardised(nn.Conv2d):
        """The convolution of BiT and NFNet, as timm writes it."""

        def forward(self, x):
            weight = F.batch_norm(self.weight.reshape(1, self.out_channels, -1), None, None, training=True)
            return self._conv_forward(x, weight.reshape_as(self.weight), self.bias)

    module = nn.Sequential(Standardised(3, 8, 3), Standardised(8, 8, 3, groups=8), Standardised(8, 4, 1, bias=False))
    slots = described(module, torch.zeros(1, 3, 8, 8))
    assert [slots[f"{i}.weight"].site for i in range(3)] == ["first_conv", "depthwise", "last"]
    assert slots["1.weight"].groups == 8


def test_raw_parameters_of_any_shape_have_a_slot():
    class Raw(nn.Module):
        def __init__(self):
            super().__init__()
            shapes = [(), (0,), (7,), (3, 1, 5), (1, 1, 1), (2, 3, 4, 5, 6)]
            self.values = nn.ParameterList(torch.zeros(shape) for shape in shapes)

        def forward(self, x):
            return sum((x * value).sum() for value in self.values)

    slots = described(Raw(), torch.zeros(1))
    assert [(s.site in MATRIX_SITES, s.rows * s.columns) for s in slots.values()] == [
        (False, 1), (False, 0), (False, 7), (True, 15), (False, 1), (True, 720)
    ]  # fmt: skip


def test_parameters_that_nothing_reads_have_no_slot():
    class Spare(nn.Linear):
        def __init__(self):
            super().__init__(3, 2)
            self.spare = nn.Parameter(torch.zeros(4))

    assert set(described(Spare(), torch.zeros(1, 3))) == {"weight", "bias"}


def test_sites_are_told_apart():
    assert len(set(SITES)) == len(SITES) == len(MATRIX_SITES) + len(VECTOR_SITES)


def identity_of(module, inputs, name="weight"):
    """The anchored places of a layer's weight, as a weight of zeros and ones."""
    slots = slots_of(trace(nn.Sequential(nn.Conv2d(1, 4, 1), module, nn.Conv2d(*inputs)), torch.zeros(1, 1, 8, 8)))
    layout = layout_of([slot for slot in slots if slot.name == f"1.{name}"])
    flat = torch.zeros(sum(layout.lengths))
    flat[layout.anchors] = layout.anchor_sources.float() + 1
    # The kernel position 12 is the middle of 5x5.
    return torch.where(layout.unflatten(flat)[f"1.{name}"] == 13, 1.0, 0.0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Conv2d(4, 4, 3, padding=1, bias=False),
        lambda: nn.Conv2d(4, 4, (1, 7), padding=(0, 3), bias=False),
        lambda: nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False),
        lambda: nn.Conv2d(4, 4, 5, padding=2, groups=4, bias=False),
        lambda: nn.Conv2d(4, 4, 3, padding=2, dilation=2, bias=False),
        lambda: nn.Conv2d(4, 4, 1, bias=False),
        lambda: nn.ConvTranspose2d(4, 4, 3, padding=1, bias=False),
        lambda: nn.ConvTranspose2d(4, 4, 3, padding=1, groups=2, bias=False),
        lambda: nn.ConvTranspose2d(4, 4, 3, padding=1, groups=4, bias=False),
    ],
)
def test_the_identity_hands_channels_on(make):
    layer = make()
    weight = identity_of(layer, (4, 2, 1))
    x = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.func.functional_call(layer, {"weight": weight}, (x,)), x)


@pytest.mark.parametrize(
    ("make", "channels"),
    [
        (lambda: nn.Conv2d(4, 8, 1, bias=False), [0, 1, 2, 3, 0, 1, 2, 3]),
        (lambda: nn.Conv2d(4, 6, 1, bias=False), [0, 1, 2, 3, None, None]),
        (lambda: nn.Conv2d(4, 2, 3, padding=1, bias=False), [0, 1]),
        (lambda: nn.Conv2d(4, 8, 1, groups=2, bias=False), [0, 1, 0, 1, 2, 3, 2, 3]),
        (lambda: nn.Conv2d(4, 8, 3, padding=1, groups=4, bias=False), [0, 0, 1, 1, 2, 2, 3, 3]),
        (lambda: nn.ConvTranspose2d(4, 2, 3, padding=1, groups=2, bias=False), [0, 2]),
        (lambda: nn.ConvTranspose2d(4, 8, 1, bias=False), [0, 1, 2, 3, 0, 1, 2, 3]),
    ],
)
def test_the_identity_is_cut_off_or_repeated(make, channels):
    layer = make()
    weight = identity_of(layer, (len(channels), 2, 1))
    x = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([torch.zeros(6, 6) if c is None else x[0, c] for c in channels])
    assert torch.equal(torch.func.functional_call(layer, {"weight": weight}, (x,))[0], expected)


def test_parameters_of_one_node_and_site_take_rows_of_their_own():
    layout = layout_of(slots_of(trace(nn.LSTM(3, 2, batch_first=True), torch.zeros(1, 4, 3))))
    assert [site for site, _ in layout.sites] == ["last", "last"]
    assert layout.rows.tolist() == list(range(16))
    assert layout.vector_rows.tolist() == list(range(16))
