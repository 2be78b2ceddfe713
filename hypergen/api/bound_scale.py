"""Initial activations of the size that the network's own initialisation gives them, whatever was predicted.

A network far from what a generator was trained on may get weights of any size. Following the idea of layer-sequential
unit variance (Mishkin and Matas, "All you need is a good init", 2015, arXiv:1511.06422), with the network's own
initialisation as the measure instead of one: layer after layer, in the order in which they run, the parameters are
scaled until the layer gives values of the size that it gave before.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hypergen.api.probe import Arguments, Scales, activation_scales, root_mean_square, running
from hypergen.graph.tracing.tensors import map_tensors

BOUND = 4.0  # how far the size of an activation may be from the network's own, either way
_MARGIN = 2.0  # what is scaled at all; the bound is kept with room for other inputs
_ROUNDS = 3
# Layers whose output is proportional to all of their parameters together.
_PROPORTIONAL = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
    nn.Embedding, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.Bilinear,
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
)  # fmt: skip


def beyond_bound(scales: Scales, own: Scales, bound: float = BOUND) -> list[tuple[str, int]]:
    """The calls of modules whose activations are not within a factor of the network's own."""
    return [call for call, scale in own.items() if call in scales and not _within(scales[call], scale, bound)]


def bound_activations(
    model: nn.Module,
    own: Mapping[str, Tensor],
    names: Collection[str],
    arguments: Arguments,
    bound: float = BOUND,
) -> tuple[str, ...]:
    """Scale predicted parameters until every activation is within a factor of the network's own.

    Modules are taken in the order in which they run. Those whose output is proportional to their parameters are scaled;
    the parameters of all others, where they are outside, get the size of the network's own. What is still outside after
    three rounds gets the network's own values.

    Args:
        model: The network with the predicted parameters; they change in place.
        own: The network's own values of the parameters.
        names: Those that were predicted, which alone may change.
        arguments: What the network is called with.
        bound: The factor.

    Returns:
        The modules whose parameters were changed, in the order in which they ran; none if all was within the bound.
    """
    predicted = {name: p for name, p in model.named_parameters() if name in names}
    values = {name: p.detach().clone() for name, p in predicted.items()}
    with torch.no_grad():
        for name, parameter in predicted.items():
            parameter.copy_(own[name])
        reference, _ = activation_scales(model, arguments)
        for name, parameter in predicted.items():
            parameter.copy_(values[name])
        changed: dict[str, None] = {}
        owners = _owners(model, predicted)
        for round_number in range(_ROUNDS):
            scales = _scaled_pass(
                model, owners, reference, changed, _MARGIN if round_number or changed else bound, arguments
            )
            outside = beyond_bound(scales, reference, bound)
            if not outside:
                return tuple(changed)
            # Parameters that their module reads in another way, as gains of a residual branch: at their own size.
            for module, parameters in owners.items():
                if not isinstance(module, _PROPORTIONAL):
                    for name, parameter in parameters.items():
                        size, wanted = _size(parameter), _size(own[name])
                        if not _within(size, wanted, _MARGIN):
                            parameter.mul_(wanted / size if size else 0.0)
                            changed[name] = None
        names_of = {module: name for name, module in model.named_modules()}
        # Whatever is outside first has its cause in or before itself, and behind what is still inside.
        for _ in range(2 * len(owners)):
            scales, _result = activation_scales(model, arguments)
            outside = beyond_bound(scales, reference, bound)
            if not outside:
                break
            order = list(reference)
            last = order.index(outside[0])
            earlier = [name for name, _ in order[: last + 1]]
            candidates = [
                module for module in owners
                if names_of[module] in earlier or outside[0][0].startswith(names_of[module])
                or names_of[module].startswith(outside[0][0])
            ]  # fmt: skip
            moved = False
            for module in reversed(candidates):
                for name, parameter in owners[module].items():
                    if not torch.equal(parameter, own[name].to(parameter)):
                        parameter.copy_(own[name])
                        changed[name], moved = None, True
                if moved:
                    break
            if not moved:
                break
    return tuple(changed)


def _scaled_pass(
    model: nn.Module,
    owners: Mapping[nn.Module, Mapping[str, nn.Parameter]],
    reference: Scales,
    changed: dict[str, None],
    tolerance: float,
    arguments: Arguments,
) -> Scales:
    """Run the network, and scale each layer's parameters, and at once its output, where it is outside."""
    scales: Scales = {}
    calls: dict[str, int] = {}
    scaled: set[nn.Module] = set()

    def watch(name: str) -> Any:
        def hook(module: nn.Module, _: Any, output: Any) -> Any:
            number = calls.get(name, 0)
            calls[name] = number + 1
            size, wanted = root_mean_square(output), reference.get((name, number))
            if size is None or wanted is None:
                return None
            scales[name, number] = size
            own = owners.get(module)
            if (
                own
                and module not in scaled
                and isinstance(module, _PROPORTIONAL)
                and not _within(size, wanted, tolerance)
            ):
                factor = wanted / size if size and math.isfinite(size) else 0.0
                for parameter in own.values():
                    parameter.mul_(factor)
                scaled.add(module)
                changed.update(dict.fromkeys(own))
                scales[name, number] = wanted
                return map_tensors(output, lambda tensor: tensor * factor if tensor.is_floating_point() else tensor)
            return None

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in model.named_modules()]
    try:
        with running(model):
            model(*arguments[0], **arguments[1])
    finally:
        for handle in handles:
            handle.remove()
    return scales


def _owners(model: nn.Module, predicted: Mapping[str, nn.Parameter]) -> dict[nn.Module, dict[str, nn.Parameter]]:
    """Module → the predicted parameters that it holds itself, by their names."""
    owners: dict[nn.Module, dict[str, nn.Parameter]] = {}
    for prefix, module in model.named_modules():
        for name, _ in module.named_parameters(prefix, recurse=False):
            if name in predicted:
                owners.setdefault(module, {})[name] = predicted[name]
    return owners


def _size(value: Tensor) -> float:
    return float(value.detach().float().square().mean().sqrt())


def _within(value: float, wanted: float, factor: float) -> bool:
    if not math.isfinite(value):
        return not math.isfinite(wanted)
    return wanted / factor <= value <= wanted * factor if wanted else value == 0
