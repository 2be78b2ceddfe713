"""Activations stay within a factor 4 of those that the network's own initialisation gives."""

import pytest
import torch
from torch import nn

import hypergen
from hypergen.api.bound_scale import beyond_bound, bound_activations
from hypergen.api.probe import activation_scales


class Gained(nn.Module):
    """A residual branch with a gain of its own, as layer scale, and a table that is added."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)
        self.gain = nn.Parameter(torch.full((8,), 1e-3))
        self.table = nn.Parameter(torch.zeros(1, 8))

    def forward(self, x):
        return x + self.gain * self.layer(self.norm(x + self.table))


def networks():
    torch.manual_seed(0)
    deep = [layer for _ in range(12) for layer in (nn.Linear(8, 8), nn.ReLU())]
    zero = nn.BatchNorm1d(8)
    nn.init.zeros_(zero.weight)
    return {
        "deep": nn.Sequential(*deep, nn.Linear(8, 3)),
        "gains": nn.Sequential(nn.Linear(8, 8), Gained(), Gained(), nn.Linear(8, 3)),
        "zero norm": nn.Sequential(nn.Linear(8, 8), zero, nn.Linear(8, 3)),
        "recurrent": nn.Sequential(nn.Linear(8, 8), nn.Flatten(0), nn.Unflatten(0, (4, 8)), nn.LSTM(8, 8)),
    }


@pytest.mark.parametrize("name", networks())
@pytest.mark.parametrize("size", [1e-2, 30.0])
def test_any_prediction_is_brought_within_the_bound(name, size):
    model = networks()[name]
    arguments = ((torch.randn(4, 8),), {})
    own = {key: value.detach().clone() for key, value in model.named_parameters()}
    reference, _ = activation_scales(model, arguments)
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(size * torch.randn(value.shape))
    before, _ = activation_scales(model, arguments)
    assert beyond_bound(before, reference)
    changed = bound_activations(model, own, tuple(own), arguments)
    after, _ = activation_scales(model, arguments)
    assert changed and not beyond_bound(after, reference)


def test_what_is_within_the_bound_is_left():
    model = networks()["deep"]
    own = {key: value.detach().clone() for key, value in model.named_parameters()}
    with torch.no_grad():
        model[0].weight.mul_(1.5)
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    assert bound_activations(model, own, tuple(own), ((torch.randn(4, 8),), {})) == ()
    assert all(torch.equal(value, before[key]) for key, value in model.named_parameters())


def test_initialize_bounds_what_it_predicts_without_labels():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 16, 16)
    for scale, within in (("auto", True), ("bounded", True), ("predicted", False)):
        model = nn.Sequential(nn.Conv2d(3, 8, 3), *[nn.Conv2d(8, 8, 3, 1, 1) for _ in range(8)], nn.Conv2d(8, 3, 1))
        own, _ = activation_scales(model, ((x,), {}))
        report = hypergen.initialize(model, "digits-ghn", example_inputs=x, scale=scale, fallback="never")
        now, _ = activation_scales(model, ((x,), {}))
        assert (not beyond_bound(now, own)) == within and bool(report.rescaled) == within
