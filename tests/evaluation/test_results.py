import io
import json
import math
import os
import statistics

import pytest
from rich.console import Console

from hypergen.evaluation import Results, Row
from hypergen.evaluation import results as results_module


@pytest.fixture
def results():
    rows = (
        Row.from_values("predicted_accuracy_mean", [0.9, 1.0], aim=0.9),
        Row("steps_ratio_to_95", 0.5, 0.1, 20, aim=0.3, better="lower"),
        Row("predictions_failed", 2, 0.0, 100, better="lower"),
        Row.from_values("nothing", [], aim=0.1, better="lower"),
    )
    return Results("digits", 3, rows, {"cap": 1000}, commit="abc", machine={"cpu": "a chip", "cores": 2})


def test_summaries():
    row = Row.from_values("figure", [1, 2, 6])
    assert (row.value, row.std, row.n) == (3, pytest.approx(statistics.stdev([1, 2, 6])), 3)
    assert Row.from_values("figure", [1, 2, 6], statistic="median").value == 2
    assert Row.from_values("figure", [4]).std == 0


def test_aims(results):
    met = {row.figure: row.met for row in results.rows}
    assert met == {
        "predicted_accuracy_mean": True,
        "steps_ratio_to_95": False,
        "predictions_failed": None,
        "nothing": False,
    }
    assert Row("steps", 0.3, aim=0.3, better="lower").met


def test_json_round_trip(results, tmp_path):
    results.write(tmp_path / "new" / "folder")
    text = (tmp_path / "new" / "folder" / "results.json").read_text()
    data = json.loads(text)
    assert list(data) == ["name", "seed", "commit", "machine", "rows", "details"]
    assert data["rows"][1] == {
        "figure": "steps_ratio_to_95", "value": 0.5, "std": 0.1, "n": 20, "aim": 0.3, "better": "lower"
    }  # fmt: skip
    assert data["rows"][3]["value"] is None
    again = Results.from_json(text)
    assert again.rows[:3] == results.rows[:3]
    assert math.isnan(again["nothing"].value)
    assert again.to_json() == results.to_json()
    assert "\n" not in results.to_json()


def test_markdown(results):
    lines = results.to_markdown().splitlines()
    assert "| `predicted_accuracy_mean` | 0.950 ± 0.071 | 2 | ≥ 0.900 | yes |" in lines
    assert "| `steps_ratio_to_95` | 0.500 ± 0.100 | 20 | ≤ 0.300 | no |" in lines
    assert any("predictions_failed` | 2 " in line for line in lines)
    assert any("| `nothing` | — | 0 |" in line and line.endswith("no |") for line in lines)
    assert lines[-1] == "Seed 3, commit abc, cpu a chip, cores 2."


def test_table(results):
    console = Console(file=io.StringIO(), width=120)
    results.print_table(console)
    text = console.file.getvalue()
    for row in results.rows:
        assert row.figure in text
    assert "0.950 ± 0.071" in text and "yes" in text and "no" in text


def test_a_failed_write_leaves_the_old_file(results, tmp_path, monkeypatch):
    results.write(tmp_path)
    before = (tmp_path / "results.json").read_text()

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        Results("other", 0, ()).write(tmp_path)
    assert (tmp_path / "results.json").read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.json", "results.md"]


def test_lookup(results):
    assert results["steps_ratio_to_95"].value == 0.5
    assert "steps_ratio_to_95" in results and "steps" not in results
    with pytest.raises(KeyError, match="no figure 'steps'; there are predicted_accuracy_mean"):
        results["steps"]
    with pytest.raises(ValueError, match="twice: a"):
        Results("name", 0, (Row("a", 1), Row("a", 2)))


def test_commit_and_machine(monkeypatch, tmp_path):
    results = Results("name", 0, ())
    assert results.machine["cores"] >= 1 and results.machine["torch"] and results.machine["cpu"]
    machine = results_module.current_commit.__wrapped__.__globals__
    monkeypatch.setitem(machine, "_PACKAGE", tmp_path / "hypergen")  # Neither a checkout nor there.
    assert results_module.current_commit.__wrapped__() == "unknown"


def test_tiny_values_are_not_shown_as_zero():
    assert Row("error", 6.1e-16, aim=1e-9, better="lower").cells() == ("error", "6.1e-16", "1", "≤ 1.0e-09", "yes")
    assert Row("share", 0.0).cells()[1] == "0.000"
