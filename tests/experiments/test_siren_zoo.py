import math

import pytest
import torch

import hypergen
from experiments.siren_digits.zoo import fit_sirens, flip_signs, move_pictures, psnr, render, stacked_siren
from hypergen.architectures.families.siren import Siren, pixel_coordinates

SIZE = (5, 7)


@pytest.fixture(scope="module")
def sirens():
    return stacked_siren([6, 5], 4.0)


@pytest.fixture
def networks(sirens):
    return sirens.initialise([3, 8, 9])


@pytest.fixture(scope="module")
def groups(sirens):
    return hypergen.trace(sirens.module, pixel_coordinates(2, 2)).symmetry().simple_groups


def test_a_siren_is_what_the_paper_writes():
    siren = Siren([4], omega_0=3.0)
    points = pixel_coordinates(2, 3)
    assert points.tolist() == [[-1, -1], [-1, 0], [-1, 1], [1, -1], [1, 0], [1, 1]]
    first, last = siren.layers
    expected = torch.sin(3.0 * (points @ first.weight.T + first.bias)) @ last.weight.T + last.bias
    torch.testing.assert_close(siren(points), expected)
    assert first.weight.abs().max() <= 1 / 2 and last.weight.abs().max() <= math.sqrt(6 / 4) / 3


def test_rendering_is_each_network_on_its_own(sirens, networks):
    drawn = render(sirens, networks, SIZE)
    assert drawn.shape == (3, *SIZE)
    alone = Siren([6, 5], omega_0=4.0)
    alone.load_state_dict({name: value[1] for name, value in networks.items()})
    torch.testing.assert_close(drawn[1], alone(pixel_coordinates(*SIZE)).view(SIZE))


def test_fitting_draws_the_pictures_whatever_the_batches(sirens):
    pictures = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))
    fitted = fit_sirens(sirens, pictures, [1, 2, 3], steps=150, learning_rate=1e-2)
    assert (psnr(render(sirens, fitted, (4, 4)), pictures) > 20).all()
    in_parts = fit_sirens(sirens, pictures, [1, 2, 3], steps=150, learning_rate=1e-2, batch_size=2)
    for name, value in fitted.items():
        torch.testing.assert_close(in_parts[name], value, atol=1e-3, rtol=1e-2)
    further = fit_sirens(sirens, pictures, initial=fitted, steps=0)
    assert all(torch.equal(further[name], value) for name, value in fitted.items())


def test_fitting_refuses_too_few_starts(sirens):
    with pytest.raises(ValueError, match="3 pictures"):
        fit_sirens(sirens, torch.rand(3, 4, 4), [1, 2])
    with pytest.raises(ValueError, match="3 pictures"):
        fit_sirens(sirens, torch.rand(3, 4, 4))


def test_flipped_signs_draw_the_same(sirens, networks, groups):
    assert len(groups) == 2
    flipped = flip_signs(networks, groups, torch.Generator().manual_seed(0))
    assert not torch.equal(flipped["layers.0.weight"], networks["layers.0.weight"])
    torch.testing.assert_close(render(sirens, flipped, SIZE), render(sirens, networks, SIZE))


def test_flips_of_part_of_a_unit_do_not(sirens, networks, groups):
    part = [tuple(axis for axis in group if axis[0].endswith("weight")) for group in groups]
    flipped = flip_signs(networks, part, torch.Generator().manual_seed(0))
    assert not torch.allclose(render(sirens, flipped, SIZE), render(sirens, networks, SIZE), atol=1e-2)


def test_moved_pictures_are_the_function_at_moved_points(sirens, networks):
    moved = move_pictures(networks, torch.Generator().manual_seed(0), turn=0.0, zoom=0.0, shift=0.3)
    draw = torch.Generator().manual_seed(0)
    offset = 0.3 * (torch.rand(3, 4, generator=draw) * 2 - 1)[:, 2:]
    points = pixel_coordinates(*SIZE) + offset[:, None]
    torch.testing.assert_close(render(sirens, moved, SIZE).flatten(1), sirens(networks, {}, points).squeeze(-1))
    turned = move_pictures(networks, torch.Generator().manual_seed(0), zoom=0.0, shift=0.0)
    lengths = [own["layers.0.weight"].norm(dim=-1) for own in (turned, networks)]
    torch.testing.assert_close(*lengths)
    assert not torch.allclose(turned["layers.0.weight"], networks["layers.0.weight"], atol=1e-2)
