"""What a trace leaves behind, what it falls back to, which inputs it works out, and how it fails."""

import random
from importlib import import_module

import numpy
import pytest
import torch
from torch import nn

from hypergen.errors import TraceError
from hypergen.graph import trace


class Busy(nn.Module):
    """Does in its forward pass what people do: caches, counters, buffers, in-place updates, random numbers."""

    def __init__(self, fails=False, looks_at_values=False):
        super().__init__()
        self.rnn = nn.LSTM(6, 6)
        self.norm = nn.BatchNorm1d(6)
        self.layer = nn.utils.spectral_norm(nn.Linear(6, 6))
        self.scale = nn.Parameter(torch.ones(6))
        self.register_buffer("total", torch.zeros(6))
        self.register_buffer("frozen_flag", torch.zeros(1))
        self.plain = torch.zeros(6)
        self.cache, self.history, self.mask = {}, [torch.zeros(1)], None
        self.norm.eval()
        self.fails, self.looks_at_values = fails, looks_at_values

    def forward(self, x):
        self.mask = torch.ones_like(x)
        self.cache["mask"] = self.mask
        self.history.append(x)
        self.calls = 1
        self.total += x.sum(0)
        self.plain += 1
        self.total = self.total * 2
        x = x * self.mask + torch.rand(6) + random.random() + float(numpy.random.rand())
        x = self.norm(self.layer(self.rnn(x)[0])) * self.scale
        if self.looks_at_values and x.sum().item() > 1e9:
            x = x * 2
        if self.fails:
            raise KeyError("no such thing")
        return x


def fingerprint(model):
    """Everything that a forward pass could change, by identity; values of tensors, too."""
    print_ = []
    for module in model.modules():
        for name, value in vars(module).items():
            content = list(value.items()) if isinstance(value, dict) else list(value) if isinstance(value, list) else []
            print_.append(
                (
                    name,
                    id(value) if type(value) is not bool else value,
                    [(id(c[1]) if isinstance(c, tuple) else id(c)) for c in content],
                )
            )
    tensors = [*model.state_dict().values(), *(v for v in vars(model).values() if isinstance(v, torch.Tensor))]
    return print_, [tensor.clone() for tensor in tensors if not tensor.is_meta]


def random_states():
    return torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].copy()


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("looks_at_values", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_as_before(device, fails, looks_at_values):
    model = Busy(fails, looks_at_values).to(device)
    before, states = fingerprint(model), random_states()
    if fails or (device == "meta" and looks_at_values):
        with pytest.raises(TraceError):
            trace(model, torch.zeros(4, 6))
    else:
        trace(model, torch.zeros(4, 6))
    after = fingerprint(model)
    assert after[0] == before[0]
    assert all(torch.equal(a, b) for a, b in zip(after[1], before[1], strict=True))
    for a, b in zip(random_states(), states, strict=True):
        assert (a == b) if isinstance(a, tuple) else bool((a == b).all())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("ambient", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_gradient_mode_around_a_trace_does_not_matter(ambient):
    model = Busy(looks_at_values=True)
    reference = trace(model, torch.zeros(4, 6))
    with ambient():
        modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        graph = trace(model, torch.zeros(4, 6))
        assert modes == (torch.is_grad_enabled(), torch.is_inference_mode_enabled())
    assert graph.nodes == reference.nodes
    assert torch.equal(graph.edges, reference.edges)


def test_hooks_run_and_stay():
    seen = []
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
    model[0].register_forward_hook(lambda module, args, output: output * 2)
    once = model[1].register_forward_pre_hook(lambda module, args: once.remove())
    everywhere = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(type(module).__name__))
    try:
        graph = trace(model, torch.zeros(2, 6))
        assert [node.op for node in graph.nodes] == ["input", "linear", "mul", "relu"]
        assert [node.module for node in graph.nodes] == ["", "0", "0", "1"]
        assert seen == ["Linear", "ReLU", "Sequential"]
        assert len(model[0]._forward_hooks) == len(model[1]._forward_pre_hooks) == 1
        model(torch.zeros(2, 6))
        assert seen[3:] == ["Linear", "ReLU", "Sequential"]
    finally:
        everywhere.remove()


def test_modules_that_raise_and_are_caught_do_not_confuse_the_names():
    class Careful(nn.Module):
        def __init__(self):
            super().__init__()
            self.fragile, self.solid = nn.Sequential(nn.Linear(5, 5)), nn.Linear(6, 6)

        def forward(self, x):
            try:
                return self.fragile(x)
            except RuntimeError:
                return torch.relu(self.solid(x))

    graph = trace(Careful(), torch.zeros(2, 6))
    assert [(node.op, node.module) for node in graph.nodes] == [("input", ""), ("linear", "solid"), ("relu", "")]


def test_a_module_that_holds_its_parent():
    class Child(nn.Module):
        def forward(self, x):
            return self.parent.layer(x)

    class Parent(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.child = nn.Linear(6, 6), Child()
            self.child.parent = self

        def forward(self, x):
            return self.child(x)

    graph = trace(Parent(), torch.zeros(2, 6))
    assert dict(graph.nodes[1].parameters) == {"weight": "layer.weight", "bias": "layer.bias"}
    assert not graph.tied_parameters


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_real_meta_and_mixed_tensors_give_the_same_graph(dtype):
    def build():
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).to(
            dtype
        )

    reference = trace(build(), torch.zeros(1, 3, 8, 8, dtype=dtype))
    for model in (build().to("meta"), build()):
        graph = trace(model, torch.zeros(1, 3, 8, 8, dtype=dtype, device="meta"))
        assert graph.nodes == reference.nodes
        assert torch.equal(graph.edges, reference.edges)


def test_parameter_names_and_shapes_are_those_of_the_model():
    model = nn.Transformer(8, 2, 1, 1, 16, batch_first=True)
    graph = trace(model, (torch.zeros(1, 3, 8), torch.zeros(1, 4, 8)))
    assert list(graph.parameter_shapes.items()) == [(name, tuple(p.shape)) for name, p in model.named_parameters()]


# Example inputs


def first_shape(model):
    return trace(model).nodes[0].shape


def test_inputs_of_a_first_linear_or_embedding_layer():
    assert first_shape(nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(5, 2)))) == (1, 5)
    assert first_shape(nn.Sequential(nn.Embedding(7, 2), nn.Linear(2, 2))) == (1, 16)


