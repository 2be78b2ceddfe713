"""``python train.py experiment=nowcasting``: a network that knows where training leads, on unseen tasks."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from rich.console import Console
from torch import Tensor

from experiments.nowcasting.runs import Budget, Method, curves, first_checks, trajectory
from experiments.nowcasting.tasks import Problem, digits_problems, earlier_problems, unseen_problems
from experiments.shared.processes import cpu_seconds, seconds_since_start
from hypergen.evaluation.plots import LEGEND, PREDICTED, canvas, save_figures
from hypergen.evaluation.results import Results, Row
from hypergen.metanets.nowcasting.nowcaster import LinearExtrapolation, NowcastNetwork, StateAverage
from hypergen.metanets.nowcasting.optimizer import Nowcaster
from hypergen.metanets.nowcasting.training import NowcastingTraining, Trajectory
from hypergen.training.fit import fit

ADAM = "adam"
NOWCASTER = "nowcaster"
_COLOURS = {ADAM: "#22699f", "adam_decay": "#6aa6d8", "linear": "#555555", NOWCASTER: PREDICTED}


@dataclass(frozen=True)
class Seeds:
    """How many runs there are.

    Args:
        tasks: On the digits, that a nowcaster learns from.
        runs: Number of runs of each of them.
        validation_tasks: On the digits, that horizons are chosen on.
        validation: Runs of each task that learning rates and horizons are chosen on.
        test: Runs of each task that figures are about.
        timed: Number of those that are run again, alone and timed.
    """

    tasks: int = 12
    runs: int = 6
    validation_tasks: int = 3
    validation: int = 2
    test: int = 5
    timed: int = 2


@dataclass(frozen=True)
class Measured:
    """What a task showed.

    Args:
        problem: The task.
        rates: The learning rate of each method, in the order of ``losses``.
        losses: On the test seeds, [checks, methods, seeds].
        target: Target value of each seed.
        steps: Until the target, in checks, [methods, seeds]; one more than there are where it was not reached.
    """

    problem: Problem
    rates: dict[str, float]
    losses: Tensor
    target: Tensor
    steps: Tensor


def train_nowcasting(
    *,
    name: str,
    output: str,
    seed: int,
    network: Callable[[], NowcastNetwork],
    training: Callable[..., NowcastingTraining],
    trainer: Callable[..., pl.Trainer],
    seeds: Seeds,
    budget: Budget,
    learning_rates: Sequence[float] = (3e-3, 1e-2, 3e-2, 1e-1),
    horizons: Sequence[int] = (4, 8, 16, 32),
    linear_horizons: Sequence[int] = (1, 2, 5, 10),
    tolerance: float = 2.0,
    aims: Mapping[str, float] | None = None,
) -> Results:
    """Train a nowcaster on runs on the digits, and measure how soon Adam with it reaches Adam's loss elsewhere.

    The target is the training loss that Adam has at the end of its budget, the mean of its last five checks, at the
    constant learning rate with the lowest such loss on validation seeds. All others get the learning rate, of the same
    ones, that is fastest to the target on validation seeds, and ``adam_fastest`` is plain Adam with that. Horizons are
    chosen on tasks on the digits. The nowcaster's jumps, and those of ``linear`` extrapolation, backtrack by the loss
    of the latest batch; those of the methods called unchecked do not. A method's steps, and Adam's own, are those until
    the first check at the target; who does not reach it counts as if at the check after the budget. Passes through the
    network that backtracking needs count in wall-clock time only.

    Args:
        name: Name of the experiment.
        output: The folder that everything is written into.
        seed: Random seed of tasks, networks and training.
        network: Makes the nowcaster.
        training: Makes the LightningModule from ``network`` and ``trajectories``.
        trainer: Makes the trainer.
        seeds: How many runs there are.
        budget: How long they are.
        learning_rates: Learning rates to choose from.
        horizons: Horizons of the nowcaster's jumps to choose from, in intervals, and of those of linear extrapolation
            that backtrack.
        linear_horizons: Horizons of the first of linear extrapolation's unchecked jumps; those of later ones go down to
            one.
        tolerance: By which factor a jump that backtracks may raise the loss of the latest batch.
        aims: By figure.

    Returns:
        The figures, which are also written to ``output`` and printed.
    """
    console = Console()
    begun = time.monotonic()
    draw = random.Random(seed)
    tasks = digits_problems(seeds.tasks, seed)
    trajectories = []
    for problem in tasks:
        rates = [10 ** draw.uniform(-2.8, -1.2) for _ in range(seeds.runs)]
        states = trajectory(problem, [draw.randrange(2**31) for _ in rates], rates, budget)
        if next(iter(states.values())).shape[1]:
            trajectories.append(Trajectory(problem.build(), states, problem.inputs[:2]))
    console.print(
        f"{name}: seed {seed}, {len(trajectories)} tasks of {seeds.runs} runs in {time.monotonic() - begun:.0f} s"
    )

    begun = time.monotonic()
    torch.manual_seed(seed)
    trained = network()
    module = training(network=trained, trajectories=trajectories, seed=seed)
    fit(module, {}, partial(trainer, max_steps=module.steps, enable_progress_bar=False), None, None, output, None)
    trained.eval()
    Path(output).mkdir(parents=True, exist_ok=True)
    torch.save(trained.state_dict(), Path(output) / "nowcaster.pt")
    number = sum(parameter.numel() for parameter in trained.parameters())
    console.print(f"Nowcaster of {number:,} parameters trained in {time.monotonic() - begun:.0f} s")

    digits = digits_problems(seeds.validation_tasks, seed + 1)
    validation = [1000 * seed + 100 + i for i in range(seeds.validation)]
    test = [1000 * seed + 500 + i for i in range(seeds.test)]
    linear = LinearExtrapolation(trained.context, trained.horizons)
    candidates = [
        *(Method(NOWCASTER, trained, k, tolerance=tolerance) for k in horizons),
        *(Method("linear", linear, k, tolerance=tolerance) for k in horizons),
        *(Method("nowcaster_unchecked", trained, k) for k in horizons),
        *(Method("linear_unchecked", linear, k) for k in linear_horizons),
    ]
    shares = {}
    logs = torch.zeros(len(candidates))
    for problem in digits:
        tried = [Method(ADAM), *candidates]
        plain, checks = _checks(curves(problem, tried, validation, [learning_rates] * len(tried), budget))
        logs += (checks[1:].amin(1) - checks[0, plain]) / len(digits)
    best: dict[str, Method] = {}
    for method, log in sorted(zip(candidates, logs.tolist(), strict=True), key=lambda pair: pair[1]):
        shares[f"{method.name} {method.horizon}"] = math.exp(log)
        best.setdefault(method.name, method)
    chosen = {name: method.horizon for name, method in best.items()}
    methods = [
        Method(ADAM),
        best[NOWCASTER],
        *(method for name, method in best.items() if name != NOWCASTER),
        Method("average", StateAverage(trained.context)),
        Method("adam_decay", decay=1.0),
        Method("adam_short_decay", decay=0.6),
    ]
    console.print(f"Horizons chosen on the digits, in intervals: {chosen}")
    unseen = unseen_problems()
    measured = []
    for problem in [*unseen, *earlier_problems()]:
        begun = time.monotonic()
        measured.append(_measure(problem, methods, validation, test, learning_rates, budget))
        ratios = [f"{method} {float((s / measured[-1].steps[0]).mean()):.2f}" for method, s in _named(measured[-1])]
        console.print(f"{problem.name}, {time.monotonic() - begun:.0f} s, share of Adam's steps: {', '.join(ratios)}")
    fresh, earlier = measured[: len(unseen)], measured[len(unseen) :]
    times = [_wall_clock(each, methods[:2], test[: seeds.timed], budget) for each in fresh]

    rows = _rows(fresh, times)
    rows += _ratios(earlier, "_earlier_tasks")
    rows += [
        Row("nowcaster_parameters", number, better="lower"),
        Row("training_error_over_no_change", module.curve[-1][1] / module.curve[-1][2], better="lower")
        if module.curve
        else Row("training_error_over_no_change", math.nan, better="lower"),
        Row("run_seconds", seconds_since_start(), better="lower"),
        Row("run_cpu_seconds", cpu_seconds(), better="lower"),
    ]
    rows = [Row(row.figure, row.value, row.std, row.n, (aims or {}).get(row.figure), row.better) for row in rows]
    details = {
        "horizons": chosen,
        "validation_shares": shares,
        "learning_rates": {each.problem.name: each.rates for each in measured},
        "targets": {each.problem.name: each.target.tolist() for each in measured},
        "steps": {
            each.problem.name: {
                method: (steps * budget.check_every).tolist()
                for method, steps in zip(each.rates, each.steps, strict=True)
            }
            for each in measured
        },
        "curve": module.curve,
    }
    results = Results(name, seed, tuple(sorted(rows, key=lambda row: row.aim is None)), details)
    results.write(output)
    save_figures({"losses": loss_curves(fresh, budget), "earlier_losses": loss_curves(earlier, budget)}, output)
    results.print_table(console)
    console.print(f"Results, table and plot are in {output}", soft_wrap=True)
    return results


def _measure(
    problem: Problem,
    methods: Sequence[Method],
    validation: Sequence[int],
    test: Sequence[int],
    learning_rates: Sequence[float],
    budget: Budget,
) -> Measured:
    """Choose each method's learning rate on validation seeds, and run it on test seeds; Adam comes first."""
    plain, checks = _checks(curves(problem, methods, validation, [learning_rates] * len(methods), budget))
    fastest = checks.argmin(1).tolist()
    tried = [methods[0], *methods]
    rates = [learning_rates[rate] for rate in (plain, *fastest)]
    losses = curves(problem, tried, test, [[rate] for rate in rates], budget)[:, :, 0]
    target = losses[-5:, 0].mean(0)
    names = [ADAM, "adam_fastest", *(method.name for method in methods[1:])]
    return Measured(problem, dict(zip(names, rates, strict=True)), losses, target, first_checks(losses, target))


