import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torchvision")

ROOT = Path(__file__).parents[2]
TASKS = ("default", "build_meta", "trace", "predict", "trace_predict")


def _run(*options):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.main", "--networks", "mobilenet_v3_large", *options],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    *table, last = done.stdout.splitlines()
    return "\n".join(table), json.loads(last)


def test_prediction_and_memory_are_measured_beside_default_initialisation(tmp_path):
    table, printed = _run("--repeats", "1", "--memory-repeats", "1", "--steps", "0", "--output", str(tmp_path))
    rows = {row["figure"]: row for row in printed["rows"]}
    name = "mobilenet_v3_large"
    for task in TASKS:
        assert rows[f"{name}_{task}_seconds"]["value"] > 0
    ratio = rows[f"{name}_trace_predict_over_default"]
    assert (ratio["aim"], ratio["better"], ratio["n"]) == (1.0, "lower", 1)
    for task in ("trace_predict", "default"):
        # All parameters have to be somewhere in the end.
        assert rows[f"{name}_{task}_peak_over_parameters"]["value"] > 0.9
    assert all(figure in table for figure in rows)
    assert printed["details"]["networks"] == [name]
    assert json.loads((tmp_path / "results.json").read_text()) == printed


def test_training_is_measured_beside_a_plain_loop():
    _, printed = _run("--repeats", "0", "--memory-repeats", "0", "--steps", "2", "--plain-steps", "1")
    rows = {row["figure"]: row for row in printed["rows"]}
    assert rows.keys() == {
        "network_updates_per_second",
        "plain_loop_network_updates_per_second",
        "network_updates_over_plain_loop",
    }
    assert all(row["value"] > 0 for row in rows.values())
    assert rows["network_updates_per_second"]["aim"] == 120
