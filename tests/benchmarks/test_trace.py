"""The sweep over networks: what it prints, and that failures and wrong graphs are counted and named."""

import json
from contextlib import suppress

import pytest
import torch
from torch import nn

from benchmarks import trace as benchmark
from benchmarks.sweeps import trace_sweep
from benchmarks.sweeps.trace_sweep import Traced, trace_in_forks
from benchmarks.trace_suites import Case


class Fails(nn.Module):
    def forward(self, x):
        raise KeyError("no such thing")


def refuses():
    raise ValueError("not\nhere")


def vectors():
    return torch.zeros(2, 6)


def dies():
    import os

    os._exit(3)


def cases():
    return [
        Case("good", lambda: nn.Linear(6, 3), vectors, "layer"),
        Case("unbuilt", refuses, vectors, "layer"),
        Case("failing", Fails, vectors, not_run=lambda: ""),
        Case("unrunnable", Fails, vectors, not_run=lambda: "KeyError: there neither"),
        Case("dead", dies, vectors),
    ]


@pytest.mark.parametrize("workers", [1, 3])
def test_figures_and_a_line_per_failure(workers, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(benchmark, "load_suite", lambda name: (cases(), {"other": "not a network"}))
    results = benchmark.main(["--suite", "timm", "--no-cost", "--workers", str(workers), "--output", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert json.loads(lines[-1]) == results.to_dict()
    figures = {row.figure: row.value for row in results.rows}
    assert figures["timm_models_tried"] == 5
    assert figures["timm_models_failed"] == 3
    assert figures["timm_models_not_run"] == 1
    assert results.details["not_run"] == {"timm:unrunnable": "KeyError: there neither"}
    assert any(line.startswith("NOT RUN timm:unrunnable") and "there neither" in line for line in lines)
    assert figures["timm_models_traced"] == figures["timm_models_right"] == figures["timm_traced_on_meta"] == 1
    assert figures["timm_traced_share"] == 0.2
    assert figures["timm_parameters_covered"] == 1
    assert figures["timm_layer_models_tried"] == 2
    assert results.details["excluded"] == {"timm:other": "not a network"}
    failed = {line.split(":")[1]: line for line in lines if line.startswith("FAILED")}
    assert sorted(failed) == ["dead", "failing", "unbuilt"]
    assert "ValueError: not here" in failed["unbuilt"]
    assert "no such thing" in failed["failing"]
    assert "exit code 3" in failed["dead"]
    networks = [json.loads(line) for line in (tmp_path / "networks.jsonl").read_text().splitlines()]
    assert sorted(network["case"] for network in networks) == ["dead", "failing", "good", "unbuilt", "unrunnable"]
    [good] = [network for network in networks if network["case"] == "good"]
    assert good["parameter_values"] == good["covered_values"] == 21


def test_wrong_graphs_are_counted_apart(capsys, monkeypatch):
    monkeypatch.setattr(trace_sweep, "violations", lambda graph, model: ["first", "second"])
    [traced] = benchmark.sweep("timm", cases()[:1])
    assert "WRONG timm:good: first (and 1 more)" in capsys.readouterr().out
    rows = {row.figure: row.value for row in benchmark.rows_of("timm", [traced, Traced("x", failure="why")])}
    assert (rows["timm_models_tried"], rows["timm_models_traced"], rows["timm_models_right"]) == (2, 1, 0)


def test_computing_for_too_long_is_told_from_waiting(monkeypatch):
    monkeypatch.setattr(trace_sweep, "_BUSY", 1000)

    def computes():
        while True:
            pass

    [ended] = trace_in_forks([Case("slow", computes)], limit=1)
    assert ended.failure == "computed for more than 1 s"


def test_what_takes_too_long_is_ended():
    def hangs():
        import time

        time.sleep(60)

    names = ["slow", "slower"]
    ended = list(trace_in_forks([Case(name, hangs) for name in names], workers=2, limit=0.2))
    assert sorted(traced.case for traced in ended) == names
    assert all("more than" in traced.failure for traced in ended)


def test_pytorch_has_to_show_soon_that_it_can_run_what_was_not_traced(monkeypatch):
    monkeypatch.setattr(trace_sweep, "_SECONDS_TO_RUN", 1)

    def runs_forever():
        while True:
            with suppress(Exception):
                sum(range(1000))

    [ended] = trace_in_forks([Case("slow", Fails, vectors, not_run=runs_forever)])
    assert "no such thing" in ended.failure
    assert ended.not_run == ""


@pytest.mark.parametrize(("only", "limit", "chosen"), [("o", None, "good"), ("d", 2, "good dead"), ("", 1, "good")])
def test_part_of_a_suite(only, limit, chosen):
    names = [case.name for case in benchmark._chosen(cases(), only, "", limit)]
    assert names[: len(chosen.split())] == chosen.split()
    assert limit is None or len(names) == limit
