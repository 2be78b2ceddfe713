"""Scaling hidden neurons, which changes nothing, is not seen; scaling what changes something is."""

import pytest
import torch
from torch import nn

from hypergen.errors import ParameterError
from hypergen.graph import trace
from hypergen.metanets import GraphMetanetwork, InvariantMetanetwork, ScaleEquivariantMetanetwork

IMAGES = torch.zeros(1, 1, 8, 8)


def network(activation):
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), activation(), nn.Conv2d(4, 5, 3), activation(), nn.Flatten(),
        nn.Linear(5 * 16, 6), activation(), nn.Linear(6, 3),
    )  # fmt: skip


def scaled(tensors, first, second, third):
    result = dict(tensors)
    result["0.weight"] = tensors["0.weight"] * first[:, None, None, None]
    result["0.bias"] = tensors["0.bias"] * first
    result["2.weight"] = tensors["2.weight"] * second[:, None, None, None] / first[:, None, None]
    result["2.bias"] = tensors["2.bias"] * second
    result["5.weight"] = tensors["5.weight"] * third[:, None] / second.repeat_interleave(16)
    result["5.bias"] = tensors["5.bias"] * third
    result["7.weight"] = tensors["7.weight"] / third
    return result


def positive(size):
    return torch.rand(size, dtype=torch.float64) * 3 + 0.2


def signs(size):
    return torch.randint(0, 2, (size,)).double() * 2 - 1


CASES = [(nn.ReLU, "scale", positive), (nn.Tanh, "sign", signs)]


def made(activation, symmetry, factors):
    torch.manual_seed(0)
    net = network(activation)
    graph = trace(net, IMAGES).parameter_graph()
    tensors = {name: values.detach().double()[None] for name, values in net.named_parameters()}
    other = scaled(tensors, *(factors(size) for size in (4, 5, 6)))
    reader = ScaleEquivariantMetanetwork(symmetry, hidden=8, layers=4, outputs=2).double()
    return net.double(), graph, tensors, other, reader


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[1])
@torch.no_grad()
def test_factors_that_change_nothing_are_not_seen(case):
    net, graph, tensors, other, reader = made(*case)
    images = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    outputs = [torch.func.functional_call(net, {n: v[0] for n, v in own.items()}, images) for own in (tensors, other)]
    assert torch.allclose(*outputs)
    assert torch.allclose(reader(graph, tensors), reader(graph, other), rtol=1e-9, atol=1e-12)
    element = graph.symmetry.sample(torch.Generator().manual_seed(0))
    assert torch.allclose(reader(graph, tensors), reader(graph, graph.symmetry.apply(other, element)), rtol=1e-9)
    # A metanetwork that knows permutations alone does see them.
    control = InvariantMetanetwork(GraphMetanetwork(hidden=8)).double()
    assert not torch.allclose(control(graph, tensors), control(graph, other), rtol=1e-4)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[1])
@torch.no_grad()
def test_changes_scale_as_weights_do(case):
    _, graph, tensors, other, reader = made(*case)
    change, scaled_change = (graph.to_params(reader.change(graph, own)) for own in (tensors, other))
    for name, values in change.items():
        assert values.abs().max() > 0
        expected = values * (other[name] / tensors[name])
        assert torch.allclose(expected, scaled_change[name], rtol=1e-8, atol=1e-12 * float(expected.abs().max()))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[1])
@torch.no_grad()
def test_factors_that_change_the_function_are_seen(case):
    _, graph, tensors, other, reader = made(*case)
    before = reader(graph, tensors)
    for name in ("0.weight", "2.bias", "5.weight"):
        after = reader(graph, {**tensors, name: other[name]})
        assert (after - before).abs().max() > 1e-8


def test_the_wrong_symmetry_is_seen():
    _, graph, tensors, _, reader = made(nn.ReLU, "scale", positive)
    flipped = scaled(tensors, *(-torch.ones(size, dtype=torch.float64) for size in (4, 5, 6)))
    assert not torch.allclose(reader(graph, tensors), reader(graph, flipped), rtol=1e-4)


def test_networks_whose_scales_are_not_known_are_refused():
    net = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    graph = trace(net, torch.zeros(1, 4)).parameter_graph()
    tensors = {name: values[None] for name, values in net.named_parameters()}
    with pytest.raises(ParameterError, match=r"'1.weight' belongs to 'layer_norm'"):
        ScaleEquivariantMetanetwork()(graph, tensors)
    with pytest.raises(ValueError, match="'scale' or 'sign'"):
        ScaleEquivariantMetanetwork("size")
