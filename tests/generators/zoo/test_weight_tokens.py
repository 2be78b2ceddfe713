import math

import pytest
import torch
from torch import nn

from hypergen.errors import ParameterError
from hypergen.generators.tokens.weight_tokens import NUM_POSITIONS, ROLES, LayoutBatch, WeightTokens, role_of


def stacked(model: nn.Module, networks: int = 3, seed: int = 0) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {name: torch.randn(networks, *value.shape, generator=random) for name, value in model.named_parameters()}


def layout_of(model: nn.Module, token_size: int = 8) -> WeightTokens:
    return WeightTokens({name: tuple(value.shape) for name, value in model.named_parameters()}, token_size)


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)
        self.norm = nn.BatchNorm2d(5)
        self.scale = nn.Parameter(torch.ones(()))
        self.table = nn.Parameter(torch.ones(2, 3, 4, 1, 2))
        self.head = nn.Linear(5, 1, bias=False)


@pytest.mark.parametrize("token_size", [1, 7, 64])
def test_round_trip_is_bitwise(token_size):
    model = Odd()
    layout, networks = layout_of(model, token_size), stacked(model)
    tokens = layout.encode(networks)
    assert tokens.shape == (3, layout.num_tokens, token_size)
    back = layout.decode(tokens)
    assert list(back) == list(networks)
    assert all(torch.equal(back[name], value) for name, value in networks.items())
    assert (tokens[:, ~layout.mask] == 0).all()
    assert layout.mask.sum() == layout.num_values == sum(value[0].numel() for value in networks.values())


def test_padding_does_not_reach_the_weights():
    layout = layout_of(Odd())
    tokens = layout.encode(stacked(Odd()))
    noisy = torch.where(layout.mask, tokens, torch.full_like(tokens, math.nan))
    longer = torch.cat([noisy, torch.full_like(noisy[:, :2], math.nan)], 1)
    assert all(value.isfinite().all() for value in layout.decode(longer).values())


def test_variances_travel_as_logarithms():
    layout = WeightTokens({"norm.running_mean": (4,), "norm.running_var": (4,)}, 4)
    networks = {"norm.running_mean": torch.randn(2, 4), "norm.running_var": torch.rand(2, 4) * 1e-4 + 1e-8}
    tokens = layout.encode(networks)
    assert torch.equal(tokens[:, 1], networks["norm.running_var"].log())
    torch.testing.assert_close(layout.decode(tokens)["norm.running_var"], networks["norm.running_var"])
    assert (layout.decode(tokens - 100)["norm.running_var"] >= 0).all()
    with pytest.raises(ParameterError, match="norm.running_var"):
        layout.encode({**networks, "norm.running_var": torch.zeros(2, 4)})


def test_a_neuron_has_the_same_tokens_in_a_wider_network():
    narrow, wide = layout_of(nn.Linear(8, 4), 8), layout_of(nn.Linear(8, 6), 8)
    assert torch.equal(narrow.positions[:4, :6], wide.positions[:4, :6])
    assert not torch.equal(narrow.positions[:4], wide.positions[:4])  # The sizes tell them apart.


def test_positions_tell_tokens_apart():
    positions = layout_of(Odd(), 4).positions
    assert positions.shape[1] == NUM_POSITIONS
    assert len(positions.unique(dim=0)) == len(positions)


def test_different_layouts_lie_side_by_side():
    models = [nn.Linear(8, 4), nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 1))]
    layouts = [layout_of(model) for model in models]
    batch = LayoutBatch.of(layouts)
    assert batch.mask.sum(1).tolist() == [layout.num_tokens for layout in layouts]
    assert batch.values.sum((1, 2)).tolist() == [layout.num_values for layout in layouts]
    for layout, model in zip(layouts, models, strict=True):
        networks = stacked(model)
        padded = batch.pad(layout.encode(networks))
        assert padded.shape[1:] == batch.values.shape[1:]
        assert all(torch.equal(value, networks[name]) for name, value in layout.decode(padded).items())


@pytest.mark.parametrize(
    ("name", "shape", "role"),
    [
        ("fc.weight", (3, 4), "matrix"),
        ("conv.weight", (3, 4, 1, 1), "kernel"),
        ("norm.weight", (3,), "scale"),
        ("norm.bias", (3,), "bias"),
        ("norm.running_var", (3,), "running_var"),
        ("q.lora_A.default.weight", (4, 16), "lora_A"),
        ("q.lora_B.default.weight", (16, 4), "lora_B"),
        ("temperature", (), "scalar"),
        ("gamma", (3,), "vector"),
    ],
)
def test_roles(name, shape, role):
    assert role_of(name, shape) == role and role in ROLES


def test_units_are_those_of_default_initialisation():
    layout = layout_of(nn.Linear(100, 3), 64)
    assert layout.units.tolist() == pytest.approx([0.1] * 6 + [1.0])


def test_networks_of_another_layout_are_refused():
    layout = layout_of(nn.Linear(8, 4))
    with pytest.raises(ParameterError, match="missing 'bias'"):
        layout.encode(stacked(nn.Linear(8, 4, bias=False)))
    with pytest.raises(ParameterError, match=r"'weight' is \[3, 5, 8\], expected \[networks, 4, 8\]"):
        layout.encode(stacked(nn.Linear(8, 5)))
    with pytest.raises(ParameterError, match="without tensors"):
        WeightTokens({}, 8)
    with pytest.raises(ValueError, match="token_size"):
        WeightTokens({"a": (2,)}, 0)
