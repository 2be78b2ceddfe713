"""How many units of each group a budget allows."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from hypergen.errors import ParameterError, UnknownNameError
from hypergen.symmetry.prune.pruner import Pruner

Allocation = Literal["uniform", "global", "isomorphic"]
ALLOCATIONS: tuple[Allocation, ...] = ("uniform", "global", "isomorphic")
_BISECTIONS = 12


def allocate(
    pruner: Pruner,
    scores: Mapping[str, Tensor],
    flops: float | None = None,
    allocation: Allocation = "uniform",
    *,
    parameters: float | None = None,
    round_to: int = 1,
    ignored: Sequence[str] = (),
    shares: Mapping[str, float] | None = None,
    relative: bool = True,
) -> dict[str, int]:
    """How many units of each group a budget allows.

    Args:
        pruner: Pruner of the network.
        scores: Group name → ``group.shape``; groups that are not named stay whole, and those with them that have to
            keep equally many.
        flops: The budget, as a share of the network's own floating-point operations.
        allocation: ``"uniform"`` keeps the same share of every group; ``"global"`` the units of the greatest
            importance, wherever they are; ``"isomorphic"`` does so among groups of the same structure, with the same
            share for each structure (Fang et al., *Isomorphic Pruning for Vision Models*, 2024, arXiv 2407.04616).
        parameters: The budget, as a share of the network's own parameters; instead of ``flops`` or beside it.
        round_to: Every number of units is a multiple of this, where the group has that many.
        ignored: Groups that stay whole: names with wildcards, as ``"blocks.0.*"``.
        shares: Name with wildcards → the share of these groups to keep, which no budget changes.
        relative: Whether importance is compared relative to the mean of the group, across groups.

    Returns:
        Group name → number of units, at least one: the most that the budget allows, within a per mille of units.

    Raises:
        ParameterError: The budget is no share, or less than a network with one unit of each group takes.
        UnknownNameError: A name with wildcards fits no group.
    """
    budgets = {"flops": flops, "parameters": parameters}
    for name, budget in budgets.items():
        if budget is not None and not 0 < budget <= 1:
            raise ParameterError(f"{name} is the share to keep, over 0 and at most 1; got {budget}")
    if flops is None and parameters is None and not shares:
        raise ParameterError("allocate needs a budget: flops=, parameters=, or shares= of groups")
    if allocation not in ALLOCATIONS:
        raise ParameterError(f"unknown allocation {allocation!r}; expected one of {', '.join(ALLOCATIONS)}")
    if round_to < 1:
        raise ParameterError(f"round_to is a whole number of units, at least 1; got {round_to}")
    sizes = {group.name: group.size for group in pruner.groups}
    left_out = set(_fitting(ignored, sizes))
    sets = [names for names in pruner.together if all(name in scores and name not in left_out for name in names)]
    given = {name: share for pattern, share in (shares or {}).items() for name in _fitting([pattern], sizes)}
    ranked = [_ranked(names, scores, sizes, relative) for names in sets]
    pools = _pools(pruner, sets, ranked, allocation)

    def counts(share: float) -> dict[str, int]:
        result = {}
        for number, names in enumerate(sets):
            size = sizes[names[0]]
            own = next((given[name] for name in names if name in given), None)
            if own is not None or allocation == "uniform":
                wanted = math.floor((share if own is None else own) * size + 1e-9)
            elif share <= 0:
                wanted = 1
            else:
                pool = pools[number]
                threshold = pool[min(max(math.ceil(share * len(pool)), 1), len(pool)) - 1]
                wanted = int((ranked[number] >= threshold).sum())
            result.update(dict.fromkeys(names, _rounded(wanted, size, round_to)))
        return result

    def over(share: float) -> float:
        """How much of the budget is used: at most 1 where it is kept."""
        own = counts(share)
        used = [pruner.flops(own) / max(whole[0], 1) / flops] if flops is not None else []
        used += [pruner.parameters(own) / max(whole[1], 1) / parameters] if parameters is not None else []
        return max(used, default=0.0)

    whole = pruner.flops() if flops is not None else 0, pruner.parameters()
    low, high = 0.0, 1.0
    if over(high) <= 1:
        return counts(high)
    if over(low) > 1:
        least = over(low)
        raise ParameterError(
            f"with a single unit of each group the network still takes {least:.2f} times the budget of "
            f"{', '.join(f'{name}={value}' for name, value in budgets.items() if value is not None)}"
        )
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if over(middle) <= 1 else (low, middle)
    return counts(low)


def schedule(flops: float, steps: int) -> Iterator[float]:
    """Budgets of an iterative schedule, each the same share of the one before: prune, fine-tune, prune on.

    Every budget is a share of the first network: a pruner of the network of step ``i`` is given ``budget[i] /
    budget[i - 1]``.

    Raises:
        ParameterError: The budget is no share, or there is no step.
    """
    if not 0 < flops <= 1 or steps < 1:
        raise ParameterError(f"a schedule needs a share over 0 and at most 1, and a step; got {flops} and {steps}")
    return (flops ** ((step + 1) / steps) for step in range(steps))


def _fitting(patterns: Iterable[str], names: Mapping[str, int]) -> list[str]:
    found = []
    for pattern in patterns:
        own = [name for name in names if name == pattern or fnmatch.fnmatchcase(name, pattern)]
        if not own:
            raise UnknownNameError("group of units", pattern, names)
        found += own
    return found


def _rounded(wanted: int, size: int, multiple: int) -> int:
    if multiple > 1 and wanted < size:
        wanted = max(wanted // multiple * multiple, min(multiple, size))
    return max(1, wanted)


def _ranked(names: Sequence[str], scores: Mapping[str, Tensor], sizes: Mapping[str, int], relative: bool) -> Tensor:
    """Importance of the units from the most important: means over groups that go together and over their parents."""
    found = []
    for name in names:
        own = scores[name].float()
        own = own / own.mean().clamp_min(1e-30) if relative else own
        found.append(own.reshape(-1, sizes[name]).sort(-1, descending=True).values.mean(0))
    return torch.stack(found).mean(0)


def _pools(
    pruner: Pruner, sets: Sequence[Sequence[str]], ranked: Sequence[Tensor], allocation: Allocation
) -> list[Tensor]:
    """For every set of groups, the importance of all units that it competes with, from the greatest."""
    kinds = [_structure_of(pruner, names) if allocation == "isomorphic" else "" for names in sets]
    pools: dict[str, list[Tensor]] = {}
    for kind, own in zip(kinds, ranked, strict=True):
        pools.setdefault(kind, []).append(own)
    ordered = {kind: torch.cat(own).sort(descending=True).values for kind, own in pools.items()}
    return [ordered[kind] for kind in kinds]


def _structure_of(pruner: Pruner, names: Sequence[str]) -> str:
    """The layers that groups run through, without their numbers."""
    uses = sorted(
        {
            (".".join(part for part in name.split(".") if not part.isdigit()), dim)
            for group in names
            for name, dim in pruner.symmetry.uses[group]
        }
    )
    return str(uses)
