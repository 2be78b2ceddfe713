import csv
import re

import pytest
import torch

from hypergen.errors import GeneratorError
from hypergen.evaluation import AIMS, Results, evaluate_image_classifier_generator
from hypergen.evaluation.image_classifiers.figures import rows_of, worst_decile
from hypergen.evaluation.image_classifiers.records import ArchitectureRecord


@pytest.fixture(scope="module")
def evaluate(digits, splits, baselines):
    def run(generator, workers=0, **options):
        return evaluate_image_classifier_generator(
            generator, digits, splits=splits, workers=workers, baselines=baselines, progress=False, **options
        )

    return run


@pytest.fixture(scope="module")
def of_trained(evaluate, trained):
    return evaluate(trained)


@pytest.fixture(scope="module")
def of_untrained(evaluate, untrained):
    return evaluate(untrained)


class Bad:
    """A generator that does one thing wrong."""

    def __init__(self, how):
        self.how = how

    def generate(self, target, *, example_inputs):
        if self.how == "error":
            raise GeneratorError("cannot serve this")
        values = {name: torch.zeros(value.shape) for name, value in target.named_parameters()}
        first = next(iter(values))
        if self.how == "not finite":
            values[first][..., 0] = float("nan")
        if self.how == "shape":
            values[first] = torch.zeros(3)
        if self.how == "missing":
            del values[first]
        if self.how == "blows up":
            values = {name: torch.full_like(value, 1e30) for name, value in values.items()}
        return values


def test_trained_parameters_beat_default_ones(of_trained, of_untrained):
    good, bad = of_trained.results, of_untrained.results
    assert good["predicted_accuracy_mean"].value > 0.9 > 0.4 > bad["predicted_accuracy_mean"].value
    for split in ("wide", "no_norm"):
        assert good[f"predicted_accuracy_{split}"].value > 0.9 > bad[f"predicted_accuracy_{split}"].value
    assert good["steps_ratio_to_95"].value < 0.3
    assert good["steps_ratio_to_95"].met and not bad["steps_ratio_to_95"].met
    assert good["share_of_parameters_predicted"].value == 1.0
    assert good["predictions_failed"].value == 0
    # The baselines do not depend on the generator.
    for figure in ("default_accuracy_mean", "default_ridge_head_mean", "trained_5_epochs_mean", "trained_1_epoch_wide"):
        assert good[figure] == bad[figure]


def test_default_parameters_are_the_default_baseline(of_untrained):
    for record in of_untrained.records:
        assert (record.predicted, record.predicted_ridge_head) == (record.default, record.default_ridge_head)
    for entry in of_untrained.steps:
        assert entry.predicted == entry.default and entry.ratio == 1
    assert of_untrained.results["steps_ratio_to_95"].value == 1


def test_workers_change_nothing(evaluate, trained, of_trained):
    parallel = evaluate(trained, workers=2)
    assert parallel.records == of_trained.records
    assert parallel.steps == of_trained.steps
    assert parallel.results.rows == of_trained.results.rows


def test_rows(of_trained):
    names = [row.figure for row in of_trained.results.rows]
    expected = {
        "predicted_accuracy_mean", "predicted_accuracy_worst_decile", "predicted_accuracy_wide",
        "predicted_accuracy_no_norm", "share_of_parameters_predicted", "distinct_value_share", "steps_ratio_to_95",
        "default_accuracy_mean", "default_ridge_head_mean", "predicted_ridge_head_mean", "trained_1_epoch_mean",
        "trained_5_epochs_mean", "default_ridge_head_wide", "steps_to_95_predicted_median", "steps_ratio_excluded",
    }  # fmt: skip
    assert expected <= set(names)
    assert "predicted_accuracy_deep" not in names
    aims = {row.figure: row.aim for row in of_trained.results.rows if row.aim is not None}
    assert aims == {name: aim for name, aim in AIMS["five_minutes"].items() if name in names}
    assert set(names[: len(aims)]) == set(aims)  # What was asked for comes first.
    assert all(row.n > 0 for row in of_trained.results.rows)


