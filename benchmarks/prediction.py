"""How long parameters take: traced and predicted, against the network's own default initialisation."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from rich.progress import track

import hypergen
from benchmarks.sweeps.networks import NETWORKS, benchmarked_generator
from hypergen.evaluation.results import Row


def prediction_rows(names: Iterable[str], repeats: int) -> list[Row]:
    """Time every network; see :func:`time_network` and :func:`rows_of`."""
    rows = []
    for name in track(list(names), "Timing predictions", transient=True):
        rows += rows_of(name, time_network(name, repeats))
    return rows


def time_network(name: str, repeats: int) -> dict[str, list[float]]:
    """Seconds of each task on one network; the tasks take turns, so that a busy machine is busy for all of them.

    - ``default``: the module is built on the CPU, with its own initialisation: the baseline.
    - ``build_meta``: it is built on the meta device, without values: what of ``default`` is not initialisation.
    - ``trace``: module on the meta device → computational graph.
    - ``predict``: computational graph → checked parameters.
    - ``trace_predict``: module on the meta device → checked parameters, :func:`hypergen.predict_params`.
    """
    build = NETWORKS[name]
    _, generator = benchmarked_generator()

    def build_meta() -> torch.nn.Module:
        with torch.device("meta"):
            return build()

    def predict() -> Any:
        with torch.no_grad():
            return generator.generate(graph)

    network = build_meta()
    graph = hypergen.trace(network)
    tasks: dict[str, Callable[[], Any]] = {
        "default": build,
        "build_meta": build_meta,
        "trace": lambda: hypergen.trace(network),
        "predict": predict,
        "trace_predict": lambda: hypergen.predict_params(network, generator),
    }
    seconds: dict[str, list[float]] = {task: [] for task in tasks}
    for repeat in range(repeats + 1):
        for task, run in tasks.items():
            elapsed = _seconds(run)
            if repeat:  # The first round loads libraries and fills caches.
                seconds[task].append(elapsed)
    return seconds


def rows_of(name: str, seconds: dict[str, list[float]]) -> list[Row]:
    """Medians and their spread; ratios are those of the tasks of one round."""
    rows = [
        Row.from_values(f"{name}_{task}_seconds", values, better="lower", statistic="median")
        for task, values in seconds.items()
    ]
    pairs = list(zip(seconds["trace_predict"], seconds["default"], seconds["build_meta"], strict=True))
    ratio = [predicted / default for predicted, default, _ in pairs]
    # From nothing to a network with parameters, on both sides: the one that is predicted is built on the meta device.
    whole = [(meta + predicted) / default for predicted, default, meta in pairs]
    rows.append(
        Row.from_values(f"{name}_trace_predict_over_default", ratio, aim=1.0, better="lower", statistic="median")
    )
    rows.append(Row.from_values(f"{name}_build_trace_predict_over_default", whole, better="lower", statistic="median"))
    # What initialisation alone takes can't be timed directly; the difference of medians is steadier than of pairs.
    alone = statistics.median(seconds["default"]) - statistics.median(seconds["build_meta"])
    over = statistics.median(seconds["trace_predict"]) / alone if alone > 0 else float("nan")
    rows.append(Row(f"{name}_trace_predict_over_initialisation_alone", over, n=len(pairs), better="lower"))
    return rows


def _seconds(run: Callable[[], Any]) -> float:
    gc.collect()  # Or a collection of everything that was loaded falls into one task by chance.
    start = time.perf_counter()
    result = run()
    elapsed = time.perf_counter() - start
    del result  # Freeing memory is no part of the task.
    return elapsed
