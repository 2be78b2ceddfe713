"""Statistics of weights: the simplest description of networks of any architecture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
STATISTICS = ("mean", "std", "norm", "absolute_mean", *(f"quantile_{q:g}" for q in _QUANTILES), "spectral_norm")


def weight_statistics(tensors: Mapping[str, Tensor]) -> Tensor:
    """Describe each tensor of networks, as Unterthiner et al. do ("Predicting Neural Network Accuracy from Weights",
    2020, arXiv:2002.11448), and by spectral norms besides.

    Args:
        tensors: ``[networks, *shape]`` by name.

    Returns:
        ``[networks, tensors, statistics]``, in the order of :data:`STATISTICS`; vectors have their norm for a spectral
        norm, and kernels that of the matrix with a row per output channel.
    """  # noqa: D205
    described = []
    for value in tensors.values():
        flat = value.float().flatten(1)
        norm = flat.norm(dim=1)
        spectral = torch.linalg.matrix_norm(value.float().flatten(2), 2) if value.dim() > 2 else norm
        columns = [flat.mean(1), flat.std(1, correction=0), norm, flat.abs().mean(1)]
        columns += [*flat.quantile(torch.tensor(_QUANTILES, device=flat.device), dim=1), spectral]
        described.append(torch.stack(columns, 1))
    return torch.stack(described, 1)


def statistics_table(architectures: Sequence[Mapping[str, Tensor]]) -> np.ndarray:
    """One table for networks of several architectures, for models that take missing values.

    Args:
        architectures: For each, ``[networks, *shape]`` by name.

    Returns:
        ``[all networks, columns]``: the statistics of tensors by their place from the first and again from the last,
        NaN where an architecture has fewer; those of all weights together; and a column per architecture that is 1 for
        its networks, where there are several.
    """
    most = max(len(tensors) for tensors in architectures)
    rows = []
    for number, tensors in enumerate(architectures):
        described = weight_statistics(tensors)
        networks, count, _ = described.shape
        missing = torch.full((networks, most - count, len(STATISTICS)), torch.nan)
        together = torch.cat([value.flatten(1) for value in tensors.values()], 1)
        parts = [torch.cat([described, missing], 1), weight_statistics({"all": together})]
        if len(architectures) > 1:
            parts.append(torch.cat([missing, described], 1))
            parts.append(torch.eye(len(architectures))[number].expand(networks, 1, -1))
        rows.append(torch.cat([part.flatten(1) for part in parts], 1))
    return torch.cat(rows).numpy()
