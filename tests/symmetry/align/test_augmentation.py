import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap

from hypergen import trace
from hypergen.architectures import Architecture
from hypergen.symmetry.align.augmentation import augment
from hypergen.zoo import Layout

SHAPE = {"image_size": 8, "channels": 1, "num_classes": 10}
NETWORKS = {
    "mlp": Architecture("mlp", {**SHAPE, "widths": [6, 5], "norm": "batch"}),
    "cnn": Architecture("cnn", {**SHAPE, "widths": [4, 6], "depths": [1, 1]}),
    "resnet": Architecture("resnet", {**SHAPE, "widths": [4, 6], "depths": [1, 1]}),
}


def stack(architecture, count=3):
    states = []
    for seed in range(count):
        torch.manual_seed(seed)
        state = architecture.build().double().state_dict()
        states.append({k: torch.rand_like(v) if v.is_floating_point() else v for k, v in state.items()})
    return {key: torch.stack([state[key] for state in states]) for key in states[0]}


def outputs(architecture, stacked):
    network = architecture.build().double().eval()
    images = torch.rand(5, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return vmap(lambda state: functional_call(network, state, (images,)))(stacked)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("by_groups", [True, False])
def test_permuted_networks_compute_the_same(name, by_groups):
    architecture = NETWORKS[name]
    stacked = stack(architecture)
    symmetry = trace(architecture.build(), torch.zeros(1, 1, 8, 8)).symmetry()
    layout = Layout.of({key: value[0] for key, value in stacked.items()}).with_groups(symmetry.simple_groups)
    assert layout.permutation_groups and layout == Layout.from_json(layout.to_json())
    generator = torch.Generator().manual_seed(0)
    permuted = augment(stacked, layout.permutation_groups if by_groups else symmetry, generator)
    moved = {key for key, value in stacked.items() if not torch.equal(value, permuted[key])}
    assert moved >= {key for group in layout.permutation_groups for key, _ in group if "num_batches" not in key}
    for key, value in stacked.items():  # Moved, not computed; and of each network its own.
        assert torch.equal(value.reshape(3, -1).sort(1)[0], permuted[key].reshape(3, -1).sort(1)[0])
    torch.testing.assert_close(outputs(architecture, permuted), outputs(architecture, stacked), rtol=1e-9, atol=1e-9)
    same = augment({key: value[:1].expand_as(value) for key, value in stacked.items()}, symmetry, generator)
    assert any(not torch.equal(value[0], value[1]) for value in same.values())


def test_heads_are_permuted_with_what_is_in_them():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True).double().eval()
    layer.requires_grad_(False)
    symmetry = trace(layer, torch.zeros(1, 5, 8, dtype=torch.float64)).symmetry()
    stacked = {key: value.expand(4, *value.shape) for key, value in layer.state_dict().items()}
    permuted = augment(stacked, symmetry, torch.Generator().manual_seed(0))
    assert not torch.equal(permuted["self_attn.in_proj_weight"][0], permuted["self_attn.in_proj_weight"][1])
    inputs = torch.randn(2, 5, 8, dtype=torch.float64)
    expected = layer(inputs)
    for number in range(4):
        own = {key: value[number] for key, value in permuted.items()}
        torch.testing.assert_close(functional_call(layer, own, (inputs,)), expected, rtol=1e-9, atol=1e-9)


def test_the_same_seed_gives_the_same_permutations():
    stacked = stack(NETWORKS["mlp"])
    groups = [[("layers.1.weight", 0), ("layers.1.bias", 0), ("layers.2.weight", 0), ("layers.2.bias", 0)]]
    one, two, other = (augment(stacked, groups, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)
