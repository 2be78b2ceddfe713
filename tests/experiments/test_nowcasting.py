import dataclasses
import json
import math
from functools import partial

import pytest
import pytorch_lightning as pl
import torch

from experiments.nowcasting.run import Seeds, train_nowcasting
from experiments.nowcasting.runs import Budget, Method, StackedAdam, curves, first_checks, trajectory
from experiments.nowcasting.tasks import digits_problems, earlier_problems, unseen_problems
from hypergen.metanets.nowcasting.nowcaster import LinearExtrapolation
from hypergen.metanets.nowcasting.optimizer import Nowcaster
from hypergen.metanets.nowcasting.training import NowcastingTraining
from hypergen.metanets.nowcasting.trend import TrendMLP

BUDGET = Budget(steps=20, period=10, interval=2, check_every=5)


def alone(problem, seed, rate, network=None, steps=20, **settings):
    torch.manual_seed(seed)
    model = problem.build()
    optimizer = torch.optim.Adam(model.parameters(), rate)
    if "loss" in settings:
        settings["loss"] = lambda: problem.losses(model(inputs)[None], targets[None])[0]
    if network is not None:
        optimizer = Nowcaster(optimizer, model, network, period=10, interval=2, total_steps=20, **settings)
    generator = torch.Generator().manual_seed(seed)
    inputs, targets = problem.inputs, problem.targets
    for _ in range(steps):
        if problem.batch_size is not None:
            chosen = torch.randint(len(problem.inputs), (problem.batch_size,), generator=generator)
            inputs, targets = problem.inputs[chosen], problem.targets[chosen]
        optimizer.zero_grad()
        problem.losses(model(inputs)[None], targets[None])[0].backward()
        optimizer.step()
    return model


def in_double_precision(problem):
    def double(tensor):
        return tensor.double() if tensor.is_floating_point() else tensor

    return dataclasses.replace(
        problem,
        build=lambda: problem.build().double(),
        inputs=double(problem.inputs),
        targets=double(problem.targets),
    )


@pytest.mark.parametrize("number", range(6))
def test_stacked_runs_are_runs_of_adam(number):
    # In float64: Adam turns the rounding of gradients near zero into whole steps.
    problem = in_double_precision([*unseen_problems(), *earlier_problems()][number])
    runs = StackedAdam(problem, [3, 4], [1e-2, 3e-3], [math.inf] * 2)
    for _ in range(20):
        runs.step()
    expected = alone(problem, 4, 3e-3)
    for name, value in expected.named_parameters():
        torch.testing.assert_close(runs.views(runs.weights)[name][1], value, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("tolerance", [None, 1.5, 0.0])
def test_stacked_jumps_are_those_of_the_optimizer(tolerance):
    problem = unseen_problems()[1]
    network = LinearExtrapolation()
    methods = [Method("adam"), Method("linear", network, 30, tolerance=tolerance)]
    found = curves(problem, methods, [5], [[1e-2], [1e-2]], BUDGET)
    settings = {} if tolerance is None else {"loss": True, "tolerance": tolerance}
    for i, used in enumerate((None, network)):
        model = alone(problem, 5, 1e-2, used, horizon=30, **settings)
        loss = problem.losses(model(problem.inputs)[None], problem.targets[None])
        torch.testing.assert_close(found[-1, i, 0], loss, atol=1e-4, rtol=1e-2)
    assert found[0, 0] == found[0, 1] and (found[-1, 0] != found[-1, 1]) == (tolerance != 0.0)


def test_a_decayed_learning_rate_ends_at_zero():
    runs = StackedAdam(unseen_problems()[1], [0], [1e-2], [5.0])
    for _ in range(5):
        runs.step()
    before = runs.weights
    runs.step()
    assert torch.equal(runs.weights, before)


def test_courses_keep_every_state_and_leave_out_what_diverged():
    problem = digits_problems(1, seed=0)[0]
    states = trajectory(problem, [0, 1, 2], [1e-3, math.inf, 1e-2], BUDGET)
    assert all(value.shape[:2] == (11, 2) for value in states.values())
    first = next(iter(states.values()))
    assert not torch.equal(first[0], first[1])


def test_tasks_are_what_they_say():
    tasks = digits_problems(12, seed=0)
    assert [task.name.split("-")[0] for task in tasks[:3]] == ["classes", "pixels", "tokens"]
    again = digits_problems(12, seed=0)
    assert all(torch.equal(a.targets, b.targets) for a, b in zip(tasks, again, strict=True))
    seen = {tuple(tuple(p.shape) for p in task.build().parameters()) for task in tasks}
    for problem in [*unseen_problems(), *earlier_problems()]:
        assert tuple(tuple(p.shape) for p in problem.build().parameters()) not in seen


def test_first_checks():
    losses = torch.tensor([[3.0, 3.0], [1.0, 3.0], [2.0, 3.0]])
    assert first_checks(losses, torch.tensor([1.5, 1.5])).tolist() == [2, 4]


def test_the_experiment_end_to_end(tmp_path):
    results = train_nowcasting(
        name="nowcasting",
        output=str(tmp_path),
        seed=0,
        network=partial(TrendMLP, hidden=4),
        training=partial(NowcastingTraining, steps=5),
        trainer=partial(pl.Trainer, accelerator="cpu", logger=False, enable_checkpointing=False, barebones=False),
        seeds=Seeds(tasks=3, runs=2, validation_tasks=1, validation=1, test=1, timed=1),
        budget=BUDGET,
        learning_rates=(3e-3, 1e-2),
        horizons=(1, 4),
        linear_horizons=(1,),
        aims={"steps_ratio": 0.6},
    )
    assert results["steps_ratio"].n == 3 and results["wall_clock_ratio"].n == 3
    assert results["steps_ratio_earlier_tasks"].n == 3 and results["steps_ratio_linear_wine"].n == 1
    assert results["steps_ratio_adam_fastest"].n == 3 and results["steps_ratio"].aim == 0.6
    written = json.loads((tmp_path / "results.json").read_text())
    assert set(written["details"]["learning_rates"]) == {"wine", "diabetes", "topics", "picture", "cancer", "text"}
    assert (tmp_path / "earlier_losses.png").exists()
    assert (tmp_path / "losses.png").stat().st_size > 10_000 and (tmp_path / "nowcaster.pt").exists()
