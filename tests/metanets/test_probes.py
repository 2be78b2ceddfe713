import pytest
import torch
from torch import nn

from hypergen.functional.stacked_module import StackedModule
from hypergen.metanets.probes import Probes

SHAPE = (1, 4, 4)


def build() -> nn.Module:
    layers = [nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.5), nn.ReLU(), nn.Flatten(), nn.Linear(12, 5)]
    return nn.Sequential(*layers)


@pytest.fixture
def networks() -> tuple[StackedModule, dict[str, torch.Tensor]]:
    module = StackedModule(build)
    tensors = module.initialise([0, 1, 2])
    tensors["1.running_mean"] = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    return module, tensors


def test_responses_are_what_each_network_answers(networks):
    module, tensors = networks
    torch.manual_seed(0)
    probes = Probes(4, SHAPE, latent=3, responses="outputs")
    responses = probes(module, tensors)
    assert responses.shape == (3, probes.num_features(5))
    for number in range(3):
        network = build().eval()
        network.load_state_dict({name: value[number] for name, value in tensors.items()})
        torch.testing.assert_close(responses[number], network(probes.inputs()).flatten())


def test_responses_of_classifiers_are_probabilities_and_their_entropy(networks):
    probes = Probes(4, SHAPE)
    responses = probes(*networks)
    assert responses.shape == (3, probes.num_features(5)) == (3, 28)
    by_probe = responses.view(3, 4, 7)
    torch.testing.assert_close(by_probe[..., :5].sum(-1), torch.ones(3, 4))
    assert ((by_probe[..., 5] > 0) & (by_probe[..., 5] <= 1)).all()


def test_probing_repeats_changes_nothing_and_can_be_learned(networks):
    module, tensors = networks
    before = {name: value.clone() for name, value in tensors.items()}
    probes = Probes(4, SHAPE)
    assert torch.equal(probes(module, tensors), probes(module, tensors))
    probes(module, tensors).square().sum().backward()
    assert all(value.grad.abs().sum() > 0 for value in probes.parameters())
    assert all(torch.equal(value, before[name]) for name, value in tensors.items())


def test_the_number_of_probes_is_positive():
    with pytest.raises(ValueError, match="count and latent must be positive"):
        Probes(0, SHAPE)
