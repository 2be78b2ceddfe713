"""Frozen parameters are kept, and a start that is worse than the network's own is not taken."""

import pytest
import torch
from torch import nn

import hypergen
from hypergen.api.comparison import mean_loss
from hypergen.errors import GeneratorError, ParameterError, UnknownNameError
from hypergen.generators import Generator, register_generator


@register_generator
class ConstantValues(Generator):
    """Writes one value into every parameter that an operation reads."""

    def __init__(self, value: float = 1.0):
        super().__init__()
        self.value = value

    def predict(self, target, condition=None, *, example_inputs=None):
        graph = target if isinstance(target, hypergen.ComputationalGraph) else hypergen.trace(target, example_inputs)
        return {n: torch.full(s, self.value) for n, s in graph.parameter_shapes.items()}


@register_generator
class Loud(ConstantValues):
    """Writes large noise."""

    def predict(self, target, condition=None, *, example_inputs=None):
        random = torch.Generator().manual_seed(0)
        shapes = super().predict(target, example_inputs=example_inputs)
        return {n: value * torch.randn(value.shape, generator=random) for n, value in shapes.items()}


def network(depth: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [layer for _ in range(depth) for layer in (nn.Linear(8, 8), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(8, 3))


def batches(classes: int = 3):
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(16, 8, generator=generator), torch.arange(16) % classes) for _ in range(3)]


def values(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def unchanged(model, before, names=None):
    now = model.state_dict()
    return all(torch.equal(now[name], before[name]) for name in (before if names is None else names))


@pytest.mark.parametrize("data", [None, batches()])
def test_frozen_parameters_keep_their_values(data):
    model = network()
    model[0].requires_grad_(False)
    before = values(model)
    report = hypergen.initialize(model, ConstantValues(0.5), calibrate=data, fallback="never")
    assert report.frozen == ("0.weight", "0.bias") and set(report.frozen) <= set(report.kept)
    assert unchanged(model, before, report.frozen) and (model[2].weight == 0.5).all()
    assert not model[0].weight.requires_grad and "overwrite_frozen" in str(report)
    report = hypergen.initialize(model, ConstantValues(0.5), overwrite_frozen=True, fallback="never")
    assert report.frozen == () and (model[0].weight == 0.5).all() and not model[0].weight.requires_grad


def test_frozen_batch_norms_keep_their_statistics():
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    model[1].requires_grad_(False)
    model[1].running_mean.fill_(3.0)
    report = hypergen.initialize(model, "digits-ghn", calibrate=batches(), fallback="never")
    assert (model[1].running_mean == 3).all() and (model[3].running_mean != 0).any()
    assert report.calibration.layers == 1 and report.defaulted == ("1.running_mean", "1.running_var")


def test_all_frozen_is_refused():
    model = network().requires_grad_(False)
    with pytest.raises(ParameterError, match="All 8 parameters.*overwrite_frozen"):
        hypergen.initialize(model)
    assert hypergen.initialize(model, overwrite_frozen=True).kept == ()


def test_a_frozen_head_is_not_solved():
    model = network()
    model[6].requires_grad_(False)
    before = values(model)
    with pytest.raises(GeneratorError, match="'6'.*frozen"):
        hypergen.initialize(model, calibrate=batches(), head="ridge")
    assert unchanged(model, before)


def test_a_condition_that_is_not_taken_is_refused():
    model = network()
    before = values(model)
    for function in (hypergen.predict_params, hypergen.initialize):
        with pytest.raises(GeneratorError, match="takes no condition"):
            function(model, "digits-ghn", condition={"accuracy": 0.9})
    assert unchanged(model, before)


@pytest.mark.parametrize("data", [None, batches()])
def test_a_worse_start_is_left(data):
    model = network()
    before = values(model)
    report = hypergen.initialize(model, Loud(30.0), calibrate=data)
    assert report.fell_back and report.comparison.better == "default" and unchanged(model, before)
    assert report.predicted == () and set(report.kept) == set(before) and report.share_of_parameters_predicted == 0
    assert "keeps its own values" in str(report) and report.comparison.reason[:20] in str(report)


def test_never_and_error():
    model = network()
    before = values(model)
    with pytest.raises(ParameterError, match='fallback="never"'):
        hypergen.initialize(model, Loud(30.0), calibrate=batches(), fallback="error")
    assert unchanged(model, before)
    report = hypergen.initialize(model, Loud(30.0), calibrate=batches(), fallback="never")
    assert not report.fell_back and report.comparison.better == "default" and model[0].weight.std() > 10
    with pytest.raises(UnknownNameError, match="Did you mean 'default'"):
        hypergen.initialize(model, fallback="defualt")


def test_a_better_start_is_taken_by_its_loss():
    images, labels = [], []
    for _ in range(4):
        labels.append(torch.arange(32) % 2)
        images.append(torch.randn(32, 8) * 0.1 + labels[-1][:, None])
    model = nn.Sequential(nn.Linear(8, 2, bias=False))
    good = torch.stack([-torch.ones(8), torch.ones(8)])

    @register_generator
    class Good(Generator):
        def predict(self, target, condition=None, *, example_inputs=None):
            return {"0.weight": good - 0.0}

    data = list(zip(images, labels, strict=True))
    default = mean_loss(model, data)
    report = hypergen.initialize(model, Good(), calibrate=data)
    assert report.comparison.better == "predicted" and torch.equal(model[0].weight, good)
    assert report.comparison.default.loss == pytest.approx(default)
    assert report.comparison.predicted.loss == pytest.approx(mean_loss(model, data))


def test_not_finite_at_either_start():
    model = network()
    with torch.no_grad():
        model[0].weight.fill_(torch.inf)
    for data in (None, batches()):
        with pytest.raises(ParameterError, match="not finite at both starts"):
            hypergen.initialize(model, ConstantValues(3e38), calibrate=data)
    report = hypergen.initialize(model, ConstantValues(0.1))  # only the network's own start is not
    assert report.comparison.better == "predicted" and (model[0].weight == 0.1).all()


def test_comparing_leaves_no_traces():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.norm, self.drop = nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.5)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return self.drop(self.norm(self.layer(x)))

    model = Counting()
    model.drop.eval()
    buffers = {name: (buffer, buffer.clone()) for name, buffer in model.named_buffers()}
    state = torch.get_rng_state()
    hypergen.initialize(model, ConstantValues(0.1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(b is buffers[n][0] and torch.equal(b, buffers[n][1]) for n, b in model.named_buffers())
    assert model.training and model.norm.training and not model.drop.training


def test_a_meta_network_is_not_compared():
    with torch.device("meta"):
        model = network()
    report = hypergen.initialize(model, ConstantValues(0.1))
    assert report.comparison.better == "" and "meta device" in str(report)


def test_sizes_of_activations_alone_make_no_start_the_better_one():
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    text = str(hypergen.initialize(network, example_inputs=torch.zeros(1, 1, 8, 8)))
    assert "nothing speaks against the predicted start" in text and "better start" not in text
