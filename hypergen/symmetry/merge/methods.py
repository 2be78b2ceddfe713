"""Merging tensors, with the formulas and defaults of the package that merge users have (mergekit).

=====================  ==============================================================================================
``linear``             weighted mean; *Model soups*, Wortsman et al., 2022, arXiv 2203.05482
``slerp``              on the great circle between two tensors
``task_arithmetic``    base + Σ w δ, δ = tensor - base; Ilharco et al., 2022, arXiv 2212.04089
``ties``               δ trimmed to its largest values, values of the lesser sign left out; Yadav et al., 2023,
                       arXiv 2306.01708
``dare_linear``        δ thinned out at random and rescaled; Yu et al., 2023, arXiv 2311.03099
``dare_ties``          the same, with the signs elected as in TIES
``della``              kept with a probability that grows with the rank of the magnitude in its row, signs elected;
                       Deep et al., 2024, arXiv 2406.11617
``della_linear``       the same without electing signs
=====================  ==============================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hypergen.errors import ParameterError, UnknownNameError

Thinning = Literal["none", "magnitude", "random", "rank"]


@dataclass(frozen=True)
class _Kind:
    thinning: Thinning
    elects_signs: bool
    normalize: bool
    rescale: bool


_TASK_VECTORS = {
    "task_arithmetic": _Kind("none", False, False, False),
    "ties": _Kind("magnitude", True, True, False),
    "dare_linear": _Kind("random", False, False, True),
    "dare_ties": _Kind("random", True, False, True),
    "della": _Kind("rank", True, True, True),
    "della_linear": _Kind("rank", False, False, True),
}
MERGE_METHODS = ("linear", "slerp", *_TASK_VECTORS)
_COLINEAR = 0.9995


def merge_tensors(
    method: str,
    tensors: Sequence[Tensor],
    base: Tensor | None = None,
    *,
    weight: Sequence[float] | float = 1.0,
    density: Sequence[float] | float = 1.0,
    t: float = 0.5,
    epsilon: float = 0.15,
    scale: float = 1.0,
    normalize: bool | None = None,
    rescale: bool | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Merge tensors of one shape.

    Args:
        method: One of :data:`MERGE_METHODS`.
        tensors: The tensors to merge; those of ``slerp`` are two, from the first to the second.
        base: That of the network that they were fine-tuned from; all but ``linear`` and ``slerp`` need it.
        weight: Weight of each tensor, or of all.
        density: Share of values of each difference that is kept.
        t: Place between the two tensors of ``slerp``.
        epsilon: Half the range of probabilities of ``della``.
        scale: Factor of the merged difference (lambda).
        normalize: Whether to divide by the sum of weights; None for the method's own choice.
        rescale: Whether a thinned difference is scaled to its sum of absolute values before; None as above.
        generator: Source of randomness of ``dare`` and ``della``.

    Returns:
        The merged tensor, in the data type of the base or of the first tensor; computed in float32 or better.

    Raises:
        UnknownNameError: No such method.
        ParameterError: Shapes differ, the base is missing, or a number is out of its range.
    """
    if method not in MERGE_METHODS:
        raise UnknownNameError("merge method", method, MERGE_METHODS)
    first = tensors[0] if base is None else base
    if any(tensor.shape != first.shape for tensor in tensors):
        raise ParameterError(f"Shapes differ: {[list(tensor.shape) for tensor in (first, *tensors)]}.")
    dtype = torch.promote_types(first.dtype, torch.float32)
    values = [tensor.to(dtype) for tensor in tensors]
    weights, densities = _each(weight, len(values)), _each(density, len(values))
    if method == "slerp":
        if len(values) != 2:
            raise ParameterError(f"slerp goes from one network to another; got {len(values)}.")
        return slerp(values[0], values[1], t).to(first.dtype)
    if method == "linear":
        total = sum(weights) if normalize is None or normalize else 1.0
        if total == 0:
            raise ParameterError("The weights sum to 0; pass normalize=False, or other weights.")
        merged = torch.stack([value * own for value, own in zip(values, weights, strict=True)]).sum(0) / total
        return merged.to(first.dtype)
    if base is None:
        raise ParameterError(f"{method} merges differences to a base network: name it (base, base_model).")
    kind = _TASK_VECTORS[method]
    rescaled = kind.rescale if rescale is None else rescale
    origin = base.to(dtype)
    deltas = [
        thinned(value - origin, own, kind.thinning, epsilon, rescaled, generator)
        for value, own in zip(values, densities, strict=True)
    ]
    divided = kind.normalize if normalize is None else normalize
    return (origin + scale * merge_deltas(deltas, weights, kind.elects_signs, divided)).to(first.dtype)


