import pytest
import torch
from torch import nn

from hypergen.errors import ParameterError
from hypergen.functional import apply_parameters, expected_shapes


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 3)
        self.head = nn.Linear(3, 7)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(self.embedding(tokens))


def random_parameters(model):
    return {name: torch.randn(shape) for name, shape in expected_shapes(model).items()}


def test_values_go_into_the_same_parameters():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()
    model[0].weight.requires_grad_(False)
    before = dict(model.named_parameters())
    parameters = random_parameters(model)
    apply_parameters(model, parameters)
    for name, parameter in model.named_parameters():
        assert parameter is before[name]
        assert parameter.dtype == torch.float64
        assert torch.equal(parameter, parameters[name].double())
    assert not model[0].weight.requires_grad and model[1].weight.requires_grad


def test_applied_values_are_copies():
    model = nn.Linear(2, 2)
    parameters = {name: value.requires_grad_() for name, value in random_parameters(model).items()}
    apply_parameters(model, parameters)
    with torch.no_grad():
        parameters["bias"].zero_()
    assert model.bias.is_leaf and model.bias.abs().sum() > 0


def test_nothing_is_written_when_something_is_wrong():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    before = {name: value.clone() for name, value in model.named_parameters()}
    parameters = random_parameters(model) | {"1.bias": torch.full((2,), torch.nan)}
    with pytest.raises(ParameterError, match="1.bias: not finite"):
        apply_parameters(model, parameters)
    assert all(torch.equal(before[name], value) for name, value in model.named_parameters())


def test_swapping_a_models_own_parameters():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    first, second = model[0].weight.detach().clone(), model[1].weight.detach().clone()
    own = {"0.weight": model[1].weight, "1.weight": model[0].weight.T}
    apply_parameters(model, own, partial=True)
    assert torch.equal(model[0].weight, second)
    assert torch.equal(model[1].weight, first.T)


@pytest.mark.parametrize("make", [Tied, lambda: nn.LSTM(3, 4, num_layers=2)], ids=["tied", "lstm"])
def test_meta_model_is_materialised(make):
    real = make()
    with torch.device("meta"):
        model = make()
    next(model.parameters()).mark = "kept"
    next(model.parameters()).requires_grad_(False)
    parameters = {name: value.detach() for name, value in real.named_parameters()}
    apply_parameters(model, parameters)
    assert next(model.parameters()).mark == "kept"
    assert not next(model.parameters()).requires_grad
    assert list(dict(model.named_parameters())) == list(parameters)
    inputs = torch.arange(5) if isinstance(real, Tied) else torch.randn(5, 2, 3)
    expected, actual = real(inputs), model(inputs)
    if isinstance(real, nn.LSTM):
        expected, actual = expected[0], actual[0]
    else:
        assert model.head.weight is model.embedding.weight
    torch.testing.assert_close(actual, expected)
    apply_parameters(real, {name: torch.zeros_like(value) for name, value in parameters.items()})
    assert any(value.abs().sum() > 0 for value in model.parameters())  # It shares no memory with the given values.


def test_meta_buffers_are_named():
    with torch.device("meta"):
        model = nn.BatchNorm1d(3)
    with pytest.raises(ParameterError, match="running_mean, running_var, num_batches_tracked"):
        apply_parameters(model, {"weight": torch.ones(3), "bias": torch.zeros(3)})
    assert model.weight.is_meta


def test_partial_leaves_no_meta_parameter_behind():
    with torch.device("meta"):
        model = nn.Linear(3, 2)
    with pytest.raises(ParameterError, match="in part: bias"):
        apply_parameters(model, {"weight": torch.ones(2, 3)}, partial=True)
    assert model.weight.is_meta


def test_lazy_module():
    with pytest.raises(ParameterError, match="one forward pass"):
        apply_parameters(nn.LazyLinear(2), {"weight": torch.ones(2, 3)})
