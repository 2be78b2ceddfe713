"""Adapters as data: inspecting many of 7B shapes, merging over ranks, and the cost of the canonical form.

``python -m benchmarks.adapters`` prints a table and, as its last line, the figures as JSON. The adapters are drawn at
random; nothing is downloaded. ``--adapters 100 --layers 32 --size 4096`` are the shapes of the table.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import save_file

from hypergen.adapters import LowRank, inspect_adapters, nearest, write_inspection
from hypergen.evaluation.results import Results, Row

KINDS = ("q_proj", "k_proj", "v_proj", "o_proj")


def write_random_adapters(folder: Path, adapters: int, layers: int, size: int, rank: int, seed: int) -> None:
    """Write PEFT folders with every projection of attention; factors in bfloat16, as most are stored."""
    random = torch.Generator().manual_seed(seed)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": list(KINDS)}
    config["base_model_name_or_path"] = "seven_billion"
    # Fewer draws than numbers: what is measured is reading and arithmetic, not the generator of random numbers.
    pool = torch.randn(2 * size * rank, generator=random).bfloat16()
    for number in range(adapters):
        state = {}
        for layer in range(layers):
            for kind in KINDS:
                name = f"base_model.model.model.layers.{layer}.self_attn.{kind}"
                start = int(torch.randint(size * rank, (2,), generator=random)[0])
                values = pool.roll(start)
                state[f"{name}.lora_A.weight"] = values[: size * rank].view(rank, size).clone()
                state[f"{name}.lora_B.weight"] = values[size * rank :].view(size, rank).clone()
        own = folder / f"adapter_{number:03d}"
        own.mkdir()
        save_file(state, own / "adapter_model.safetensors")
        (own / "adapter_config.json").write_text(json.dumps(config))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--adapters", type=int, default=100)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_random_adapters(folder, options.adapters, options.layers, options.size, options.rank, options.seed)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begun = time.perf_counter()
        inspected = inspect_adapters([folder])
        nearest(inspected)
        write_inspection(inspected, folder / "out")
        seconds = time.perf_counter() - begun
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows.append(Row("inspect_seconds", seconds, n=options.adapters, aim=60.0, better="lower"))
    rows.append(Row("inspect_peak_gigabytes", peak / 2**20, n=options.adapters, aim=2.0, better="lower"))
    rows.append(Row("peak_gigabytes_before", before / 2**20, better="lower"))
    random = torch.Generator().manual_seed(options.seed)
    up = torch.randn(options.size, 8, generator=random)
    down = torch.randn(8, options.size, generator=random)
    gauge = torch.randn(8, 8, generator=random, dtype=torch.float64) + 3 * torch.eye(8, dtype=torch.float64)
    moved = LowRank((up.double() @ torch.linalg.inv(gauge)).float(), (gauge @ down.double()).float())
    begun = time.perf_counter()
    one = LowRank(up, down).canonical()
    canonical_seconds = time.perf_counter() - begun
    other = moved.canonical()
    error = float((one.up - other.up).norm() / one.up.norm())
    begun = time.perf_counter()
    torch.linalg.svd(up[:1024] @ down[:, :1024], full_matrices=False)
    rows.append(Row("canonical_milliseconds", 1000 * canonical_seconds, better="lower"))
    rows.append(Row("dense_svd_of_1024_milliseconds", 1000 * (time.perf_counter() - begun), better="lower"))
    rows.append(Row("canonical_gauge_error", error, better="lower"))
    results = Results("adapters", options.seed, tuple(rows))
    results.print_table(Console())
    print(json.dumps(results.to_dict()))


if __name__ == "__main__":
    main()
