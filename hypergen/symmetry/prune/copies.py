"""Copies of networks, in which tensors may be others than clones."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hypergen.errors import ParameterError
from hypergen.graph.tracing.inventory import take_inventory


def copied(model: nn.Module, tensors: Callable[[Tensor], Tensor] | None = None) -> nn.Module:
    """A copy of a network, also of one that holds results of earlier passes, as old weight norms and hooks do.

    Args:
        model: The network.
        tensors: What takes the place of a parameter or buffer; None for a clone.

    Raises:
        ParameterError: It holds something that cannot be copied.
    """
    memo: dict[int, Any] = {}
    if tensors is not None:
        inventory = take_inventory(model)
        for tensor in (*inventory.parameters.values(), *inventory.buffers.values()):
            memo[id(tensor)] = tensors(tensor)
    try:
        with _DetachedCopies():
            return copy.deepcopy(model, memo)
    except Exception as error:
        raise ParameterError(
            f"{type(model).__name__} cannot be copied, which pruning does to leave it as it is: "
            f"{type(error).__name__}: {error}. Take what cannot be copied out of its attributes."
        ) from error


class _DetachedCopies(TorchFunctionMode):
    """Lets results of earlier passes be copied without their history, which PyTorch refuses."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            memo[id(tensor)] = result = tensor.detach().clone()
            return result
        return func(*args, **(kwargs or {}))


def replace_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Set parameters and buffers of other shapes in place, tied ones under all their names."""
    tied = take_inventory(model).tied
    new: dict[str, Tensor] = {}
    for name in [*tensors, *(alias for alias, carrier in tied.items() if carrier in tensors)]:
        carrier = tied.get(name, name)
        path, _, last = name.rpartition(".")
        module = model.get_submodule(path)
        old = getattr(module, last)
        if carrier not in new:
            value = tensors[carrier].to(old.dtype)
            new[carrier] = nn.Parameter(value, old.requires_grad) if isinstance(old, nn.Parameter) else value
        setattr(module, last, new[carrier])
    for module in model.modules():  # recurrent layers keep a list of their weights
        if isinstance(module, nn.RNNBase):
            module._flat_weights = [getattr(module, name, None) for name in module._flat_weights_names]


def named_tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, those that several names share once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
