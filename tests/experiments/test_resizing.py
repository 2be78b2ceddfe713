import torch
from torch import nn
from torch.func import functional_call

from experiments.diffusion_tasks.resizing import resize_networks


def mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, o in zip((8, *widths), (*widths, 1), strict=True):
        layers += [nn.Linear(i, o), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in model.named_parameters()}


def test_a_network_that_grows_computes_what_it_did():
    small, large = mlp(4), mlp(6, 6)
    stacked = {name: value.detach()[None] for name, value in small.named_parameters()}
    grown = resize_networks(stacked, shapes(large))
    inputs = torch.randn(5, 8)
    found = functional_call(large, {name: value[0] for name, value in grown.items()}, (inputs,))
    torch.testing.assert_close(found, small(inputs))


def test_a_network_that_shrinks_is_cropped():
    large = mlp(6, 6, 6)
    stacked = {name: torch.randn(2, *value.shape) for name, value in large.named_parameters()}
    small = resize_networks(stacked, shapes(mlp(4)))
    assert torch.equal(small["0.weight"], stacked["0.weight"][:, :4])
    assert torch.equal(small["2.weight"], stacked["6.weight"][:, :, :4])


def test_the_same_layout_stays_as_it_is():
    stacked = {name: torch.randn(2, *value.shape) for name, value in mlp(4, 4).named_parameters()}
    assert all(torch.equal(value, stacked[name]) for name, value in resize_networks(stacked, shapes(mlp(4, 4))).items())