def _named(measured: Measured) -> list[tuple[str, Tensor]]:
    """Steps of each method but plain Adam."""
    return list(zip(measured.rates, measured.steps, strict=True))[1:]


def _checks(losses: Tensor) -> tuple[int, Tensor]:
    """Adam's best learning rate, and how soon [methods, rates] its final loss there is reached.

    That is the mean logarithm over seeds. Of a tie, as among those that never reach it, the lowest loss comes first.
    """
    final = losses[-5:, 0].mean(0)  # [rates, seeds]
    plain = int(final.log().mean(1).argmin())
    lowest = losses.amin(0).clamp(1e-30, 1e30).log().mean(2)
    return plain, first_checks(losses, final[plain]).log().mean(2) + 1e-4 * lowest


def _wall_clock(
    measured: Measured, methods: Sequence[Method], seeds: Sequence[int], budget: Budget
) -> list[tuple[float, bool]]:
    """Of each seed, seconds to the target with the nowcaster over without, alone and in PyTorch's own loop.

    And whether the target was reached in as many steps as when all ran together.
    """
    names = list(measured.rates)
    found = []
    for number, seed in enumerate(seeds):
        seconds, last = {}, {}
        for method in methods:
            steps = int(measured.steps[names.index(method.name), number]) * budget.check_every
            seconds[method.name], last[method.name] = _run(measured, method, seed, min(steps, budget.steps), budget)
        reached = last[NOWCASTER] <= float(measured.target[number]) * 1.05
        found.append((seconds[NOWCASTER] / seconds[ADAM], reached))
    return found


