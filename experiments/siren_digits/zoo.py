"""Zoos of implicit neural representations: a network for each picture, all fitted at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from hypergen.architectures.families.siren import Siren, pixel_coordinates
from hypergen.functional.stacked_module import StackedModule

Stacked = dict[str, Tensor]  # [networks, *shape] by parameter name.


def stacked_siren(widths: Sequence[int] = (16, 16), omega_0: float = 5.0) -> StackedModule:
    """SIRENs of one layout, which draw one value per pixel."""
    return StackedModule(partial(Siren, widths=widths, omega_0=omega_0))


def render(sirens: StackedModule, parameters: Mapping[str, Tensor], size: tuple[int, int]) -> Tensor:
    """What SIRENs draw.

    Args:
        sirens: What they are.
        parameters: [networks, …] per name.
        size: Height and width in pixels.

    Returns:
        [networks, height, width]; differentiable.
    """
    points = pixel_coordinates(*size).to(next(iter(parameters.values())))
    return sirens(parameters, {}, points, shared=True).squeeze(-1).unflatten(1, size)


def fit_sirens(
    sirens: StackedModule,
    pictures: Tensor,
    seeds: Sequence[int] | None = None,
    *,
    initial: Mapping[str, Tensor] | None = None,
    steps: int = 160,
    learning_rate: float = 3e-3,
    batch_size: int = 512,
) -> Stacked:
    """Fit a SIREN to each picture by Adam on the squared error of all its pixels.

    Args:
        sirens: What they are.
        pictures: [networks, height, width].
        seeds: Random seeds of each network's initialisation; the same seed, the same initialisation.
        initial: Networks to start from instead, [networks, …] per name.
        steps: Updates.
        learning_rate: Learning rate of Adam.
        batch_size: Networks at once, which bounds memory; nothing else depends on it.

    Returns:
        [networks, …] per name.

    Raises:
        ValueError: There is neither a seed nor an initial network for each picture.
    """
    if (seeds is None) == (initial is None) or len(seeds or ()) not in (0, len(pictures)):
        raise ValueError(f"Pass a seed for each of the {len(pictures)} pictures, or networks to start from.")
    fitted: list[Stacked] = []
    for start in range(0, len(pictures), batch_size):
        part = slice(start, start + batch_size)
        if initial is None:
            assert seeds is not None
            first = sirens.initialise(seeds[part])
        else:
            first = {name: value[part] for name, value in initial.items()}
        fitted.append(_fit(sirens, pictures[part], first, steps, learning_rate))
    return {name: torch.cat([each[name] for each in fitted]) for name in sirens.parameter_names}


def _fit(sirens: StackedModule, pictures: Tensor, first: Stacked, steps: int, learning_rate: float) -> Stacked:
    parameters = {name: value.clone().requires_grad_() for name, value in first.items()}
    # Adam treats every number alone, so that one optimiser of all networks is one of each.
    optimizer = torch.optim.Adam(parameters.values(), learning_rate, fused=True)
    size = (pictures.shape[1], pictures.shape[2])
    for _ in range(steps):
        error = (render(sirens, parameters, size) - pictures).square().flatten(1).mean(1)
        optimizer.zero_grad()
        error.sum().backward()
        optimizer.step()
    return {name: value.detach() for name, value in parameters.items()}


def psnr(drawn: Tensor, pictures: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in decibels, [networks], of pictures [networks, height, width] from -1 to 1."""
    return -10 * ((drawn - pictures) / 2).square().flatten(1).mean(1).log10()


def flip_signs(
    parameters: Mapping[str, Tensor], groups: Sequence[Sequence[tuple[str, int]]], generator: torch.Generator
) -> Stacked:
    """Flip the sign of random hidden units, before and after the activation; exact for odd ones, as the sine.

    Args:
        parameters: [networks, …] per name.
        groups: The permutation groups of hidden units, (name, axis) each.
        generator: Random generator of the draw.

    Returns:
        [networks, …] per name; what the networks compute stays the same.
    """
    flipped = dict(parameters)
    for group in groups:
        name, axis = group[0]
        units = (len(flipped[name]), flipped[name].shape[axis + 1])
        signs = 2 * torch.randint(0, 2, units, generator=generator).to(flipped[name]) - 1
        flipped = multiply_units(flipped, group, signs)
    return flipped


def multiply_units(parameters: Mapping[str, Tensor], group: Sequence[tuple[str, int]], signs: Tensor) -> Stacked:
    """Multiply all that belongs to the hidden units of a permutation group by their signs, [networks, units]."""
    changed = dict(parameters)
    for name, axis in group:
        shape = [len(signs), *[1] * (changed[name].dim() - 1)]
        shape[axis + 1] = signs.shape[1]
        changed[name] = changed[name] * signs.view(shape)
    return changed


def move_pictures(
    parameters: Mapping[str, Tensor],
    generator: torch.Generator,
    *,
    turn: float = 0.25,
    zoom: float = 0.1,
    shift: float = 0.15,
) -> Stacked:
    r"""Turn, zoom and shift what networks of two coordinates draw, at random, by their first layer: nothing is fitted.

    A layer :math:`W x + b` of moved coordinates :math:`x \mapsto A x + t` is :math:`(W A) x + (W t + b)`.

    Args:
        parameters: [networks, …] per name; the first weight and bias are those that read coordinates.
        generator: Random generator of the draw.
        turn: At most so far in radians, either way.
        zoom: At most by this share, either way.
        shift: At most so far along either axis; pictures are 2 wide.

    Returns:
        [networks, …] per name.
    """
    weight, bias = list(parameters)[:2]
    count = len(parameters[weight])
    uniform = torch.rand(count, 4, generator=generator).to(parameters[weight]) * 2 - 1
    angle, scale, offset = turn * uniform[:, 0], 1 + zoom * uniform[:, 1], shift * uniform[:, 2:, None]
    rows = [torch.stack(row, -1) for row in ((angle.cos(), -angle.sin()), (angle.sin(), angle.cos()))]
    matrix = torch.stack(rows, 1) * scale[:, None, None]
    moved = {
        weight: parameters[weight] @ matrix,
        bias: parameters[bias] + (parameters[weight] @ offset).squeeze(-1),
    }
    return {**parameters, **moved}
