import pytest
import torch
from torch import nn

from hypergen.errors import ParameterError
from hypergen.metanets.hyperparameter_search.weight_features import WeightFeatures


def network(*widths):
    torch.manual_seed(0)
    layers = [nn.Flatten()]
    for before, after in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def test_features_are_those_of_the_function_and_not_of_the_order_of_neurons():
    features = WeightFeatures(features=6, hidden=8, example_inputs=torch.zeros(1, 5))
    model, other = network(5, 7, 3), network(5, 4, 4, 3)
    before = features(model)
    assert before.shape == features(other).shape == (6,) and not before.requires_grad
    order = torch.randperm(7)
    with torch.no_grad():
        model[1].weight.copy_(model[1].weight[order])
        model[1].bias.copy_(model[1].bias[order])
        model[3].weight.copy_(model[3].weight[:, order])
        assert torch.allclose(features(model), before, atol=1e-6)
        model[3].weight.copy_(model[3].weight.flip(1))  # Alone, this is another function.
    assert not torch.allclose(features(model), before, atol=1e-4)


def test_a_seed_decides_them():
    model = network(5, 7, 3)
    first, same, different = (WeightFeatures(4, 8, example_inputs=torch.zeros(1, 5), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first(model), same(model)) and not torch.equal(first(model), different(model))


def test_weights_that_are_not_finite_are_refused():
    model = network(5, 7, 3)
    model[1].weight.data[0, 0] = torch.nan
    with pytest.raises(ParameterError, match="1.weight"):
        WeightFeatures(4, 8, example_inputs=torch.zeros(1, 5))(model)
