import copy
import inspect

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import hypergen
from hypergen.errors import GeneratorError, HypergenError, ParameterError, TraceError, UnknownNameError
from hypergen.generators import Generator, register_generator


@register_generator
class UsedNoise(Generator):
    """Writes noise into every parameter that an operation reads."""

    def __init__(self, scale: float = 0.1):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def predict(self, target, condition=None, *, example_inputs=None):
        graph = target if isinstance(target, hypergen.ComputationalGraph) else hypergen.trace(target, example_inputs)
        shapes = {n: shape for n, shape in graph.parameter_shapes.items() if n not in graph.unused_parameters}
        if condition is not None:
            return {name: self.scale * condition * torch.ones(shape) for name, shape in shapes.items()}
        return {name: self.scale * torch.randn(shape) for name, shape in shapes.items()}


class Net(nn.Module):
    """A convolutional net with a batch norm, a tied weight, an unused parameter and a buffer."""

    def __init__(self, tells: bool = True):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5))
        self.mix = nn.Linear(8, 8)
        self.mix_again = nn.Linear(8, 8, bias=False)
        self.mix_again.weight = self.mix.weight
        self.head = nn.Linear(8, 3)
        self.spare = nn.Parameter(torch.ones(5))
        self.register_buffer("calls", torch.zeros(()))
        if tells:
            self.example_input_array = torch.zeros(1, 1, 8, 8)

    def forward(self, x):
        self.calls += 1
        x = self.mix(self.features(x).mean((2, 3)))
        return self.head(self.mix_again(x.relu()))


def data(batches: int = 3, labels: bool = True) -> list:
    generator = torch.Generator().manual_seed(0)
    result = []
    for _ in range(batches):
        target = torch.arange(24) % 3
        images = torch.randn(24, 1, 8, 8, generator=generator) + target[:, None, None, None]
        result.append((images, target) if labels else images)
    return result


def snapshot(model: nn.Module) -> tuple:
    tensors = {name: (tensor, tensor.detach().clone()) for name, tensor in model.state_dict(keep_vars=True).items()}
    return tensors, [module.training for module in model.modules()]


def assert_unchanged(model: nn.Module, before: tuple) -> None:
    tensors, training = before
    now = model.state_dict(keep_vars=True)
    assert now.keys() == tensors.keys()
    for name, (tensor, value) in tensors.items():
        assert now[name] is tensor and torch.equal(tensor, value), name
    assert [module.training for module in model.modules()] == training


USED = ["features.0.weight", "features.0.bias", "features.1.weight", "features.1.bias", "mix.weight", "mix.bias"]
USED += ["head.weight", "head.bias"]


def test_the_public_functions_are_these():
    for name in ("predict_params", "initialize"):
        assert getattr(hypergen, name) is getattr(hypergen.api.predict, name)
    assert hypergen.Generator is Generator
    for function in (hypergen.predict_params, hypergen.initialize):
        assert inspect.signature(function).parameters["generator"].default == "digits-ghn"


def test_predict_params_only_reads_the_model():
    model = Net()
    model.features[1].eval()
    before = snapshot(model)
    parameters = hypergen.predict_params(model, UsedNoise())
    assert_unchanged(model, before)
    assert sorted(parameters) == sorted(USED)
    assert not any(value.requires_grad for value in parameters.values())


def test_predict_params_of_a_meta_model():
    with torch.device("meta"):
        model = Net()
    parameters = hypergen.predict_params(model, UsedNoise(), example_inputs=torch.zeros(1, 1, 8, 8))
    shapes = {name: parameter.shape for name, parameter in model.named_parameters() if name != "spare"}
    assert {name: value.shape for name, value in parameters.items()} == shapes
    assert not any(value.is_meta for value in parameters.values())
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_predictions_have_the_models_data_types(dtype):
    parameters = hypergen.predict_params(nn.Linear(3, 2).to(dtype), UsedNoise())
    assert {value.dtype for value in parameters.values()} == {dtype}


def test_predict_params_is_differentiable_on_request():
    generator = UsedNoise()
    parameters = hypergen.predict_params(Net(), generator, differentiable=True)
    sum(value.square().sum() for value in parameters.values()).backward()
    assert generator.scale.grad != 0


def test_conditions_and_paths_reach_the_generator(tmp_path):
    UsedNoise(0.5).save_pretrained(tmp_path / "toy")
    parameters = hypergen.predict_params(Net(), tmp_path / "toy", condition=4)
    assert all((value == 2).all() for value in parameters.values())


