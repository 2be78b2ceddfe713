"""What a network costs, worked out in about a millisecond from its modules alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from hypergen.architectures.architecture import Architecture
from hypergen.architectures.families.conv_nets import ConvNet
from hypergen.architectures.families.dense_net import DenseNet
from hypergen.architectures.families.token_nets import Mixer, VisionTransformer
from hypergen.architectures.idioms import IDIOM_FAMILIES


class Cost(NamedTuple):
    """Number of parameters, and approximate multiply-adds per image."""

    parameters: int
    multiply_adds: int


class without_initialisation(TorchFunctionMode):  # noqa: N801  (a context, as torch.no_grad)
    """Leaves new parameters as they are: random numbers on the meta device go through slow Python code."""

    # What is called inside one of these functions does not come here, so each is named.
    _in_place = frozenset(
        {
            nn.init.kaiming_uniform_,
            nn.init.uniform_,
            nn.init.trunc_normal_,
            nn.init.normal_,
            nn.init.zeros_,
            torch.Tensor.fill_,
        }
    )

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in self._in_place:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def network_cost(architecture: Architecture) -> Cost:
    """Count the parameters of an architecture and estimate its multiply-adds.

    A weight works once per position of the map (or token) it is applied at; the attention's products of tokens with
    tokens are left out: at the sizes of these spaces they are few.
    """
    if architecture.family in IDIOM_FAMILIES:
        return _measured_cost(architecture)
    with without_initialisation(), torch.device("meta"), torch.no_grad():
        network = architecture.build()
    parameters = _count(network.parameters())
    if isinstance(network, (ConvNet, DenseNet)):
        convolutions = zip([network.stem, *network.stages], network.sizes, strict=True)
        return Cost(
            parameters,
            sum(_count(part.parameters()) * size**2 for part, size in convolutions) + _count(network.head.parameters()),
        )
    if isinstance(network, VisionTransformer):
        return Cost(parameters, parameters * network.positions.shape[1])
    if isinstance(network, Mixer):
        # Token mixing works once per channel, everything else once per token.
        mixing = _count(parameter for name, parameter in network.blocks.named_parameters() if ".token_mixing." in name)
        return Cost(parameters, mixing * network.head.in_features + (parameters - mixing) * network.tokens)
    return Cost(parameters, parameters)


def _measured_cost(architecture: Architecture) -> Cost:
    """Run a network on one image: a weight works once per position of its layer's output.

    Real tensors, because shapes of many operations on the meta device are worked out by slow Python code.
    """
    total = 0

    def count(module: nn.Module, arguments: Any, output: Any) -> None:
        nonlocal total
        output = output[0] if isinstance(output, tuple) else output
        channels = getattr(module, "out_channels", output.shape[-1])
        total += _count(module.parameters(recurse=False)) * max(output.numel() // max(channels, 1), 1)

    # Whatever a library draws beside the initialisation that is left out must not move the global random state.
    with torch.random.fork_rng(devices=[]), without_initialisation(), torch.no_grad():
        network = architecture.build().eval()
        for module in network.modules():
            if next(module.parameters(recurse=False), None) is not None:
                module.register_forward_hook(count)
        network(torch.zeros_like(architecture.example_inputs(), device="cpu"))
    return Cost(_count(network.parameters()), total)


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)
