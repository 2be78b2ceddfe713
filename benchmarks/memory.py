"""How much memory parameters take while they are made."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from rich.progress import track
from torch import nn

import hypergen
from benchmarks.sweeps.fresh_process import in_fresh_process
from benchmarks.sweeps.networks import NETWORKS, benchmarked_generator
from hypergen.evaluation.results import Row

_PROC = Path("/proc/self")
_MEGABYTE = 2**20


def memory_rows(names: Iterable[str], repeats: int) -> list[Row]:
    """Peak memory of prediction and of default initialisation, each in fresh processes, over the parameters' bytes."""
    rows = []
    for name in track(list(names), "Measuring memory", transient=True):
        for task in ("trace_predict", "default"):
            measured = [in_fresh_process(peak_bytes, name, task) for _ in range(repeats)]
            over = [peak / size for peak, size in measured]
            peaks = [peak / _MEGABYTE for peak, _ in measured]
            rows.append(Row.from_values(f"{name}_{task}_peak_megabytes", peaks, better="lower", statistic="median"))
            rows.append(
                Row.from_values(f"{name}_{task}_peak_over_parameters", over, better="lower", statistic="median")
            )
    return rows


def peak_bytes(name: str, task: str) -> tuple[int, int]:
    """By how much a task raises the memory of this process at its peak, and the bytes of the network's parameters."""
    build = NETWORKS[name]
    with torch.device("meta"):
        network = build()
    size = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
    _, generator = benchmarked_generator()
    # Libraries that are loaded on first use are no part of the task.
    hypergen.predict_params(nn.Linear(2, 2), generator)
    before = start_peak()
    made = hypergen.predict_params(network, generator) if task == "trace_predict" else build()
    after = peak()
    del made
    return after - before, size


def start_peak() -> int:
    """Forget the peak so far, where the system can; the memory in use."""
    try:
        (_PROC / "clear_refs").write_text("5")
        return _status("VmRSS")
    except OSError:  # Not Linux, or not allowed: the peak so far is the closest that there is to what is in use.
        return peak()


def peak() -> int:
    """The most memory that this process used since :func:`start_peak`."""
    try:
        return _status("VmHWM")
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(key: str) -> int:
    for line in (_PROC / "status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {key}")
