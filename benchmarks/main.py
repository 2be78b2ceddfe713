"""Time hypergen: tracing and predicting against default initialisation, memory, and training.

``python -m benchmarks.main`` prints a table, and as its last line the same figures as JSON.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.memory import memory_rows
from benchmarks.prediction import prediction_rows
from benchmarks.sweeps.networks import NETWORKS, benchmarked_generator
from hypergen.evaluation.results import Results, Row

_WIDTH = 110


def main(arguments: Sequence[str] | None = None) -> Results:
    """Run the benchmarks, print their table and, last, its JSON."""
    options = _parser().parse_args(arguments)
    rows: list[Row] = []
    if options.steps and options.plain_steps:
        from benchmarks.training import training_rows

        rows += training_rows(options.steps, options.plain_steps)
    if options.repeats:
        rows += prediction_rows(options.networks, options.repeats)
    if options.memory_repeats:
        rows += memory_rows(options.networks, options.memory_repeats)
    details = {
        "generator": benchmarked_generator()[0],
        "threads": torch.get_num_threads(),
        **{key: value for key, value in vars(options).items() if key != "output"},
    }
    results = Results("benchmarks", 0, tuple(rows), details)
    if options.output:
        results.write(options.output)
    console = Console()
    # Where the output is a file, Rich takes 80 columns and would cut the names off.
    results.print_table(console if console.width >= _WIDTH else Console(width=_WIDTH))
    print(results.to_json())
    return results


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks.main", description=__doc__)
    add = parser.add_argument
    add("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="networks to predict")
    add("--repeats", type=int, default=7, help="rounds of timing per network; 0 leaves the timing out")
    add("--memory-repeats", type=int, default=3, help="fresh processes per network and task; 0 leaves memory out")
    add("--steps", type=int, default=400, help="training steps; 0 leaves training out")
    add("--plain-steps", type=int, default=100, help="steps of the plain loop, before and after; 0 leaves training out")
    add("--output", type=Path, help="a folder for results.json and results.md")
    return parser


if __name__ == "__main__":
    main()
