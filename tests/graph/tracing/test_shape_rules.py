"""The shape rules against PyTorch's own meta kernels."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from hypergen.graph import trace
from hypergen.graph.tracing import recorder
from hypergen.graph.tracing.shape_rules import ASK_PYTORCH, RULES


def meta(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


IMAGE, TOKENS, HEADS = meta(2, 4, 6, 6), meta(2, 5, 8), meta(2, 4, 5, 8)
CHANNELS = meta(4)
OFFSETS = meta(2, dtype=torch.int32)
STATE = (meta(2, 5, 3), meta(2, 5, 3))
GATES = [meta(12, 8), meta(12, 3), meta(12), meta(12)] * 2
POINTWISE = [F.relu, F.relu6, F.gelu, F.silu, F.hardswish, F.hardsigmoid, F.hardtanh, F.mish, F.selu, F.celu, F.elu]
POINTWISE += [F.leaky_relu, F.softplus, F.logsigmoid, F.softsign, F.tanhshrink, torch.relu, torch.tanh, torch.sigmoid]
ARITHMETIC = [torch.add, torch.Tensor.sub, torch.mul, torch.Tensor.div]

CALLS = {
    **{f"{function.__name__} {i}": (function, IMAGE) for i, function in enumerate(POINTWISE)},
    **{f"{function.__name__} {i} same": (function, IMAGE, meta(2, 4, 6, 6)) for i, function in enumerate(ARITHMETIC)},
    **{f"{function.__name__} {i} number": (function, IMAGE, 2.5) for i, function in enumerate(ARITHMETIC)},
    **{f"{function.__name__} {i} channels": (function, IMAGE, meta(4, 1, 1)) for i, function in enumerate(ARITHMETIC)},
    "pow": (torch.Tensor.pow, IMAGE, 2),
    "gate": (torch.mul, IMAGE, meta(2, 4, 1, 1)),
    "gate first": (torch.mul, meta(1, 1, 8), TOKENS),
    "batch norm": (F.batch_norm, IMAGE, CHANNELS, CHANNELS, CHANNELS, CHANNELS),
    "batch norm of vectors": (F.batch_norm, meta(2, 4), CHANNELS, CHANNELS),
    "group norm": (F.group_norm, IMAGE, 2, CHANNELS, CHANNELS),
    "layer norm": (F.layer_norm, TOKENS, (8,), meta(8), meta(8)),
    "layer norm of an image": (F.layer_norm, IMAGE, (4, 6, 6)),
    "rms norm": (F.rms_norm, TOKENS, (8,), meta(8)),
    "linear": (F.linear, TOKENS, meta(3, 8), meta(3)),
    "linear without bias": (F.linear, meta(8), meta(3, 8)),
    "addmm": (torch.addmm, meta(3), meta(5, 8), meta(8, 3)),
    "grouped product": (
        torch._grouped_mm,
        meta(6, 8, dtype=torch.bfloat16),
        meta(2, 8, 16, dtype=torch.bfloat16),
        OFFSETS,
    ),
    "adaptive pooling": (F.adaptive_avg_pool2d, IMAGE, 1),
    "adaptive pooling of two sizes": (F.adaptive_avg_pool2d, IMAGE, (2, 3)),
    "attention": (F.scaled_dot_product_attention, HEADS, meta(2, 4, 7, 8), meta(2, 4, 7, 3)),
    "attention with mask": (F.scaled_dot_product_attention, HEADS, HEADS, HEADS, meta(5, 5)),
    "lstm": (torch._VF.lstm, TOKENS, STATE, GATES, True, 1, 0.0, False, True, True),
    "gru": (
        torch._VF.gru,
        meta(5, 2, 8),
        meta(1, 2, 4),
        [meta(12, 8), meta(12, 4)],
        False,
        1,
        0.0,
        False,
        False,
        False,
    ),
}


def same(one, other):
    return one.shape == other.shape and one.dtype == other.dtype and one.stride() == other.stride()


@pytest.mark.parametrize("name", CALLS)
def test_rules_say_what_pytorch_says(name):
    function, *args = CALLS[name]
    if name == "lstm":
        args[1] = [meta(2, 2, 3), meta(2, 2, 3)]
    told, right = RULES[function](*args), function(*args)
    assert told is not ASK_PYTORCH
    if isinstance(right, torch.Tensor):
        assert same(told, right)
    else:
        assert len(told) == len(right)
        assert all(same(one, other) for one, other in zip(told, right, strict=True))


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (F.relu, (IMAGE, True)),
        (F.relu, (IMAGE.transpose(1, 2),)),
        (torch.sigmoid, (meta(3, dtype=torch.int64),)),
        (torch.add, (IMAGE, meta(6, dtype=torch.float64))),
        (torch.add, (meta(2, 1), meta(1, 3))),
        (torch.add, (meta(2, 3), meta(4))),
        (torch.div, (meta(3, dtype=torch.int64), 2)),
        (F.linear, (TOKENS, meta(3, 7))),
        (F.linear, (TOKENS, meta(3, 8, dtype=torch.float64))),
        (F.linear, (TOKENS, meta(3, 8), meta(4))),
        (F.batch_norm, (IMAGE, CHANNELS, meta(5))),
        (F.group_norm, (IMAGE, 3)),
        (F.layer_norm, (TOKENS, (7,))),
        (F.scaled_dot_product_attention, (HEADS, meta(2, 2, 5, 8), meta(2, 2, 5, 8))),
        (F.scaled_dot_product_attention, (HEADS, HEADS, HEADS, meta(3, 1, 5, 5))),
        (F.adaptive_avg_pool2d, (IMAGE, (None, 2))),
    ],
)
def test_rules_leave_other_cases_to_pytorch(function, args):
    assert RULES[function](*args) is ASK_PYTORCH


def test_graphs_are_the_same_without_rules(monkeypatch):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.GroupNorm(2, 8))
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, activation="gelu")
            self.rnn = nn.LSTM(8, 4, bidirectional=True)

        def forward(self, x):
            x = self.stem(x)
            x *= 2
            x = nn.functional.leaky_relu_(x.flatten(2).permute(2, 0, 1))
            return self.rnn(self.layer(x))[0].mean(0) / 3

    with_rules = trace(Net(), torch.zeros(1, 3, 8, 8))
    monkeypatch.setattr(recorder, "RULES", {})
    without = trace(Net(), torch.zeros(1, 3, 8, 8))
    assert with_rules.nodes == without.nodes
    assert torch.equal(with_rules.edges, without.edges)


@pytest.mark.parametrize("asks_for_values", [False, True])
def test_grouped_products_of_a_type_that_meta_kernels_refuse(asks_for_values):
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(meta(4, 4096, 2048))

        def forward(self, x, ends):
            if asks_for_values and ends[-1].item() != len(x):
                raise ValueError("rows are left over")
            return torch._grouped_mm(x, self.weight, offs=ends)

    graph = trace(Experts(), (meta(6, 4096), torch.tensor([1, 2, 4, 6], dtype=torch.int32)))
    assert graph.tracing_mode == ("known integers" if asks_for_values else "meta")
    assert [node.shape for node in graph.nodes][-1] == (6, 2048)