def merge_deltas(deltas: Sequence[Tensor], weights: Sequence[float], elects_signs: bool, normalize: bool) -> Tensor:
    """The weighted sum of differences; with ``elects_signs`` of those values alone that have the sign of their sum."""
    factors = torch.tensor(weights, dtype=deltas[0].dtype, device=deltas[0].device)
    stacked = torch.stack(list(deltas))
    factors = factors.reshape(-1, *[1] * (stacked.dim() - 1))
    weighted = stacked * factors
    if elects_signs:
        majority = torch.where(weighted.sum(0) >= 0, 1.0, -1.0)
        agreeing = weighted.sign() == majority
        merged, divisor = (weighted * agreeing).sum(0), (factors * agreeing).sum(0)
        divisor = torch.where(divisor == 0, 1.0, divisor)
    else:
        merged, divisor = weighted.sum(0), factors.sum(0)
        divisor = torch.where(divisor.abs() < 1e-8, 1.0, divisor)
    return merged / divisor if normalize else merged


def thinned(
    delta: Tensor,
    density: float,
    thinning: Thinning,
    epsilon: float = 0.15,
    rescale: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """A difference with a share of its values, the others zero.

    Args:
        delta: The difference.
        density: Share that is kept.
        thinning: ``"magnitude"`` keeps the largest, ``"random"`` any, ``"rank"`` large ones more probably.
        epsilon: Half the range of probabilities of ``"rank"``.
        rescale: Whether the sum of absolute values is kept.
        generator: Source of randomness.

    Raises:
        ParameterError: ``density`` is not in (0, 1], or for ``"rank"`` within ``epsilon`` of 0 or 1.
    """
    if not 0 < density <= 1:
        raise ParameterError(f"density={density} is no share: expected more than 0 and at most 1.")
    if thinning == "none" or density == 1:
        return delta
    if thinning == "magnitude":
        count = max(int(density * delta.numel()), 1)
        mask = torch.zeros(delta.numel(), dtype=torch.bool, device=delta.device)
        mask[delta.abs().flatten().argsort(descending=True)[:count]] = True
        mask = mask.reshape(delta.shape)
    else:
        probabilities = torch.full_like(delta, density)
        if thinning == "rank":
            if density + epsilon >= 1 or density - epsilon <= 0:
                raise ParameterError(
                    f"density={density} with epsilon={epsilon}: density ± epsilon has to lie between 0 and 1."
                )
            rows = delta.abs().reshape(1, -1) if delta.dim() < 2 else delta.abs()
            ranks = rows.argsort(1).argsort(1).to(delta.dtype)
            share = ranks / max(rows.shape[1] - 1, 1)
            probabilities = (density - epsilon + 2 * epsilon * share).reshape(delta.shape)
        mask = torch.bernoulli(probabilities, generator=generator).bool()
    kept = delta * mask
    if not rescale:
        return kept
    before, after = delta.abs().sum(), kept.abs().sum()
    return kept * (before / after) if before > 1e-7 and after > 1e-7 else kept


def slerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    """The point at share ``t`` of the arc from ``a`` to ``b``; on the straight line where they point the same way."""
    # The sines below divide by what is small where the angle is: the angle is found in float64.
    norms = [float(value.double().norm()) for value in (a, b)]
    units = [value.double() / (norm if norm > 1e-8 else 1.0) for value, norm in zip((a, b), norms, strict=True)]
    cosine = float((units[0] * units[1]).sum())
    if abs(cosine) > _COLINEAR:
        return (1 - t) * a + t * b
    angle = math.acos(cosine)
    return (math.sin((1 - t) * angle) * a + math.sin(t * angle) * b) / math.sin(angle)


def merge_weighted(
    states: Sequence[Mapping[str, Tensor]], importances: Sequence[Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """The mean of networks, every value weighted by its importance, as Fisher merging.

    Matena and Raffel, *Merging Models with Fisher-Weighted Averaging*, 2021, arXiv 2111.09832: Σ F θ / Σ F.

    Args:
        states: The networks' tensors by name.
        importances: Importance of every value, by name; tensors without one are averaged.
    """
    merged = {}
    for name, first in states[0].items():
        if not first.is_floating_point():
            merged[name] = first
            continue
        values = torch.stack([state[name].double() for state in states])
        even = torch.ones_like(first, dtype=torch.float64)
        weights = torch.stack([own[name].double() if name in own else even for own in importances])
        merged[name] = ((values * weights).sum(0) / weights.sum(0).clamp_min(1e-300)).to(first.dtype)
        unknown = weights.sum(0) == 0
        merged[name] = torch.where(unknown, values.mean(0).to(first.dtype), merged[name])
    return merged


def _each(value: Sequence[float] | float, count: int) -> list[float]:
    if isinstance(value, (int, float)):
        return [float(value)] * count
    if len(value) != count:
        raise ParameterError(f"{len(value)} numbers for {count} networks: {list(value)}.")
    return [float(each) for each in value]