def _run(measured: Measured, method: Method, seed: int, steps: int, budget: Budget) -> tuple[float, float]:
    """Seconds of one run, and its loss in the end."""
    problem = measured.problem
    torch.manual_seed(seed)
    model = problem.build()
    generator = torch.Generator().manual_seed(seed)
    inputs, targets = problem.inputs, problem.targets
    optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), measured.rates[method.name])
    begun = time.perf_counter()
    if method.network is not None:
        optimizer = Nowcaster(
            optimizer,
            model,
            method.network,
            period=budget.period,
            interval=budget.interval,
            total_steps=budget.steps,
            horizon=method.horizon,
            example_inputs=problem.inputs[:2],
            loss=lambda: problem.losses(model(inputs)[None], targets[None])[0],
            tolerance=method.tolerance,
        )
    for _ in range(steps):
        if problem.batch_size is not None:
            chosen = torch.randint(len(problem.inputs), (problem.batch_size,), generator=generator)
            inputs, targets = problem.inputs[chosen], problem.targets[chosen]
        optimizer.zero_grad()
        problem.losses(model(inputs)[None], targets[None])[0].backward()
        optimizer.step()
    seconds = time.perf_counter() - begun
    inputs, targets = problem.inputs[: budget.measured], problem.targets[: budget.measured]
    with torch.no_grad():
        return seconds, float(problem.losses(model(inputs)[None], targets[None])[0])


