"""How much each unit of a network matters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hypergen.functional.batches import evaluation_mode, run_on_batch
from hypergen.symmetry.prune.allocate import allocate as allocate
from hypergen.symmetry.prune.pruner import Pruner
from hypergen.symmetry.units import unit_sums


def magnitude(pruner: Pruner, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The L2 norm of all parameters of each unit, over every layer that it takes part in.

    Fang et al., *DepGraph: Towards Any Structural Pruning*, 2023 (arXiv 2301.12900).

    Args:
        pruner: Pruner of the network.
        parameters: By name; further leading axes are batches.

    Returns:
        Name of a group that can be pruned → ``[*batch, *group.shape]``.
    """
    squares = {name: value.square() for name, value in _parameters(pruner, parameters).items()}
    norms = unit_sums(pruner.symmetry, squares)
    return {group.name: norms[group.name].sqrt() for group in pruner.groups}


def taylor(pruner: Pruner, parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The change of the loss when a unit is set to zero, to first order: ``|sum of parameter × gradient|``.

    Molchanov et al., *Importance Estimation for Neural Network Pruning*, 2019 (arXiv 1906.10771).

    Args:
        pruner: Pruner of the network.
        parameters: By name; further leading axes are batches.
        gradients: Gradients of the loss, in the same form; names may be missing.

    Returns:
        Name of a group that can be pruned → ``[*batch, *group.shape]``.
    """
    own = _parameters(pruner, parameters)
    products = {name: value * gradients[name] for name, value in own.items() if name in gradients}
    sums = unit_sums(pruner.symmetry, products)
    return {group.name: sums[group.name].abs() for group in pruner.groups if group.name in sums}


def second_order(
    pruner: Pruner, parameters: Mapping[str, Tensor], gradients: Sequence[Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """The change of the loss to second order when a unit is set to zero, with the Fisher matrix for the Hessian.

    ``½ · mean over batches of (sum of parameter × gradient)²``: no second derivative is computed, and parameters of one
    unit are not taken for independent. Theis et al., *Faster gaze prediction with dense networks and Fisher pruning*,
    2018 (arXiv 1801.05787).

    Args:
        pruner: Pruner of the network.
        parameters: By name.
        gradients: Gradients of the loss on several batches, each by name; the smaller the batches, the better.

    Returns:
        Name of a group that can be pruned → ``group.shape``.
    """
    total: dict[str, Tensor] = {}
    for own in gradients:
        for name, score in taylor(pruner, parameters, own).items():
            total[name] = total.get(name, torch.zeros(())) + 0.5 * score.square() / len(gradients)
    return total


def lamp(pruner: Pruner, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Squared magnitude relative to that of all units of the group that are at least as large.

    Lee et al., *Layer-adaptive sparsity for the magnitude-based pruning*, 2021 (arXiv 2010.07611), for units instead of
    single weights; made for ``allocation="global"`` with ``relative=False``.
    """
    return {name: _lamp(score.square()) for name, score in magnitude(pruner, parameters).items()}


def _lamp(squares: Tensor) -> Tensor:
    ordered, order = squares.sort(-1)
    at_least = ordered.flip(-1).cumsum(-1).flip(-1)
    return torch.empty_like(squares).scatter(-1, order, ordered / at_least.clamp_min(1e-30))


def geometric_median(pruner: Pruner, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The sum of a unit's distances to all other units of its group: those near the geometric median can be replaced.

    He et al., *Filter pruning via geometric median*, 2019 (arXiv 1811.00250). A unit is described by the rows of the
    parameters whose first axis is the group alone; groups without any such parameter get their magnitudes.
    """
    scores = magnitude(pruner, parameters)
    for group in pruner.groups:
        rows = [
            parameters[name].detach().reshape(len(parameters[name]), -1)
            for name, dim in pruner.symmetry.uses[group.name]
            if dim == 0 and name in parameters and pruner.symmetry.axes[name][0] is group
        ]
        if rows:
            described = torch.cat(rows, 1)
            scores[group.name] = torch.cdist(described[None], described[None])[0].sum(1)
    return scores


def activation(pruner: Pruner, batches: Iterable[Any]) -> dict[str, Tensor]:
    """The root mean square of what the layers that make a unit give out, over batches of inputs.

    Args:
        pruner: Pruner of the network, which is run in evaluation mode.
        batches: What the network is called with, as for :func:`hypergen.functional.batches.run_on_batch`.

    Returns:
        Name of a group that can be pruned → ``group.shape``; groups that no linear layer or convolution makes are left
        out.
    """
    symmetry, model = pruner.symmetry, pruner.model
    sums: dict[str, Tensor] = {}
    hooks = []
    for name in symmetry.parameters:
        path, _, leaf = name.rpartition(".")
        module = model.get_submodule(path)
        if leaf == "weight" and isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            hooks.append(module.register_forward_hook(partial(_note_squares, sums, name)))
    try:
        with torch.no_grad(), evaluation_mode(model):
            for batch in batches:
                run_on_batch(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    rows = {}
    for name, square in sums.items():  # as if the mean squares were the entries of the layer's weight
        weight = dict(model.named_parameters())[name]
        rows[name] = square.reshape(-1, *[1] * (weight.dim() - 1)).expand(weight.shape) / weight[0].numel()
    ownership = {g.name: [n for n, dim in symmetry.uses[g.name] if dim == 0 and n in rows] for g in pruner.groups}
    found = {}
    for group, names in ownership.items():
        if names:
            found[group] = unit_sums(symmetry, {name: rows[name] for name in names})[group].clamp_min(0).sqrt()
    return found


def _note_squares(sums: dict[str, Tensor], name: str, module: nn.Module, _: Any, output: Tensor) -> None:
    channel = -1 if isinstance(module, nn.Linear) else 1
    own = output.detach().float().square().movedim(channel, 0).flatten(1).mean(1)
    sums[name] = sums.get(name, torch.zeros_like(own)) + own


def random(pruner: Pruner, generator: torch.Generator | None = None) -> dict[str, Tensor]:
    """Importance without a meaning, with which any other has to be compared."""
    return {group.name: torch.rand(group.shape, generator=generator) for group in pruner.groups}


def most_important(scores: Mapping[str, Tensor], counts: Mapping[str, int]) -> dict[str, Tensor]:
    """The places of the most important units of each group, for :meth:`Pruner.prune`.

    Args:
        scores: Group name → ``[*batch, *group.shape]``.
        counts: Group name → how many to keep, for each index of its parents.
    """
    return {name: scores[name].topk(count).indices.sort(-1).values for name, count in counts.items()}


def _parameters(pruner: Pruner, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensors[name] for name in pruner.symmetry.parameters if name in tensors}
