"""Ranking architectures without training, by gradients at initialisation."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from hypergen.functional.batches import evaluation_mode


class GradientScores(NamedTuple):
    """What gradients at initialisation say of an architecture; the higher, the better it should train.

    Attributes:
        gradsign: How much the signs of samples' gradients agree, summed over parameters.
        gradient_norm: The norm of the gradient of the mean loss.
    """

    gradsign: float
    gradient_norm: float


def gradient_scores(model: nn.Module, inputs: Tensor, labels: Tensor, together: int = 8) -> GradientScores:
    r"""Score a classifier at its initialisation.

    .. math:: \sum_k \Bigl| \sum_i \mathrm{sign} \frac{\partial \ell_i}{\partial \theta_k} \Bigr|

    Zhang and Jia, *GradSign: Model Performance Inference with Theoretical Insights*, 2022 (arXiv 2110.08616): where the
    gradients of samples agree, their optima are near each other. Norms use their running statistics, as a sample alone
    has none.

    Args:
        model: The classifier; it is not changed.
        inputs: Samples, [number, …].
        labels: Their classes, [number].
        together: Samples whose gradients are kept at once.
    """
    parameters = {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}

    def loss(own: dict[str, Tensor], sample: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, own, (sample[None],)), label[None])

    signs, sums = (dict.fromkeys(parameters, torch.zeros(())) for _ in range(2))
    # `vmap` runs fused attention once for each sample, and its parts for all of them together.
    with evaluation_mode(model), sdpa_kernel(SDPBackend.MATH):
        for some, own_labels in zip(inputs.split(together), labels.split(together), strict=True):
            gradients = vmap(grad(loss), (None, 0, 0), randomness="different")(parameters, some, own_labels)
            for name, value in gradients.items():
                signs[name] = signs[name] + value.sign().sum(0)
                sums[name] = sums[name] + value.sum(0)
    agreement = sum(value.abs().sum().item() for value in signs.values())
    square = sum((value / len(inputs)).square().sum().item() for value in sums.values())
    return GradientScores(agreement, square**0.5)
