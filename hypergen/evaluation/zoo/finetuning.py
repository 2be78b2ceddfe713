"""How much training generated networks save: many of them are trained at once, from each start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from hypergen.evaluation.zoo.data import Stacked
from hypergen.evaluation.zoo.problem import ZooProblem, accuracies

EARLY = 10


@dataclass(frozen=True)
class FinetuningProtocol:
    """The settings, the same for every start.

    Args:
        learning_rates: Learning rates of Adam; each initialisation has its own, selected on validation samples.
        steps: Training stops here.
        below_trained: The target is the mean accuracy of trained networks less this.
    """

    learning_rates: Sequence[float] = (1e-3, 5e-3, 2e-2)
    steps: int = 100
    below_trained: float = 0.01


@dataclass(frozen=True)
class Finetuning:
    """What became of the networks of one start.

    Args:
        early: Test accuracy after 10 steps, [networks].
        steps: Steps until the test accuracy reaches the target, [networks]; the limit plus 1 where it never did.
        curve: (step, mean test accuracy).
    """

    early: Tensor
    steps: Tensor
    curve: tuple[tuple[int, float], ...]


def finetune(
    problem: ZooProblem,
    networks: Stacked,
    conditions: Tensor,
    target: float,
    protocol: FinetuningProtocol,
    seed: int,
) -> Finetuning:
    """Train networks for their conditions and measure them on the way.

    The learning rate after 10 steps is the one with the best accuracy then, that to the target the one with the fewest
    mean steps, both on validation samples.

    Args:
        problem: What the networks are for.
        networks: Where training starts.
        conditions: What each is trained for.
        target: The accuracy whose first step is noted.
        protocol: The settings.
        seed: Random seed of the order of training samples.
    """
    checks = _checks(protocol.steps)
    early = checks.index(min(EARLY, protocol.steps))
    # Test accuracy is measured of the chosen rates alone: networks are kept until these are known.
    kept: list[list[Stacked]] = []
    validation: list[Tensor] = []  # Per rate: [checks, networks].
    for rate in protocol.learning_rates:
        steps = problem.training_steps(networks, conditions, learning_rate=rate, seed=seed)
        visited, found = [], []
        for step, values in enumerate(islice(steps, protocol.steps + 1)):
            if step in checks:
                visited.append({name: value.clone() for name, value in values.items()})
                found.append(accuracies(problem, values, conditions, "validation"))
        kept.append(visited)
        validation.append(torch.stack(found))
    best_early = max(range(len(kept)), key=lambda i: float(validation[i][early].mean()))
    best = min(range(len(kept)), key=lambda i: float(_steps_to(validation[i], checks, target).mean()))
    test = torch.stack([accuracies(problem, values, conditions, "test") for values in kept[best]])
    at_early = test[early]
    if best_early != best:
        at_early = accuracies(problem, kept[best_early][early], conditions, "test")
    curve = tuple(zip(checks, test.mean(1).tolist(), strict=True))
    return Finetuning(at_early, _steps_to(test, checks, target), curve)


def finetune_each(
    problem: ZooProblem,
    starts: Mapping[str, Stacked],
    conditions: Tensor,
    target: float,
    protocol: FinetuningProtocol,
    seed: int,
) -> dict[str, Finetuning]:
    """:func:`finetune` from each start, by its name."""
    return {name: finetune(problem, start, conditions, target, protocol, seed) for name, start in starts.items()}


def _checks(steps: int) -> list[int]:
    """Every step to the 10th, then 20% more each time."""
    checks = list(range(min(EARLY, steps) + 1))
    while checks[-1] < steps:
        checks.append(min(steps, int(checks[-1] * 1.2)))
    return checks


def _steps_to(accuracy: Tensor, checks: list[int], target: float) -> Tensor:
    """The first check of each network with the target's accuracy, [networks]."""
    reached = accuracy >= target
    first = reached.float().argmax(0)
    limit = torch.full_like(first, checks[-1] + 1)
    return torch.where(reached.any(0), torch.tensor(checks)[first], limit).float()
