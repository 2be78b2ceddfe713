import math

import pytest
import torch
from torch import nn

from hypergen.errors import HypergenError

optuna = pytest.importorskip("optuna")
pytest.importorskip("gpytorch")
from hypergen.metanets.hyperparameter_search.sampler import (  # noqa: E402
    WeightAwarePruner,
    WeightAwareSampler,
    earlier_step,
    log_expected_improvement,
    report_weights,
)
from hypergen.metanets.hyperparameter_search.weight_features import WeightFeatures  # noqa: E402

optuna.logging.set_verbosity(optuna.logging.WARNING)


def study_of(blocks, direction="maximize", **options):
    sampler = WeightAwareSampler(blocks, **{"startup": 4, "candidates": 30, "fit_steps": 5, **options})
    return optuna.create_study(direction=direction, sampler=sampler, pruner=WeightAwarePruner(sampler))


def curve(x, step):
    """A training that is the better the nearer ``x`` is to .7, which one sees from the start."""
    return (1 - (x - 0.7) ** 2) * (1 - 0.5 ** (step + 1))


def lookup(blocks, log, sign=1):
    def objective(trial):
        x = trial.suggest_float("x", 0, 1)
        trial.suggest_categorical("kind", ["a", "b"])
        earlier = earlier_step(trial)
        for step in range(0 if earlier is None else earlier + 1, blocks):
            log.append((x, trial.params["kind"], step))
            trial.report(sign * curve(x, step), step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return sign * curve(x, blocks - 1)

    return objective


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_spends_on_what_promises_most_and_trains_no_block_twice(direction):
    log: list = []
    study = study_of(3, direction, fit_steps=10)
    study.optimize(lookup(3, log, 1 if direction == "maximize" else -1), n_trials=16)
    assert len(set(log)) == len(log)
    complete = [trial.params["x"] for trial in study.trials if trial.state.name == "COMPLETE"]
    assert complete and abs(study.best_trial.params["x"] - 0.7) < 0.15
    # Of random settings, two in five would be so near.
    late = [x for x, _, step in log if step > 0]
    assert sum(abs(x - 0.7) < 0.2 for x in late) > 0.7 * len(late)


def test_stopped_trainings_go_on_unless_told_otherwise():
    for resume in (True, False):
        log: list = []
        study = study_of(4, resume=resume)
        study.optimize(lookup(4, log), n_trials=10)
        settings = [(trial.params["x"], trial.params["kind"]) for trial in study.trials]
        assert (len(set(settings)) < len(settings)) == resume


def test_a_user_plugs_it_into_a_study_of_real_trainings():
    torch.manual_seed(0)
    inputs = torch.randn(64, 4)
    labels = (inputs[:, 0] * inputs[:, 1] > 0).long()
    features = WeightFeatures(features=5, hidden=8, example_inputs=inputs[:2])
    checkpoints, trained = {}, []

    def objective(trial):
        width, rate = trial.suggest_int("width", 2, 8), trial.suggest_float("rate", 1e-3, 1.0, log=True)
        model = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 2))
        earlier = earlier_step(trial)
        if earlier is not None:
            model.load_state_dict(checkpoints[width, rate])
        optimizer = torch.optim.SGD(model.parameters(), rate)
        for step in range(0 if earlier is None else earlier + 1, 4):
            for _ in range(5):
                loss = nn.functional.cross_entropy(model(inputs), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            trained.append((width, rate, step))
            checkpoints[width, rate] = model.state_dict()
            report_weights(trial, model, step, features)
            trial.report(-loss.item(), step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return -loss.item()

    study = study_of(4)
    study.optimize(objective, n_trials=8)
    assert len(set(trained)) == len(trained)
    first = study.trials[0]
    assert len(first.user_attrs["hypergen:weights:0"]) == 5
    assert study.sampler._forecast.weights == 5
    # Another process that opens the study knows all of it.
    again = WeightAwareSampler(4, startup=4, candidates=10, fit_steps=2)
    study.sampler, study.pruner = again, WeightAwarePruner(again)
    study.optimize(objective, n_trials=2)
    assert again._forecast.weights == 5 and len(set(trained)) == len(trained)


def test_values_that_are_not_finite_count_as_the_worst():
    def objective(trial):
        x = trial.suggest_float("x", 0, 1)
        for step in range(3):
            trial.report(x if x < 0.5 else math.nan, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return x

    study = study_of(3)
    study.optimize(objective, n_trials=14)
    assert sum(trial.params["x"] < 0.5 for trial in study.trials[-6:]) >= 5


def test_everything_trained_is_trained_again_rather_than_failing():
    def objective(trial):
        x = trial.suggest_int("x", 0, 1)
        trial.report(float(x), 0)
        return float(x)

    study = study_of(1, startup=2)
    study.optimize(objective, n_trials=5)
    assert {trial.params["x"] for trial in study.trials} == {0, 1}


def test_expected_improvement_is_the_mean_of_what_is_above():
    mean, deviation, best = torch.tensor([[0.0, 1.0, -1.0, 0.5], [1.0, 0.5, 2.0, 0.1], [0.5] * 4]).double()
    draws = mean + deviation * torch.randn(400_000, 4, generator=torch.Generator().manual_seed(0)).double()
    found = log_expected_improvement(mean, deviation, best).exp()
    assert torch.allclose(found, (draws - best).clamp_min(0).mean(0), rtol=0.02)
    far = log_expected_improvement(torch.linspace(-80, -4.9, 400).double(), torch.ones(400), torch.zeros(400))
    assert far.isfinite().all() and (far.diff() > 0).all()


def test_bad_input_is_named():
    with pytest.raises(HypergenError, match="blocks=0"):
        WeightAwareSampler(0)
    study = study_of(3)
    trial = study.ask()
    with pytest.raises(HypergenError, match="step 2 are not finite"):
        report_weights(trial, nn.Linear(1, 1), 2, lambda _: torch.tensor([1.0, torch.nan]))
    assert not trial.user_attrs

    def longer(trial):
        trial.suggest_float("x", 0, 1)
        report_weights(trial, nn.Linear(1, 1), 0, lambda _: torch.ones(1 + trial.number))
        trial.report(0.0, 0)
        trial.should_prune()
        return 0.0

    with pytest.raises(HypergenError, match="features of one kind"):
        study_of(2).optimize(longer, n_trials=8)
    with pytest.raises(HypergenError, match="trial.report"):
        study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=8)
