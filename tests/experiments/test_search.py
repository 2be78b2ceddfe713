import json

import pytest
import torch

from hypergen.architectures import Architecture
from hypergen.data import DigitsDataModule

optuna = pytest.importorskip("optuna")
pytest.importorskip("gpytorch")
from experiments.search.run import METHODS, compare_searches, exact_p_value, search, weight_summary  # noqa: E402
from experiments.search.table import SearchProblem  # noqa: E402

SHAPE = {"image_size": 8, "channels": 1, "num_classes": 10, "norm": "none"}


def problem(**options):
    return SearchProblem(
        DigitsDataModule(),
        [Architecture("mlp", {**SHAPE, "widths": widths}) for widths in ([4], [3, 3])],
        **{"learning_rate": [1e-3, 1e-2, 1e-1], "weight_decay": [0.1], "init_scale": [1.0, 2.0], **options},
        train_images=40,
        blocks=2,
        block_steps=3,
    )


@pytest.fixture(scope="module")
def table():
    return problem().table(0)


def test_a_table_knows_the_networks_whose_accuracies_it_has(table):
    assert table.space == {"architecture": 2, "learning_rate": 3, "weight_decay": 1, "init_scale": 2}
    rows = [
        table.row({"architecture": a, "learning_rate": b, "weight_decay": 0, "init_scale": c})
        for a in range(2)
        for b in range(3)
        for c in range(2)
    ]
    assert rows == list(range(12)) and table.validation.shape == (12, 3)
    splits = problem()._draw(0)
    assert [len(splits[name][0]) for name in ("train", "validation", "test")] == [40, 500, 1257]
    for row, block in ((0, 0), (4, 2), (11, 1)):
        network = table.network(row, block)
        for split, accuracies in (("validation", table.validation), ("test", table.test)):
            images, labels = splits[split]
            accuracy = (network(images).argmax(1) == labels).float().mean()
            assert torch.isclose(accuracy, accuracies[row, block], atol=1e-3)


def test_networks_that_diverge_have_the_accuracy_of_chance():
    found = problem(learning_rate=[1e30]).table(0)
    assert torch.allclose(found.validation[:, -1], torch.tensor(0.1))


def test_a_search_pays_for_each_block_once(table):
    for budget in (5, 24):
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(0))
        regrets = search(table, study, budget)
        assert regrets.shape == (budget, 2)
        assert (regrets[:, 1].diff() <= 0).all() and (regrets >= 0).all()
        reports = {(str(trial.params), step) for trial in study.trials for step in trial.intermediate_values}
        assert len(reports) <= budget
    best = table.validation[:, 1:].max()
    assert torch.isclose(regrets[-1, 1], (table.validation.max() - best).double(), atol=1e-6)  # All was affordable.


def test_p_values_are_shares_of_signs():
    assert exact_p_value(torch.tensor([-1.0, -2.0, -3.0])) == 1 / 8
    assert exact_p_value(torch.tensor([1.0, 2.0, 3.0])) == 1.0


def test_the_experiment_writes_what_it_found(tmp_path):
    options = {"name": "search", "output": str(tmp_path), "seed": 0, "seeds": 2, "budget": 5}
    results = compare_searches(
        **options, problem=problem(learning_rate=[1e-3, 1e-2]), aims={"search_regret_minus_tpe_median": 0.0}
    )
    written = json.loads((tmp_path / "results.json").read_text())
    assert [row["figure"] for row in written["rows"]][0] == "search_regret_minus_tpe_median"
    for method in METHODS:
        suffix = "" if method == "weight_aware" else f"_{method}"
        assert results[f"search_regret{suffix}"].n == 2 and results[f"validation_regret{suffix}"].value >= 0
    assert {path.name for path in tmp_path.glob("*.png")} == {"regret_test.png", "regret_validation.png"}
    assert weight_summary(problem().table(0).network(0, 0)).shape == (24,)
