"""Trace every network of the torchvision, timm, Hugging Face and other suites.

``python -m benchmarks.trace --suite all`` prints a line per failure with its cause, a table, and as its last line the
same figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import track

from benchmarks.sweeps.trace_sweep import Traced, trace_in_forks, warm_up
from benchmarks.trace_suites import SUITES, Case, load_suite
from hypergen.evaluation.results import Results, Row
from hypergen.graph.computational_graph import TracingMode

_WIDTH = 110
_MEGABYTE = 2**20

# Suite → what its median should take; the networks of diffusers have thousands of operations.
_SECONDS = dict.fromkeys(("torchvision", "timm", "transformers", "all"), 0.1)

# Suite or group → how many, and which share, of its networks should be traced.
_NUMBERS = {"torchvision_classification": 80, "transformers_type": 100}
_SHARES = {"torchvision_classification": 1.0, "timm": 0.995}
_NONE_FAILING = ("transformers_type",)


def main(arguments: Sequence[str] | None = None) -> Results:
    """Trace the networks, print a line per failure, the table and, last, its JSON."""
    options = _parser().parse_args(arguments)
    rows: list[Row] = []
    excluded: dict[str, str] = {}
    not_run: dict[str, str] = {}
    if options.cost:
        from benchmarks.trace_cost import cost_rows

        rows += cost_rows()
    everything: list[Traced] = []
    with _log(options.output) as note:
        for suite in SUITES if options.suite == "all" else (options.suite,):
            cases, left_out = load_suite(suite)
            excluded |= {f"{suite}:{name}": reason for name, reason in left_out.items()}
            traced = []
            for network in sweep(suite, _chosen(cases, options.only, options.group, options.limit), options.workers):
                traced.append(network)
                note(suite, network)
            rows += rows_of(suite, traced)
            for group in dict.fromkeys(network.group for network in traced if network.group):
                rows += rows_of(f"{suite}_{group}", [one for one in traced if one.group == group], brief=True)
            everything += traced
            not_run |= {f"{suite}:{network.case}": network.not_run for network in traced if network.not_run}
    if options.suite == "all":
        rows += rows_of("all", everything)
    details = {
        **{key: getattr(options, key) for key in ("suite", "only", "group", "limit", "workers")},
        # Seconds are those of a busy machine where more processes than cores want to run.
        "load_average": os.getloadavg()[1],
        "excluded": excluded,
        "not_run": not_run,
    }
    results = Results("trace", 0, tuple(rows), details)
    if options.output:
        results.write(options.output)
    console = Console()
    results.print_table(console if console.width >= _WIDTH else Console(width=_WIDTH))
    print(results.to_json())
    return results


def sweep(suite: str, cases: Sequence[Case], workers: int = 1) -> Iterator[Traced]:
    """Trace networks; print a line for each that fails or whose graph is not right."""
    warm_up()
    for traced in track(trace_in_forks(cases, workers), f"Tracing {suite}", total=len(cases), transient=True):
        name = f"{suite}:{traced.case}"
        if traced.not_run:
            print(f"NOT RUN {name}: PyTorch cannot run it either: {traced.not_run}", flush=True)
        elif traced.failure:
            print(f"FAILED {name}: {traced.failure}", flush=True)
        elif traced.wrong:
            more = f" (and {len(traced.wrong) - 1} more)" if len(traced.wrong) > 1 else ""
            print(f"WRONG {name}: {traced.wrong[0]}{more}", flush=True)
        yield traced


def rows_of(suite: str, networks: Sequence[Traced], *, brief: bool = False) -> list[Row]:
    """The figures of a suite, or the counts alone of one of its groups."""
    traced = [network for network in networks if not network.failure]
    failed = [network for network in networks if network.failure and not network.not_run]
    right = [network for network in traced if not network.wrong]
    share = len(traced) / len(networks) if networks else float("nan")
    rows = [
        Row(f"{suite}_models_tried", len(networks)),
        Row(f"{suite}_models_not_run", sum(bool(network.not_run) for network in networks), better="lower"),
        Row(f"{suite}_models_failed", len(failed), aim=0 if suite in _NONE_FAILING else None, better="lower"),
        Row(f"{suite}_models_traced", len(traced), aim=_NUMBERS.get(suite)),
        Row(f"{suite}_models_right", len(right)),
        Row(f"{suite}_traced_share", share, n=len(networks), aim=_SHARES.get(suite)),
    ]
    if brief:
        return rows
    values = sum(network.parameter_values for network in traced)
    covered = sum(network.covered_values for network in traced)
    seconds = [network.seconds for network in traced]
    cpu_seconds = [network.cpu_seconds for network in traced]
    modes = Counter(network.mode for network in traced)
    row = Row.from_values
    return [
        *rows,
        Row(f"{suite}_parameters_covered", covered / values if values else float("nan"), n=len(traced)),
        Row(f"{suite}_models_with_unused_parameters", sum(bool(network.unused) for network in traced), better="lower"),
        *(Row(f"{suite}_traced_on_{mode.replace(' ', '_')}", modes[mode]) for mode in TracingMode),
        row(f"{suite}_seconds_median", seconds, aim=_SECONDS.get(suite), better="lower", statistic="median"),
        Row(f"{suite}_seconds_p95", _percentile(seconds, 95), n=len(seconds), better="lower"),
        Row(f"{suite}_seconds_max", max(seconds, default=float("nan")), n=len(seconds), aim=10.0, better="lower"),
        row(f"{suite}_cpu_seconds_median", cpu_seconds, better="lower", statistic="median"),
        Row(f"{suite}_cpu_seconds_p95", _percentile(cpu_seconds, 95), n=len(seconds), better="lower"),
        Row(f"{suite}_cpu_seconds_max", max(cpu_seconds, default=float("nan")), n=len(seconds), better="lower"),
        Row(
            f"{suite}_peak_megabytes_max",
            max((network.peak_bytes / _MEGABYTE for network in traced), default=float("nan")),
            n=len(traced),
            aim=2048.0,
            better="lower",
        ),
    ]


@contextmanager
def _log(folder: Path | None) -> Iterator[Callable[[str, Traced], None]]:
    """Writes a line per network as it is traced: the whole sweep takes half an hour."""
    if folder is None:
        yield lambda suite, network: None
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "networks.jsonl").open("w", encoding="utf-8") as file:
        yield lambda suite, network: print(json.dumps({"suite": suite, **asdict(network)}), file=file, flush=True)


def _percentile(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1] if len(values) > 1 else float("nan")


def _chosen(cases: Iterable[Case], pattern: str, group: str, limit: int | None) -> list[Case]:
    """The cases whose name and group fit, at most ``limit``, spread evenly over the suite."""
    fitting = [case for case in cases if re.search(pattern, case.name) and group in ("", case.group)]
    if limit is None or limit >= len(fitting):
        return fitting
    return [fitting[i * len(fitting) // limit] for i in range(limit)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks.trace", description=__doc__)
    add = parser.add_argument
    add("--suite", choices=(*SUITES, "all"), default="all", help="which networks")
    add("--only", default="", metavar="PATTERN", help="a regular expression that names have to contain")
    add("--group", default="", help="one group of the suite, as classification or type")
    add("--limit", type=int, help="at most so many networks per suite, spread over it")
    add("--workers", type=int, default=1, help="networks that are traced at a time")
    add("--no-cost", dest="cost", action="store_false", help="leave out ResNet-50's and ten billion parameters' cost")
    add("--output", type=Path, help="a folder for results.json, results.md and networks.jsonl, a line per network")
    return parser


if __name__ == "__main__":
    main()
