"""Write parameters into a network."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hypergen.errors import ParameterError
from hypergen.functional.check import check_parameters


def apply_parameters(model: nn.Module, parameters: Mapping[str, Tensor], *, partial: bool = False) -> None:
    """Write ``parameters`` into ``model``, in place and all or nothing.

    The model's parameters stay the objects that they are, with their device, data type and ``requires_grad``: an
    optimiser built before still holds them. Parameters on the meta device have no place for values, so new ones take
    their place, on the device of the values and under all of their names if they are tied.

    Args:
        model: The network to write into.
        parameters: A finite tensor per parameter of the model; see :func:`check_parameters`.
        partial: Allow parameters to be missing; the model keeps its own for those.

    Raises:
        ParameterError: The parameters do not fit or cannot be written, a module is lazy, or part of the model would
            stay on the meta device. The model is unchanged.
    """
    check_parameters(model, parameters, partial=partial)
    _refuse_rest_on_meta(model, parameters)
    targets = dict(model.named_parameters())
    # Values that are views of the model's own parameters (swapped, transposed) would change while others are written.
    _refuse_unwritable(model, {name: targets[name] for name in parameters})
    dense = (target for target in targets.values() if not target.is_meta and target.layout == torch.strided)
    own_storages = {target.untyped_storage().data_ptr() for target in dense}
    values = {
        name: value.detach().clone() if value.untyped_storage().data_ptr() in own_storages else value.detach()
        for name, value in parameters.items()
    }
    replacements = {
        id(targets[name]): _materialised(targets[name], value)
        for name, value in values.items()
        if targets[name].is_meta
    }
    written: dict[str, Tensor] = {}
    with torch.no_grad():
        try:
            for name, value in values.items():
                if not targets[name].is_meta:
                    before = targets[name].detach().clone()
                    targets[name].copy_(value)
                    written[name] = before
        except Exception as error:
            # Tensors may refuse for reasons that only they know, as those of other classes do.
            for name, before in written.items():
                targets[name].copy_(before)
            raise ParameterError(
                f"{name!r} of {type(model).__name__} cannot be written ({type(error).__name__}: {error}). The model is "
                "unchanged; give it a parameter that is a tensor of its own."
            ) from error
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if id(parameter) in replacements:
                # By setattr, which recurrent layers watch to refresh their own list of weights.
                setattr(module, name, replacements[id(parameter)])


def _refuse_unwritable(model: nn.Module, targets: Mapping[str, Tensor]) -> None:
    """Complain about parameters that share memory within themselves, are of inference mode, or not dense."""
    for name, target in targets.items():
        if target.is_meta:
            continue
        if target.layout != torch.strided:
            problem = f"is {str(target.layout).removeprefix('torch.')}"
        elif any(size > 1 and stride == 0 for size, stride in zip(target.shape, target.stride(), strict=True)):
            problem = "is expanded from fewer values"
        elif target.is_inference() and not torch.is_inference_mode_enabled():
            problem = "was made in inference mode"
        else:
            continue
        raise ParameterError(
            f"{name!r} of {type(model).__name__} {problem}, and cannot be written. Give the model a parameter that is "
            "a dense tensor of its own, such as nn.Parameter(old.to_dense().clone())."
        )


def _materialised(target: nn.Parameter, value: Tensor) -> nn.Parameter:
    """Make a parameter like ``target`` with its own copy of ``value``."""
    parameter = nn.Parameter(value.to(target.dtype, copy=True), requires_grad=target.requires_grad)
    parameter.__dict__.update(target.__dict__)
    return parameter


def _refuse_rest_on_meta(model: nn.Module, parameters: Mapping[str, Tensor]) -> None:
    rest = [name for name, buffer in model.named_buffers() if buffer.is_meta]
    rest += [name for name, target in model.named_parameters() if target.is_meta and name not in parameters]
    if rest:
        more = f" and {len(rest) - 10} more" if len(rest) > 10 else ""
        raise ParameterError(
            f"{type(model).__name__} would stay on the meta device in part: {', '.join(rest[:10])}{more}. "
            "Buffers and parameters without a given value need one: build the model on a real device, or assign real "
            "tensors to these before."
        )
