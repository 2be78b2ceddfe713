"""What data-driven merging needs of every network, and regression means."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hypergen.errors import ParameterError


def fisher_importance(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """The diagonal of the empirical Fisher information: mean squared gradient of the log likelihood of each example.

    Args:
        model: A classifier; left in its mode, its gradients cleared.
        batches: Inputs and labels.

    Raises:
        ParameterError: No batches.
    """
    found = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    count = 0
    for inputs, labels in batches:
        for one, label in zip(inputs, labels, strict=True):
            model.zero_grad()
            F.cross_entropy(model(one[None]), label[None]).backward()
            for name, value in model.named_parameters():
                if value.grad is not None:
                    found[name] += value.grad.square()
            count += 1
    model.zero_grad()
    if not count:
        raise ParameterError("The Fisher information is a mean over examples, and there are none.")
    return {name: value / count for name, value in found.items()}


def input_products(model: nn.Module, batches: Iterable[Any]) -> dict[str, Tensor]:
    """XᵀX of what every linear layer reads, by the name of its weight: ``[inputs, inputs]``, float64.

    Args:
        model: The network.
        batches: Inputs, or (inputs, labels).
    """
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            rows = arguments[0].detach().double().flatten(0, -2)
            found[name] = found.get(name, 0) + rows.T @ rows

        return hook

    handles = [
        module.register_forward_pre_hook(keep(f"{name}.weight" if name else "weight"))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        with torch.no_grad():
            for batch in batches:
                model(batch[0] if isinstance(batch, (tuple, list)) else batch)
    finally:
        for handle in handles:
            handle.remove()
    return found


def merge_regression(
    states: Sequence[Mapping[str, Tensor]], products: Sequence[Mapping[str, Tensor]], off_diagonal: float = 0.9
) -> dict[str, Tensor]:
    """Regression means: each linear layer as near as possible to the outputs of all networks' own, on their inputs.

    Jin et al., *Dataless Knowledge Fusion by Merging Weights of Language Models*, 2022, arXiv 2212.09849:
    W = (Σ Gᵢ)⁻¹ Σ Gᵢ Wᵢ with G = XᵀX, off its diagonal times ``off_diagonal``. What is no linear layer is averaged.

    Args:
        states: The networks' tensors by name.
        products: What :func:`input_products` found for each network.
        off_diagonal: Factor of the entries off the diagonal, for a stable inverse.
    """
    merged: dict[str, Tensor] = {}
    for name, first in states[0].items():
        if not first.is_floating_point():
            merged[name] = first
        elif all(name in each for each in products):
            grams = [each[name].double() for each in products]
            grams = [gram * off_diagonal + (1 - off_diagonal) * torch.diag(gram.diag()) for gram in grams]
            pairs = zip(grams, states, strict=True)
            right = torch.stack([gram @ state[name].double().T for gram, state in pairs]).sum(0)
            total = torch.stack(grams).sum(0)
            merged[name] = (torch.linalg.pinv(total, hermitian=True) @ right).T.to(first.dtype).contiguous()
        else:
            merged[name] = torch.stack([state[name].double() for state in states]).mean(0).to(first.dtype)
    return merged
