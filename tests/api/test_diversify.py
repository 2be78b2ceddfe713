import math

import pytest
import torch
from torch import nn

import hypergen
from hypergen.api.diversify import DIVERSIFICATIONS, diversify, last_weights
from hypergen.errors import GeneratorError, ParameterError, UnknownNameError


def _parameters():
    torch.manual_seed(0)
    row = torch.randn(1, 6, 3, 3)
    return {"conv": row.repeat(8, 1, 1, 1) + 0.01 * torch.randn(8, 6, 3, 3), "bias": torch.randn(8)}


@pytest.mark.parametrize("kind", DIVERSIFICATIONS)
def test_weights_change_and_the_rest_stays(kind):
    predicted = _parameters()
    before = {name: value.clone() for name, value in predicted.items()}
    own = {name: torch.randn_like(value) for name, value in predicted.items()}
    found = diversify(predicted, kind, own=own)
    assert list(found) == list(predicted)
    assert found["bias"] is predicted["bias"]
    assert found["conv"].shape == predicted["conv"].shape
    assert not torch.equal(found["conv"], predicted["conv"])
    assert all(torch.equal(predicted[name], value) for name, value in before.items())
    assert diversify(predicted, kind, own=own, leave_out=["conv"])["conv"] is predicted["conv"]


@pytest.mark.parametrize("shape", [(8, 54), (54, 8), (8, 8)])
def test_rows_or_columns_become_orthogonal_at_the_same_norm(shape):
    matrix = torch.randn(shape) @ torch.randn(shape[1], shape[1]).exp()
    found = diversify({"w": matrix}, "orthogonal")["w"]
    gram = found @ found.t() if shape[0] <= shape[1] else found.t() @ found
    torch.testing.assert_close(gram / gram[0, 0], torch.eye(min(shape)), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.norm(), matrix.norm())


def test_what_is_orthogonal_already_stays_itself():
    matrix = torch.linalg.qr(torch.randn(6, 6)).Q
    for signed in (matrix, -matrix):
        found = diversify({"w": signed}, "orthogonal", strength=0)["w"]
        torch.testing.assert_close(found, signed, atol=1e-5, rtol=0)


def test_noise_has_its_strength_and_seed():
    predicted = {"w": torch.randn(200, 300), "v": torch.randn(20, 30)}
    found = diversify(predicted, "noise", strength=0.5, seed=1)
    noise = found["w"] - predicted["w"]
    assert math.isclose(noise.std() / predicted["w"].std(), 0.5, rel_tol=0.02)
    assert torch.equal(found["w"], diversify(predicted, "noise", strength=0.5, seed=1, leave_out=["v"])["w"])
    assert not torch.equal(found["w"], diversify(predicted, "noise", strength=0.5, seed=2)["w"])


def test_the_scale_of_the_networks_own():
    predicted = _parameters()
    own = {"conv": 7 * torch.randn(8, 6, 3, 3)}
    found = diversify(predicted, "variance", own=own)["conv"]
    torch.testing.assert_close(found.std(correction=0), own["conv"].std(correction=0))
    ratio = found / predicted["conv"]
    torch.testing.assert_close(ratio, ratio.flatten()[:1].expand_as(ratio.flatten()).view_as(ratio))


def test_half_precision_stays_half_precision():
    value = torch.randn(4, 4, dtype=torch.bfloat16)
    assert diversify({"w": value}, "orthogonal")["w"].dtype == torch.bfloat16


@pytest.mark.parametrize(("kind", "strength"), [("variance", 0.1), ("noise", -1.0), ("orthogonal", math.nan)])
def test_strengths_without_a_meaning_are_refused(kind, strength):
    with pytest.raises(ParameterError, match="strength"):
        diversify(_parameters(), kind, strength=strength, own=_parameters())


def test_bad_arguments():
    with pytest.raises(UnknownNameError, match="noise"):
        diversify(_parameters(), "nosie")
    with pytest.raises(ParameterError, match="'conv'.*own initialisation"):
        diversify(_parameters(), "variance", own={"conv": torch.empty(8, 6, 3, 3, device="meta")})


class _Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 10)  # registered first, called last
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1))

    def forward(self, x):
        return self.head(self.body(x).flatten(1))


@pytest.mark.parametrize("kind", DIVERSIFICATIONS)
def test_initialize_diversifies_all_but_the_last_layer(kind):
    inputs = torch.zeros(1, 1, 8, 8)
    plain, changed = _Net(), _Net()
    assert last_weights(hypergen.trace(plain, inputs)) == ("head.weight",)
    hypergen.initialize(plain, example_inputs=inputs)
    report = hypergen.initialize(changed, example_inputs=inputs, diversify=kind)
    assert report.diversified == kind and kind in str(report)
    different = {
        name
        for (name, one), other in zip(plain.named_parameters(), changed.parameters(), strict=True)
        if not torch.equal(one, other)
    }
    assert different == {"body.0.weight", "body.2.weight"}


def test_initialize_refuses_before_it_changes_anything():
    net = _Net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(UnknownNameError, match="diversification"):
        hypergen.initialize(net, diversify="more")
    with pytest.raises(GeneratorError, match="diversify_strength"):
        hypergen.initialize(net, diversify_strength=0.1)
    with pytest.raises(ParameterError, match="strength"):
        hypergen.initialize(net, example_inputs=torch.zeros(1, 1, 8, 8), diversify="noise", diversify_strength=-1)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