def test_initialize_reports_what_it_did():
    model = Net()
    model.features[3].eval()
    before, training = snapshot(model)
    report = hypergen.initialize(model, UsedNoise(), condition=1)
    assert list(report.predicted) == [name for name, _ in model.named_parameters() if name in USED]
    assert report.kept == ("spare",)
    assert report.tied == {"mix_again.weight": "mix.weight"}
    assert report.defaulted == ("features.1.running_mean", "features.1.running_var")
    assert report.calibration is None and report.head is None
    values = sum(parameter.numel() for parameter in model.parameters())
    assert report.share_of_parameters_predicted == pytest.approx((values - 5) / values)
    now = model.state_dict(keep_vars=True)
    assert all(now[name] is before[name][0] for name in before)  # the same objects, for optimisers and for ties
    assert all((now[name] == 0.1).all() for name in USED)
    assert model.mix_again.weight is model.mix.weight
    assert torch.equal(model.spare, torch.ones(5)) and model.calls == 0
    assert [module.training for module in model.modules()] == training
    text = str(report)
    assert "Net initialised by UsedNoise" in text and "spare (read by no operation)" in text
    assert "mix_again.weight = mix.weight" in text and "calibrate=" in text


def test_initialize_by_path_names_the_path(tmp_path):
    UsedNoise().save_pretrained(tmp_path / "toy")
    report = hypergen.initialize(Net(), tmp_path / "toy")
    assert report.generator == f"{tmp_path / 'toy'}, a UsedNoise"


def test_reports_of_nets_without_batch_norm():
    report = hypergen.initialize(nn.Linear(3, 2), UsedNoise())
    assert report.defaulted == () and report.batch_norm == "no layer keeps running statistics"
    assert report.share_of_parameters_predicted == 1


@pytest.mark.parametrize("form", ["list", "iterator", "loader", "inputs"])
def test_calibration(form):
    model = Net()
    batches = data(labels=form != "inputs")
    if form == "loader":
        batches = DataLoader(TensorDataset(*(torch.cat(column) for column in zip(*batches, strict=True))), 24)
    report = hypergen.initialize(model, UsedNoise(), calibrate=iter(batches) if form == "iterator" else batches)
    assert report.calibration == (1, 72) and report.defaulted == ()
    assert "statistics of 1 layer estimated from 72 samples" in report.batch_norm
    assert model.features[1].running_mean.abs().sum() > 0 and model.training


def test_calibration_reads_no_more_batches_than_asked():
    assert hypergen.initialize(Net(), UsedNoise(), calibrate=data(), calibration_batches=2).calibration == (1, 48)


def test_data_tell_the_example_inputs():
    model = Net(tells=False)
    with pytest.raises(TraceError, match="example_inputs="):
        hypergen.initialize(model, UsedNoise())
    for batches in (iter(data()), data(labels=False), [{"x": batch[0], "labels": batch[1]} for batch in data()]):
        assert hypergen.initialize(model, UsedNoise(), calibrate=batches).calibration == (1, 72)


def test_layers_that_never_run_stay_defaulted():
    model = Net()
    model.idle = nn.BatchNorm1d(2)
    # Noise may be the worse start, which would leave all as it is.
    report = hypergen.initialize(model, UsedNoise(), calibrate=data(), fallback="never")
    assert report.defaulted == ("idle.running_mean", "idle.running_var")
    assert report.kept == ("spare", "idle.weight", "idle.bias")
    assert "2 buffers of layers that never ran keep the model's" in report.batch_norm


def test_ridge_head_is_solved_on_the_calibrated_network():
    torch.manual_seed(0)
    model = Net()
    report = hypergen.initialize(model, UsedNoise(), calibrate=iter(data()), head="ridge")
    assert report.head[:2] == ("head", 72) and "head solved in closed form on 72 samples" in str(report)
    images, labels = data(1)[0]
    with torch.no_grad():
        assert (model.eval()(images).argmax(1) == labels).float().mean() > 0.6


def test_head_layer_and_number_of_classes():
    model = Net()
    two_classes = [(images[labels < 2], labels[labels < 2]) for images, labels in data()]
    with pytest.raises(ParameterError, match="`head_layer=`"):
        hypergen.initialize(model, UsedNoise(), calibrate=two_classes, head="ridge")
    report = hypergen.initialize(
        model, UsedNoise(), calibrate=two_classes, head="ridge", head_layer="head", num_classes=3
    )
    assert report.head.name == "head"