def test_inputs_that_lightning_models_carry():
    model = nn.Sequential(nn.Conv1d(2, 3, 3))
    model.example_input_array = torch.zeros(4, 2, 10)
    assert first_shape(model) == (4, 2, 10)


@pytest.mark.parametrize(
    ("name", "arguments", "shape"),
    [
        ("resnet18", {}, (1, 3, 224, 224)),
        ("inception_v3", {"init_weights": False}, (1, 3, 299, 299)),
        ("vit_b_32", {"image_size": 64}, (1, 3, 64, 64)),
    ],
)
def test_inputs_of_torchvision_models(name, arguments, shape):
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        assert first_shape(torchvision.models.get_model(name, **arguments)) == shape


@pytest.mark.parametrize(
    ("name", "arguments", "shape"),
    [
        ("resnet18", {}, (1, 3, 224, 224)),
        ("resnet18", {"in_chans": 1}, (1, 1, 224, 224)),
        ("vit_tiny_patch16_224", {"img_size": 96}, (1, 3, 96, 96)),
    ],
)
def test_inputs_of_timm_models(name, arguments, shape):
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        assert first_shape(timm.create_model(name, **arguments)) == shape


def test_inputs_of_hugging_face_models():
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    with torch.device("meta"):
        bert = transformers.BertModel(transformers.BertConfig(**small))
        vit = transformers.ViTModel(transformers.ViTConfig(**small, image_size=32, patch_size=16, num_channels=1))
        t5 = transformers.T5Model(transformers.T5Config(d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2))
    assert first_shape(bert) == (1, 16)
    assert first_shape(vit) == (1, 1, 32, 32)
    assert [node.shape for node in trace(t5).nodes if node.op == "input"] == [(1, 16), (1, 16)]


# Errors


def fails(model, inputs, *expected):
    with pytest.raises(TraceError) as raised:
        trace(model, inputs)
    message = str(raised.value)
    assert all(words in message for words in expected), message
    return raised.value


def test_inputs_that_cannot_be_worked_out():
    fails(nn.Sequential(nn.Conv2d(5, 3, 3)), None, "Sequential", "example_inputs=torch.zeros(1, 5, height, width)")
    fails(nn.MultiheadAttention(4, 2), None, "MultiheadAttention", "example_inputs=", "example_input_array")


def test_inputs_of_the_wrong_shape():
    model = nn.Sequential(nn.Sequential(nn.Linear(6, 4)), nn.ReLU())
    error = fails(model, torch.zeros(2, 5), "(2, 5)", "module '0.0' (Linear)", "operation 'linear'", "example_inputs=")
    assert isinstance(error.__cause__, RuntimeError)
    fails(model.to("meta"), torch.zeros(2, 5), "module '0.0' (Linear)", "operation 'linear'")
    fails(nn.BatchNorm2d(3), torch.zeros(1, 4, 2, 2), "batch_norm")
    fails(nn.LayerNorm(3), torch.zeros(1, 4), "layer_norm")


def test_missing_and_unknown_inputs():
    fails(nn.MultiheadAttention(4, 2), torch.zeros(1, 2, 4), "MultiheadAttention", "key", "example_inputs=")
    fails(nn.Linear(4, 2), {"images": torch.zeros(1, 4)}, "images")


class LooksAtValues(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x):
        return self.layer(x) * x.sum().item()


def test_values_that_nobody_has(monkeypatch):
    fails(LooksAtValues().to("meta"), torch.zeros(2, 6), "'item'", "meta device", "real parameters")
    monkeypatch.setattr(import_module("hypergen.graph.tracing.trace"), "_MAX_REAL_BYTES", 100)
    fails(LooksAtValues(), torch.zeros(2, 6), "'item'", "MB", "real parameters")


def test_values_of_meta_inputs_are_made_up():
    graph = trace(LooksAtValues(), torch.zeros(2, 6, device="meta"))
    assert [node.op for node in graph.nodes] == ["input", "linear", "mul"]


@pytest.mark.parametrize(
    "layer", [nn.LazyLinear(3), nn.LazyBatchNorm1d(affine=False), nn.Sequential(nn.LazyConv2d(3, 1))]
)
def test_lazy_modules(layer):
    fails(layer, torch.zeros(2, 6), "lazy", "forward pass")


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_what_is_no_python_module():
    fails(nn.Linear, torch.zeros(2, 6), "torch.nn.Module", "instantiated")
    fails(nn.Sequential(torch.jit.script(nn.Linear(6, 3))), torch.zeros(2, 6), "'0'", "TorchScript", "Python module")


def test_only_errors_are_turned_into_trace_errors():
    class Stopped(nn.Module):
        def forward(self, x):
            raise KeyboardInterrupt

    model = Stopped().train()
    with pytest.raises(KeyboardInterrupt):
        trace(model, torch.zeros(1))
    assert model.training
