"""Merging adapters of any ranks into one, without forming updates where the method allows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from hypergen.adapters.adapter import BIAS, Adapter
from hypergen.adapters.factors import LowRank
from hypergen.errors import ParameterError, UnknownNameError
from hypergen.symmetry.merge.methods import merge_tensors

Method = Literal["svd", "cat", "ties", "dare"]
_DENSE = 2048
_OF_NETWORKS = {"ties": "ties", "dare": "dare_linear"}  # What is merged as whole matrices, by the names of networks.


def merge_adapters(
    adapters: Sequence[Adapter],
    weights: Sequence[float] | None = None,
    *,
    method: Method = "svd",
    rank: int | None = None,
    density: float = 0.5,
    seed: int = 0,
    name: str = "merged",
) -> Adapter:
    """Merge adapters of one base.

    ``"svd"``: the best approximation of ``Σ wᵢ ΔWᵢ`` of a rank, from the factors alone. ``"cat"``: the same sum
    exactly, by factors side by side; its rank is the sum of ranks. ``"ties"`` and ``"dare"``: by value, one weight's
    updates at a time, and the best approximation of the result. Scales of all kinds (rsLoRA, α by module) are part of
    the updates.

    A module that an adapter lacks counts as an update of 0.

    Args:
        adapters: Two or more; ranks, scales and modules may differ.
        weights: Weight of each; 1 for all by default.
        method: How.
        rank: Rank of the result; the largest of the adapters' by default, and not for ``"cat"``.
        density: Share of values that ``"ties"`` and ``"dare"`` keep.
        seed: Random seed of ``"dare"``.
        name: Name of the result.

    Returns:
        An adapter with scale 1 that PEFT, diffusers and servers load.

    Raises:
        ParameterError: Bases or shapes differ, or an adapter has what does not add up: DoRA, modules that are trained
            as a whole, an initialisation that changes the base.
        UnknownNameError: The method is unknown.
    """
    if method not in get_args(Method):
        raise UnknownNameError("method of merging adapters", method, get_args(Method))
    weights = [1.0] * len(adapters) if weights is None else list(weights)
    _check(adapters, weights, method, rank)
    rank = max(adapter.rank for adapter in adapters) if rank is None else rank
    modules = list(dict.fromkeys(module for adapter in adapters for module in adapter.modules))
    random = torch.Generator().manual_seed(seed)
    merged = {}
    for module in modules:
        own = [
            (adapter.modules[module], weight)
            for adapter, weight in zip(adapters, weights, strict=True)
            if module in adapter.modules
        ]
        side_by_side = _concatenated(own)
        if method == "cat":
            merged[module] = side_by_side
        elif method == "svd":
            merged[module] = side_by_side.with_rank(rank)
        else:
            whole = torch.stack([replace(update, embedding=False).update() * weight for update, weight in own])
            whole = whole.reshape(len(own), own[0][0].shape[0], -1).float()
            base = torch.zeros_like(whole[0])
            combined = merge_tensors(_OF_NETWORKS[method], list(whole), base, density=density, generator=random)
            merged[module] = _best(combined, rank, own[0][0])
    biases: dict[str, Tensor] = {}
    for adapter, weight in zip(adapters, weights, strict=True):
        for key, value in adapter.extras.items():
            scaled = value.float() * adapter.modules[key.removesuffix(BIAS)].scale * weight
            biases[key] = biases[key] + scaled if key in biases else scaled
    first = adapters[0]
    config = {"base_model_name_or_path": first.base or None, "task_type": first.config.get("task_type")}
    config["fan_in_fan_out"] = first.config.get("fan_in_fan_out", False)
    return Adapter(merged, biases, config if first.naming == "peft" else {}, name, first.naming)


def _concatenated(own: Sequence[tuple[LowRank, float]]) -> LowRank:
    """``Σ wᵢ ΔWᵢ`` by factors side by side, with scale 1."""
    parts = [(update.with_scale(1.0), weight) for update, weight in own]
    up = torch.cat([update.up.float() * weight for update, weight in parts], 1)
    down = torch.cat([update.down.float() for update, _ in parts])
    return LowRank(up, down, 1.0, own[0][0].embedding)


def _best(whole: Tensor, rank: int, like: LowRank) -> LowRank:
    """The best approximation of a matrix of a rank; of large ones by iterated random projections."""
    if min(whole.shape) <= _DENSE:
        left, sigma, right = torch.linalg.svd(whole, full_matrices=False)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            left, sigma, turned = torch.svd_lowrank(whole, q=min(2 * rank + 32, *whole.shape), niter=8)
        right = turned.T
    kept = min(rank, len(sigma))
    root = sigma[:kept].sqrt()
    down = (root[:, None] * right[:kept]).reshape(kept, *like.down.shape[1:])
    up = (left[:, :kept] * root).reshape(-1, kept, *like.up.shape[2:])
    return LowRank(up, down, 1.0, like.embedding).with_rank(rank)


def _check(adapters: Sequence[Adapter], weights: Sequence[float], method: str, rank: int | None) -> None:
    if len(adapters) < 2 or len(weights) != len(adapters):
        raise ParameterError(
            f"Merging takes two adapters or more, and a weight for each; got {len(adapters)} and {len(weights)}."
        )
    if method == "cat" and rank is not None:
        raise ParameterError('method="cat" is exact and has the sum of all ranks; leave rank out, or take "svd".')
    bases = sorted({adapter.base for adapter in adapters if adapter.base})
    if len(bases) > 1:
        raise ParameterError(f"Adapters of different bases do not add up: {', '.join(bases)}. Merge those of one.")
    if len({adapter.naming for adapter in adapters}) > 1:
        raise ParameterError(
            "The adapters have different namings. Write them all as PEFT folders, or read them so, first."
        )
    for adapter in adapters:
        if adapter.changed_base:
            raise ParameterError(
                f"{adapter.name!r} was initialised with {adapter.changed_base}, which changed its base: it does not "
                "add up with others. Convert it: save_pretrained(…, path_initial_model_for_weight_conversion=…)."
            )
        other = [key for key in adapter.extras if not key.endswith(BIAS)]
        if other:
            what = "DoRA" if other[0].endswith("magnitude_vector") else "a module that is trained as a whole"
            raise ParameterError(f"{adapter.name!r} has {other[0]!r} ({what}), which does not add up with others.")
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {}
    for adapter in adapters:
        for module, update in adapter.modules.items():
            known = shapes.setdefault(module, (adapter.name, (*update.up.shape[:1], *update.down.shape[1:])))
            own = (*update.up.shape[:1], *update.down.shape[1:])
            if own != known[1]:
                raise ParameterError(
                    f"{module!r} is {list(own)} in {adapter.name!r} and {list(known[1])} in {known[0]!r}. Merge "
                    "adapters of one base."
                )
