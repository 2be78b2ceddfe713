"""Checks a symmetry by running the network: a permuted copy must compute the same."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hypergen.graph.calls import named_tensors
from hypergen.graph.inputs import example_arguments
from hypergen.graph.tracing.inventory import take_inventory
from hypergen.graph.tracing.tensors import map_tensors
from hypergen.symmetry.structure import Group, leaves
from hypergen.symmetry.symmetry import Element, Symmetry

_LOWER = (torch.float32, torch.float16, torch.bfloat16)


class Verification:
    """A copy of a network with random parameters in float64, and its outputs.

    Nothing of the copy is at its default (zeros, ones): an error in the symmetry must show. What the network computes
    in a lower precision is computed in float64, too.

    Args:
        model: The network; its parameters may be on the meta device, its buffers may not. It is not changed.
        example_inputs: The same as for :func:`hypergen.trace`; what is floating-point becomes random.
        outputs: Names of the returned tensors that are compared; None for all.
        seed: Decides parameters and inputs.
    """

    def __init__(
        self, model: nn.Module, example_inputs: Any = None, outputs: Sequence[str] | None = None, seed: int = 0
    ) -> None:
        self.names = outputs
        self.tied = take_inventory(model).tied
        self.generator = torch.Generator().manual_seed(seed)
        self.model = copy.deepcopy(model).eval()
        if any(parameter.is_meta for parameter in self.model.parameters()):
            self.model = self.model.to_empty(device="cpu")
        self.model = self.model.double()
        self.tensors: dict[str, Tensor] = {
            name: self._random(parameter) for name, parameter in self.model.named_parameters()
        }
        for name, buffer in self.model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                self.tensors[name] = torch.rand(buffer.shape, generator=self.generator, dtype=torch.float64) + 0.5
        self.args, self.kwargs = map_tensors(example_arguments(model, example_inputs), self._random_input)
        self.outputs = self.run(self.tensors)

    def _random(self, parameter: Tensor) -> Tensor:
        noise = torch.randn(parameter.shape, generator=self.generator, dtype=torch.float64)
        if not parameter.is_floating_point():
            return parameter.detach().clone()
        if parameter.dim() < 2:
            return (0.7 + 0.3 * noise).to(parameter.dtype)
        return noise / max(parameter[0].numel(), 1) ** 0.5

    def _random_input(self, tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            return torch.randn(tensor.shape, generator=self.generator, dtype=torch.float64)
        if tensor.is_meta or (tensor.dtype is torch.int64 and not tensor.any()):
            return torch.randint(0, 8, tensor.shape, generator=self.generator).to(tensor.dtype)
        return tensor

    def run(self, tensors: Mapping[str, Tensor], model: nn.Module | None = None) -> dict[str, Tensor]:
        """The floating-point outputs of the network, or of another one, with these parameters and buffers."""
        own = {**tensors, **{alias: tensors[name] for alias, name in self.tied.items()}}
        default = torch.get_default_dtype()
        state = torch.get_rng_state()
        torch.set_default_dtype(torch.float64)
        torch.manual_seed(0)
        try:
            with torch.no_grad(), _InDouble():
                network = copy.deepcopy(model or self.model)  # caches of one pass must not reach the next
                result = torch.func.functional_call(network, own, self.args, self.kwargs, tie_weights=False)
        finally:
            torch.set_default_dtype(default)
            torch.set_rng_state(state)
        return {
            name: output
            for name, output in named_tensors(result)
            if (output.is_floating_point() or output.is_complex()) and (self.names is None or name in self.names)
        }

    def error(self, symmetry: Symmetry, element: Element) -> float:
        """The largest difference that an element makes, relative to the largest output."""
        return self.difference(self.run(symmetry.apply(self.tensors, element)))

    def difference(self, outputs: Mapping[str, Tensor]) -> float:
        """The largest difference of outputs, relative to the largest output; infinity where one is not finite."""
        worst = 0.0
        for name, one in self.outputs.items():
            other = outputs[name]
            if not one.numel():
                continue
            finite = one.isfinite()
            if one.shape != other.shape or not torch.equal(finite, other.isfinite()) or not finite.any():
                return float("inf")
            scale = one[finite].abs().max().clamp_min(1e-30)
            worst = max(worst, float((one - other)[finite].abs().max() / scale))
        return worst

    def least_change(self, symmetry: Symmetry, count: int = 3) -> float:
        """The least difference that breaking a group makes: one of its parameters is permuted, the others are not.

        Args:
            symmetry: The symmetry.
            count: How many groups to break, drawn at random among those of at least two parameters.

        Returns:
            The least difference; infinity where no group has two parameters.
        """
        groups = shared_groups(symmetry)
        order = torch.randperm(len(groups), generator=self.generator)[:count].tolist()
        changes = (self.difference(self.run(torn(symmetry, groups[i], self.tensors))) for i in order)
        return min(changes, default=float("inf"))


def shared_groups(symmetry: Symmetry) -> list[Group]:
    """The groups that permute more than one tensor, whose symmetry can therefore be broken."""
    return [group for group in symmetry.groups if len(dict(symmetry.uses[group.name])) > 1]


def torn(symmetry: Symmetry, group: Group, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with the largest of those that a group permutes permuted, and the others not."""
    name = max(dict(symmetry.uses[group.name]), key=lambda name: tensors[name].numel())
    alone = symmetry.identity()
    alone[group.name] = alone[group.name].roll(1, -1)  # a random one may change nothing
    return {**tensors, **symmetry.apply({name: tensors[name]}, alone)}


def permuted_share(symmetry: Symmetry) -> float:
    """The share of the parameters' axes, places in kernels and single indices apart, of which something is permuted."""
    axes = [
        (axis, reason)
        for name in symmetry.parameters
        for axis, reason in zip(symmetry.axes[name], symmetry.frozen[name], strict=True)
        if axis.size > 1 and reason != "a place in a kernel"
    ]
    return sum(any(not group.fixed for group in leaves(axis)) for axis, _ in axes) / max(len(axes), 1)


class _InDouble(TorchFunctionMode):
    """Does in float64 what is asked for in a lower floating type."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in ("float", "half", "bfloat16") and args and isinstance(args[0], Tensor):
            return args[0].double()
        if any(arg in _LOWER for arg in args if isinstance(arg, torch.dtype)):
            args = tuple(torch.float64 if isinstance(arg, torch.dtype) and arg in _LOWER else arg for arg in args)
        if isinstance(kwargs.get("dtype"), torch.dtype) and kwargs["dtype"] in _LOWER:
            kwargs = {**kwargs, "dtype": torch.float64}
        return func(*args, **kwargs)
