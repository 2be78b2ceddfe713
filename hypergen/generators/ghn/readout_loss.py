"""How well a linear readout of a network's features would do: a loss without a head of one's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_STRENGTH = 0.1  # of the ridge, as a multiple of the mean of the eigenvalues that are not zero
_LARGEST_LEVERAGE = 0.98


def left_out_error(features: Tensor, labels: Tensor) -> tuple[Tensor, float]:
    """The squared error of a ridge readout on samples that are each left out, and their accuracy.

    The closed form of :func:`hypergen.functional.fit_ridge_head`, solved over samples rather than features, and
    differentiable; a solver in the loop of meta-learning as in Bertinetto et al., "Meta-learning with differentiable
    closed-form solvers" (2019, arXiv 1805.08136).

    Args:
        features: [samples, features].
        labels: [samples], int64; any numbers, of which those that occur are the classes.

    Returns:
        The error over that of the classes' frequencies, which is 1; and the accuracy.
    """
    _, counted = labels.unique(return_inverse=True)
    targets = F.one_hot(counted).to(features)
    targets = targets - targets.mean(0)
    centred = features - features.mean(0)
    kernel = centred @ centred.T
    count = len(features)
    strength = _STRENGTH * kernel.trace() / min(count, features.shape[1]) + 1e-12
    solved = torch.linalg.solve(kernel + strength * torch.eye(count, dtype=kernel.dtype), kernel)  # the hat matrix
    leverage = (solved.diagonal() + 1 / count).clamp(max=_LARGEST_LEVERAGE)
    residual = (targets - solved @ targets) / (1 - leverage)[:, None]
    accuracy = ((targets - residual).argmax(1) == counted).float().mean().item()
    return residual.square().sum() / targets.square().sum().clamp(min=1e-12), accuracy


class HeadInputs:
    """What the last layer of a network reads, whenever it runs.

    Args:
        network: Hooks on its linear layers and convolutions of one pixel stay.
    """

    def __init__(self, network: nn.Module) -> None:
        self._last: tuple[Tensor, Tensor] | None = None
        for module in network.modules():
            if isinstance(module, nn.Linear) or isinstance(module, nn.Conv2d) and set(module.kernel_size) == {1}:
                module.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
        self._last = (arguments[0], output)

    def take(self, logits: Tensor) -> Tensor:
        """The features ``[samples, features]`` of the last run, averaged over positions; the logits without any."""
        kept, self._last = self._last, None
        if kept is None:
            return logits
        features, output = kept
        if features.dim() == 4 and output.shape[1] == logits.shape[1]:
            return features.mean((2, 3))
        if len(features) == len(logits) and features.dim() in (2, 3) and output.shape[-1] == logits.shape[-1]:
            return features if features.dim() == 2 else features.mean(1)
        return logits
