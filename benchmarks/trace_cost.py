"""What a graph costs: ResNet-50's beside a training step, and that of a network of ten billion parameters."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import nn

import hypergen
from benchmarks.memory import peak, start_peak
from benchmarks.sweeps.fresh_process import in_fresh_process
from hypergen.evaluation.results import Row

_MEGABYTE = 2**20
_ROUNDS = 7


def cost_rows() -> list[Row]:
    """The rows of both."""
    return [*in_fresh_process(beside_a_step), *_ten_billion()]


def beside_a_step() -> list[Row]:
    """Graph and shortest-path matrix of ResNet-50 against one forward and backward pass at batch 1, taking turns."""
    model = torchvision.models.resnet50(weights=None)
    image, label = torch.randn(1, 3, 224, 224), torch.tensor([3])
    model.eval()  # with a batch of one, the statistics of a batch norm are those of one image

    def graph() -> None:
        hypergen.trace(model, image).shortest_paths()

    def step() -> None:
        model.zero_grad()
        nn.functional.cross_entropy(model(image), label).backward()

    seconds: dict[str, list[float]] = {"graph": [], "step": []}
    for number in range(_ROUNDS + 1):
        for name, run in (("graph", graph), ("step", step)):
            elapsed = _seconds(run)
            if number:  # the first round loads libraries and fills caches
                seconds[name].append(elapsed)
    ratios = [graph / step for graph, step in zip(seconds["graph"], seconds["step"], strict=True)]
    row = Row.from_values
    return [
        row("resnet50_graph_and_paths_seconds", seconds["graph"], better="lower", statistic="median"),
        row("resnet50_forward_backward_seconds", seconds["step"], better="lower", statistic="median"),
        row("resnet50_graph_over_forward_backward", ratios, aim=0.25, better="lower", statistic="median"),
    ]


def _ten_billion() -> list[Row]:
    seconds, peak_bytes, parameters = in_fresh_process(trace_ten_billion)
    return [
        Row("ten_billion_parameters", parameters, better="higher"),
        Row("ten_billion_seconds", seconds, aim=10.0, better="lower"),
        Row("ten_billion_peak_megabytes", peak_bytes / _MEGABYTE, aim=2048.0, better="lower"),
    ]


def trace_ten_billion() -> tuple[float, int, int]:
    """Seconds and peak memory, in bytes, of tracing a Llama of ten billion parameters, whose number is the third."""
    from transformers import LlamaConfig, LlamaForCausalLM

    hypergen.trace(nn.Linear(2, 2))  # what is loaded on first use is no part of it
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=48))
    before = start_peak()
    elapsed = _seconds(lambda: hypergen.trace(model))
    return elapsed, peak() - before, sum(parameter.numel() for parameter in model.parameters())


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