def _rows(measured: Sequence[Measured], times: Sequence[Sequence[tuple[float, bool]]]) -> list[Row]:
    return [
        *_ratios(measured),
        Row.from_values("wall_clock_ratio", [r for each in times for r, _ in each], better="lower"),
        Row.from_values("share_of_timed_runs_at_target", [float(ok) for each in times for _, ok in each]),
    ]


def _ratios(measured: Sequence[Measured], which: str = "") -> list[Row]:
    """Steps of all methods over Adam's own, over all of these tasks and of each."""
    rows = []
    for i, method in enumerate(measured[0].rates):
        if method == ADAM:
            continue
        suffix = "" if method == NOWCASTER else f"_{method}"
        ratios = [each.steps[i] / each.steps[0] for each in measured]
        rows.append(Row.from_values(f"steps_ratio{suffix}{which}", torch.cat(ratios).tolist(), better="lower"))
        for each, values in zip(measured, ratios, strict=True):
            rows.append(Row.from_values(f"steps_ratio{suffix}_{each.problem.name}", values.tolist(), better="lower"))
        reached = torch.cat([each.steps[i] <= len(each.losses) for each in measured]).float()
        rows.append(Row.from_values(f"share_of_targets_reached{suffix}{which}", reached.tolist()))
    return rows


def loss_curves(measured: Sequence[Measured], budget: Budget) -> Any:
    """Training losses of each task, medians over seeds, and the target."""
    figure, _ = canvas(3.4 * len(measured), 4.2)
    figure.clear()
    names = list(measured[0].rates)
    for axes, each in zip(figure.subplots(1, len(measured)), measured, strict=True):
        steps = [budget.check_every * (1 + i) for i in range(len(each.losses))]
        for name, colour in _COLOURS.items():
            middle = each.losses[:, names.index(name)].median(1).values
            label = f"{name.replace('_', ' ')}, learning rate {each.rates[name]:g}"
            axes.plot(steps, middle, color=colour, lw=1.4, label=label, zorder=3 if name == NOWCASTER else 2)
        axes.axhline(float(each.target.median()), color="#999999", lw=0.8, ls=(0, (4, 3)))
        axes.set_yscale("log")
        axes.set_title(each.problem.name.replace("_", " "), loc="left", fontsize=10)
        axes.set_xlabel("steps")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="upper left", bbox_to_anchor=(-0.02, -0.17), **{**LEGEND, "fontsize": 7})
    figure.axes[0].set_ylabel("training loss (median over seeds)")
    return figure
