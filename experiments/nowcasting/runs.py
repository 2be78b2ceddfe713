"""Stacked runs of Adam that jump ahead, one method per group of runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.nowcasting.tasks import Problem
from hypergen.functional.stacked_module import StackedModule
from hypergen.metanets.nowcasting.nowcaster import NowcastNetwork, State, halvings, horizon_schedule


@dataclass(frozen=True)
class Method:
    """A way of training.

    Args:
        name: Name of its rows.
        network: What jumps; None for Adam alone.
        horizon: Intervals that the first jump goes ahead; the last one goes one.
        decay: Share of the budget over which the learning rate falls to zero; infinity for a constant one.
        tolerance: By which factor a jump may raise the loss of the latest batch; each goes ``horizon`` ahead then, or a
            half of it, and so on. None to jump unchecked.
    """

    name: str
    network: NowcastNetwork | None = None
    horizon: int = 1
    decay: float = math.inf
    tolerance: float | None = None


class StackedAdam:
    """Runs of one problem side by side, each with its seed and learning rate; runs of one seed see the same batches.

    Args:
        problem: What is trained.
        seeds: Random seeds of each run's initialisation and batches.
        learning_rates: One per run.
        ends: The step at which each run's learning rate reaches zero; infinity for a constant one.

    Attributes:
        weights: Weights of all runs, [runs, parameters].
    """

    def __init__(
        self, problem: Problem, seeds: Sequence[int], learning_rates: Sequence[float], ends: Sequence[float]
    ) -> None:
        self.problem = problem
        self.module = StackedModule(problem.build)
        state = self.module.initialise(seeds)
        self.names = self.module.parameter_names
        self.shapes = [state[name].shape[1:] for name in self.names]
        self.weights = torch.cat([state[name].flatten(1) for name in self.names], 1)
        self.mean, self.square = torch.zeros_like(self.weights), torch.zeros_like(self.weights)
        self.learning_rates = torch.tensor(learning_rates)[:, None]
        self.ends = torch.tensor(ends)[:, None]
        distinct = sorted(set(seeds))
        self.row_of = torch.tensor([distinct.index(seed) for seed in seeds])
        self.generators = [torch.Generator().manual_seed(seed) for seed in distinct]
        self.samples: Tensor | None = None
        self.steps = 0

    def views(self, weights: Tensor) -> dict[str, Tensor]:
        """Weights [runs, parameters] as a tensor [runs, …] per name."""
        parts = weights.split([shape.numel() for shape in self.shapes], 1)
        return {n: part.unflatten(1, shape) for n, part, shape in zip(self.names, parts, self.shapes, strict=True)}

    def flat(self, state: State) -> Tensor:
        """The reverse of :meth:`views`."""
        return torch.cat([state[name].flatten(1) for name in self.names], 1)

    def losses(self, inputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """[runs], of samples that are the same for all runs."""
        weights = self.weights if weights is None else weights
        return self.problem.losses(self.module(self.views(weights), {}, inputs, shared=True), targets[None])

    def batch_losses(self, weights: Tensor, runs: slice = slice(None)) -> Tensor:
        """Losses of some of the runs, with these weights, on the batch of their latest step."""
        inputs, targets = self.problem.inputs, self.problem.targets
        if self.samples is None:
            return self.losses(inputs, targets, weights)
        samples = self.samples[runs]
        return self.problem.losses(self.module(self.views(weights), {}, inputs[samples]), targets[samples])

    def step(self) -> None:
        """One step of Adam of every run."""
        weights = self.weights.detach().requires_grad_()
        if (batch := self.problem.batch_size) is not None:
            number = len(self.problem.inputs)
            chosen = [torch.randint(number, (batch,), generator=generator) for generator in self.generators]
            self.samples = torch.stack(chosen)[self.row_of]
        losses = self.batch_losses(weights)
        (gradients,) = torch.autograd.grad(losses.sum(), weights)
        self.steps += 1
        rates = self.learning_rates * (1 - (self.steps - 1) / self.ends).clamp_min(0)
        self.mean.lerp_(gradients, 1 - 0.9)
        self.square.mul_(0.999).addcmul_(gradients, gradients, value=1 - 0.999)
        root = self.square.sqrt().div_(math.sqrt(1 - 0.999**self.steps)).add_(1e-8)
        change = torch.div(self.mean, root, out=root)
        # A new tensor: histories keep the old one.
        self.weights = weights.detach().addcmul(change, rates, value=-1 / (1 - 0.9**self.steps))


@dataclass(frozen=True)
class Budget:
    """How long runs are, and when they jump.

    Args:
        steps: Number of steps of a run.
        period: Steps from one jump to the next.
        interval: Steps between two states of a history.
        check_every: Steps between two measurements of the loss.
        measured: Samples that it is measured on at most, the first ones.
    """

    steps: int = 1000
    period: int = 100
    interval: int = 20
    check_every: int = 10
    measured: int = 512


def trajectory(
    problem: Problem, seeds: Sequence[int], learning_rates: Sequence[float], budget: Budget
) -> dict[str, Tensor]:
    """States [states, runs, …] of Adam's runs, an interval apart; runs that diverged are left out."""
    runs = StackedAdam(problem, seeds, learning_rates, [math.inf] * len(seeds))
    states = [runs.weights]
    for step in range(1, budget.steps + 1):
        runs.step()
        if step % budget.interval == 0:
            states.append(runs.weights)
    stacked = torch.stack(states)
    stacked = stacked[:, stacked.isfinite().all(2).all(0)]
    views = [runs.views(state) for state in stacked]
    return {name: torch.stack([view[name] for view in views]) for name in runs.names}