class Interrupt(BaseException):
    pass


def interrupted():
    yield data()[0]
    raise Interrupt


class Batches:
    def __iter__(self):
        return interrupted()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"head": "ridge"}, GeneratorError, "pass `calibrate=`"),
        ({"head": "ridg", "calibrate": data()}, UnknownNameError, "Did you mean 'ridge'"),
        ({"head_layer": "head", "calibrate": data()}, GeneratorError, 'head="ridge"'),
        ({"head": "ridge", "calibrate": data(labels=False)}, ParameterError, "holds no labels"),
        ({"head": "ridge", "calibrate": data(), "head_layer": "heat"}, UnknownNameError, "Did you mean 'head'"),
        ({"calibrate": []}, ParameterError, "no batches"),
        ({"calibrate": iter([])}, ParameterError, "no batches"),
        ({"calibrate": data(1)[0]}, ParameterError, r"calibrate=\[batch\]"),
        ({"calibrate": data(1)[0][0]}, ParameterError, r"calibrate=\[batch\]"),
        ({"calibrate": 3}, ParameterError, "train_dataloader"),
        ({"calibrate": [["not", "tensors"]]}, ParameterError, "no input tensor"),
        ({"calibrate": [torch.randn(4, 2, 8, 8)]}, RuntimeError, "channels"),
        ({"calibrate": [torch.full((4, 1, 8, 8), float("nan"))]}, ParameterError, "not finite"),
        ({"calibrate": Batches()}, Interrupt, "^$"),
        ({"generator": UsedNoise(3e38)}, ParameterError, "not finite"),
        ({"example_inputs": torch.zeros(1, 5)}, TraceError, "shape"),
        ({"generator": "no-such-generator"}, UnknownNameError, "no-such-generator"),
    ],
)
def test_after_any_error_the_model_is_as_it_was(options, error, message):
    model = Net()
    model.features[1].running_mean.normal_()
    model.features[3].eval()
    before = snapshot(model)
    with pytest.raises(error, match=message):
        hypergen.initialize(model, **{"generator": UsedNoise(), **options})
    assert_unchanged(model, before)


def test_a_failed_head_gives_calibrated_statistics_back(monkeypatch):
    def fail(*_, **__):
        raise ParameterError("the system is singular")

    monkeypatch.setattr(hypergen.api.preparation, "fit_ridge_head", fail)
    model = Net()
    before = snapshot(model)
    with pytest.raises(ParameterError, match="singular"):
        hypergen.initialize(model, UsedNoise(), calibrate=data(), head="ridge")
    assert_unchanged(model, before)


def test_a_meta_model_gets_values_and_loses_them_after_an_error():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    before = dict(model.named_parameters())
    bad = [(torch.full((6, 4), float("nan")), torch.arange(6) % 3)]
    with pytest.raises(ParameterError, match="not finite"):
        hypergen.initialize(model, UsedNoise(), calibrate=bad, head="ridge")
    assert all(parameter is before[name] for name, parameter in model.named_parameters())
    report = hypergen.initialize(model, UsedNoise())
    assert report.share_of_parameters_predicted == 1 and not any(p.is_meta for p in model.parameters())


def test_a_meta_model_with_buffers_is_refused_in_words():
    with torch.device("meta"):
        model = Net()
    with pytest.raises(ParameterError, match=r"stay on the meta device in part.*running_mean"):
        hypergen.initialize(model, UsedNoise(), example_inputs=torch.zeros(1, 1, 8, 8))


def test_models_that_cannot_be_served():
    integer = nn.Linear(2, 2)
    integer.steps = nn.Parameter(torch.zeros(1, dtype=torch.int64), requires_grad=False)
    for model, message in (
        (nn.ReLU(), "no parameters"),
        (nn.LazyLinear(2), "lazy"),
        (nn.Linear(2, 2, dtype=torch.complex64), "complex"),
        (integer, "integer"),
    ):
        before = copy.deepcopy(model)
        for function in (hypergen.predict_params, hypergen.initialize):
            with pytest.raises(HypergenError, match=message):
                function(model, UsedNoise())
        assert repr(model) == repr(before)


def test_an_optimiser_built_before_trains_the_predicted_parameters():
    model = nn.Linear(3, 2)
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    hypergen.initialize(model, UsedNoise(), condition=1)
    model(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    assert torch.allclose(model.weight, torch.tensor(0.1 - 1.0))
