import pytest
import torch

from experiments.siren_digits.classification import SirenClassification
from experiments.siren_digits.editing import SirenEditing, dilate, raise_contrast
from experiments.siren_digits.zoo import render, stacked_siren
from hypergen.architectures.families.siren import pixel_coordinates
from hypergen.graph import trace
from hypergen.symmetry.align.augmentation import augment

SIZE = (4, 4)


@pytest.fixture(scope="module")
def sirens():
    return stacked_siren([6, 5], 4.0)


@pytest.fixture(scope="module")
def networks(sirens):
    return {name: value.double() for name, value in sirens.initialise(range(6)).items()}


@pytest.fixture(scope="module")
def permuted(sirens, networks):
    symmetry = trace(sirens.module, pixel_coordinates(2, 2)).symmetry()
    return augment(networks, symmetry, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("probes", [0, 3])
def test_classes_do_not_depend_on_the_order_of_units(sirens, networks, permuted, probes):
    torch.manual_seed(0)
    labels = torch.arange(6) % 3
    module = SirenClassification(sirens, networks, labels, probes=probes, hidden=8, layers=2).double()
    logits = module(networks)
    assert logits.shape == (6, 3)
    torch.testing.assert_close(module(permuted), logits, atol=1e-9, rtol=0)
    assert not torch.allclose(logits[0], logits[1], atol=1e-4)
    assert torch.equal(module.predict(networks), logits.argmax(1))


def test_an_untrained_editor_changes_nothing_and_a_trained_one_is_equivariant(sirens, networks, permuted):
    torch.manual_seed(0)
    module = SirenEditing(sirens, networks, torch.zeros(6, *SIZE), hidden=8, layers=2).double()
    assert all(torch.equal(value, networks[name]) for name, value in module.edit(networks).items())
    torch.nn.init.normal_(module.metanetwork.out.weight)
    drawn = render(sirens, module.edit(networks), SIZE)
    assert not torch.allclose(drawn, render(sirens, networks, SIZE), atol=1e-3)
    torch.testing.assert_close(render(sirens, module.edit(permuted), SIZE), drawn, atol=1e-9, rtol=0)


def test_an_editor_learns_to_draw_what_is_wanted(sirens, networks):
    torch.manual_seed(0)
    single = {name: value.float() for name, value in networks.items()}
    wanted = 0.5 * render(sirens, single, SIZE)
    module = SirenEditing(sirens, single, wanted, hidden=8, layers=2, warmup_steps=5)
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    module.log = lambda *_, **__: None
    errors = []
    for _ in range(40):
        loss = module.training_step(torch.arange(6), 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(loss.item())
    assert errors[-1] < 0.3 * errors[0]


def test_dilation_takes_the_brightest_of_a_cross():
    picture = torch.zeros(1, 4, 5)
    picture[0, 1, 1], picture[0, 3, 4] = 1.0, 0.5
    expected = torch.tensor([[0, 1, 0, 0, 0], [1, 1, 1, 0, 0], [0, 1, 0, 0, 0.5], [0, 0, 0, 0.5, 0.5]])
    assert torch.equal(dilate(picture)[0], expected)


def test_contrast_keeps_grey_and_stops_at_black_and_white():
    raised = raise_contrast(torch.tensor([-1.0, -0.7, -0.2, 0.0, 0.4, 0.9]))
    assert raised.tolist() == pytest.approx([-1, -1, -0.4, 0, 0.8, 1])