def test_release_aims(evaluate, untrained):
    evaluation = evaluate(untrained, aims="release", architectures_per_split=1)
    assert evaluation.results["predicted_accuracy_mean"].aim == 0.95
    assert [record.split for record in evaluation.records] == ["test", "wide", "no_norm"]
    with pytest.raises(ValueError, match="unknown aims 'best'"):
        evaluate(untrained, aims="best")


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("error", "GeneratorError: cannot serve this"),
        ("not finite", "not finite"),
        ("shape", r"expected \[64, 64\]"),
        ("blows up", None),
    ],
)
def test_a_bad_generator_gets_bad_figures(evaluate, how, reason):
    evaluation = evaluate(Bad(how))
    results = evaluation.results
    assert results["predicted_accuracy_mean"].value < 0.2
    assert not any(row.met for row in results.rows if row.figure.startswith("predicted_accuracy"))
    assert results["steps_ratio_to_95"].value > 1
    assert results["steps_to_95_predicted_never"].value == 2
    if reason is not None:
        assert results["predictions_failed"].value == len(evaluation.records)
        assert results["share_of_parameters_predicted"].value == 0
        assert not results["share_of_parameters_predicted"].met
        assert all(record.predicted == 0 for record in evaluation.records)
        assert re.search(reason, evaluation.records[0].failure)


def test_parameters_left_out_lower_the_share(evaluate):
    results = evaluate(Bad("missing"), architectures_per_split=1).results
    assert results["share_of_parameters_predicted"].value < 0.9
    assert results["predictions_failed"].value == 0
    assert results["distinct_value_share"].value < 0.01


def test_an_error_that_is_a_bug_is_not_a_figure(evaluate):
    class Broken:
        def generate(self, target, *, example_inputs):
            raise KeyError("bug")

    for workers in (0, 2):
        with pytest.raises(KeyError, match="bug"):
            evaluate(Broken(), workers=workers)


def test_a_module_is_evaluated_in_evaluation_mode(evaluate, untrained):
    class Module(torch.nn.Module):
        def generate(self, target, *, example_inputs):
            assert not self.training and not torch.is_grad_enabled()
            return untrained.generate(target, example_inputs=example_inputs)

    module = Module().train()
    evaluate(module, architectures_per_split=1)
    assert module.training


def test_worst_decile():
    values = [index / 100 for index in range(100)]
    assert worst_decile(values[::-1]) == values[:10]
    assert worst_decile([0.3, 0.2, 0.9]) == [0.2]

    def record(accuracy):
        return ArchitectureRecord("test", "a", "mlp", 9, accuracy, 0, 0, 0, None, None, None, 1, 1)

    rows = {row.figure: row for row in rows_of([record(value) for value in values], [], 0, {})}
    assert rows["predicted_accuracy_worst_decile"].value == pytest.approx(0.045)
    assert rows["predicted_accuracy_worst_decile"].n == 10
    assert rows["predicted_accuracy_mean"].value == pytest.approx(0.495)
    assert "trained_5_epochs_mean" not in rows and "steps_ratio_to_95" not in rows


def test_files(of_trained, tmp_path):
    plots = of_trained.write(tmp_path)
    names = {"accuracy_by_split.png", "accuracy_by_family.png", "accuracy_by_size.png", "learning_curves.png"}
    assert {path.name for path in plots} == names
    assert all(path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000 for path in plots)
    assert {path.name for path in tmp_path.iterdir()} == names | {
        "results.json", "results.md", "architectures.csv", "steps.csv"
    }  # fmt: skip
    rows = list(csv.DictReader((tmp_path / "architectures.csv").open()))
    assert [row["name"] for row in rows] == [record.name for record in of_trained.records]
    assert [float(row["predicted"]) for row in rows] == pytest.approx(
        [record.predicted for record in of_trained.records], abs=1e-6
    )
    assert rows[-1]["trained_5_epochs"] == ""
    assert len(list(csv.DictReader((tmp_path / "steps.csv").open()))) == 2
    again = Results.from_json((tmp_path / "results.json").read_text())
    assert again.rows == of_trained.results.rows