@torch.no_grad()
def _jump(
    runs: StackedAdam,
    history: Sequence[Tensor],
    rows: slice,
    forecast: Callable[..., State],
    k: int,
    tolerance: float | None,
) -> None:
    states = [runs.views(state[rows]) for state in history]
    weights = runs.weights[rows]
    check = tolerance is not None
    limit = runs.batch_losses(weights, rows) * tolerance if tolerance is not None else torch.zeros(len(weights))
    waiting = torch.ones(len(weights), dtype=torch.bool)
    for horizon in halvings(k) if check else [k]:
        predicted = runs.flat(forecast(states, horizon))
        losses = runs.batch_losses(predicted, rows) if check else limit
        landed = waiting & (losses <= limit) & predicted.isfinite().all(1)
        weights = torch.where(landed[:, None], predicted, weights)
        waiting &= ~landed
    runs.weights = runs.weights.clone()
    runs.weights[rows] = weights


def curves(
    problem: Problem, methods: Sequence[Method], seeds: Sequence[int], rates: Sequence[Sequence[float]], budget: Budget
) -> Tensor:
    """Losses on the training samples over training: [checks, methods, rates, seeds].

    Args:
        problem: What is trained.
        methods: How.
        seeds: Random seeds of the runs.
        rates: Learning rates of each method, as many for each.
        budget: How long.
    """
    grid = [(i, rate, seed) for i in range(len(methods)) for rate in rates[i] for seed in seeds]
    ends = [budget.steps * methods[i].decay for i, _, _ in grid]
    runs = StackedAdam(problem, [seed for _, _, seed in grid], [rate for _, rate, _ in grid], ends)
    each = len(rates[0]) * len(seeds)
    model = problem.build()
    jumping = [
        (
            slice(i * each, (i + 1) * each),
            network.bind(model, problem.inputs[:2]),
            network.context,
            schedule,
            method.tolerance,
        )
        for i, method in enumerate(methods)
        if (network := method.network) is not None
        and (
            schedule := horizon_schedule(method.horizon, budget.steps // budget.period)
            if method.tolerance is None
            else [method.horizon]
        )
    ]
    history: list[Tensor] = []
    inputs, targets = problem.inputs[: budget.measured], problem.targets[: budget.measured]
    found = []
    for step in range(1, budget.steps + 1):
        runs.step()
        left = -step % budget.period
        if left % budget.interval == 0:
            history.append(runs.weights)
        if left == 0:
            for rows, forecast, context, schedule, tolerance in jumping:
                horizon = schedule[min(step // budget.period, len(schedule)) - 1]
                _jump(runs, history[-context:], rows, forecast, horizon, tolerance)
            history.clear()
        if step % budget.check_every == 0:
            with torch.no_grad():
                found.append(runs.losses(inputs, targets))
    return torch.stack(found).view(-1, len(methods), len(rates[0]), len(seeds)).nan_to_num(math.inf)


def first_checks(losses: Tensor, targets: Tensor) -> Tensor:
    """The first check, counted from 1, at which losses [checks, …] are at most the targets; checks + 1 if none."""
    reached = losses <= targets
    return torch.where(reached.any(0), reached.int().argmax(0) + 1, len(losses) + 1)
