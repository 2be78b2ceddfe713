"""Is a stored graph faster than tracing anew? ``python -m benchmarks.graph_cache`` prints a table and JSON.

Each round traces a network, computes its key, and reads its graph from the disk, in turn; networks live on the meta
device. What a hit costs is the key and the reading.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch

import hypergen
from hypergen.architectures.by_name import build_model
from hypergen.evaluation.results import Results, Row
from hypergen.graph.cache.cache import load_graph, save_graph
from hypergen.graph.cache.fingerprint import fingerprint
from hypergen.graph.inputs import example_arguments

NETWORKS = {
    "resnet50": "torchvision:resnet50",
    "gpt2_small": "hf:gpt2",
    "llama_7b": "hf:llama",
    "swin_large": "timm:swin_large_patch4_window7_224",
}


def cache_rows(name: str, repeats: int, folder: Path) -> list[Row]:
    """Seconds of each task, and a hit's as a share of a trace's, on one network."""
    model = build_model(NETWORKS[name])
    args, kwargs = example_arguments(model)
    key = fingerprint(model, args, kwargs)
    path = folder / f"{name}.json"
    save_graph(hypergen.trace(model, cache=False), path, key)
    seconds: dict[str, list[float]] = defaultdict(list)
    tasks: dict[str, Callable[[], object]] = {
        "trace": lambda: hypergen.trace(model, cache=False),
        "key": lambda: fingerprint(model, args, kwargs),
        "read": lambda: load_graph(path, key),
    }
    for _ in range(repeats):
        for task, run in tasks.items():
            start = time.perf_counter()
            run()
            seconds[task].append(time.perf_counter() - start)
    shares = [
        (key + read) / trace for trace, key, read in zip(seconds["trace"], seconds["key"], seconds["read"], strict=True)
    ]
    rows = [
        Row.from_values(f"{name}_{task}_seconds", values, better="lower", statistic="median")
        for task, values in seconds.items()
    ]
    return [
        *rows,
        Row.from_values(f"{name}_hit_over_trace", shares, aim=1.0, better="lower", statistic="median"),
        Row(f"{name}_file_kilobytes", path.stat().st_size / 1000, better="lower"),
    ]


def main() -> None:
    """Time the cache on the networks that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for name in options.networks for row in cache_rows(name, options.repeats, Path(folder))]
    results = Results("graph_cache", 0, tuple(rows))
    results.print_table()
    print(results.to_json())


if __name__ == "__main__":
    main()
