"""Time large targets and large generators: prediction in memory, and straight to disk.

``python -m benchmarks.predict`` prints a table, and as its last line the same figures as JSON. The published systems
are at seeded initial values, which take as long as trained ones.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

import hypergen
from benchmarks.memory import peak, start_peak
from benchmarks.sweeps.fresh_process import in_fresh_process
from benchmarks.sweeps.networks import gpt2_large, gpt2_small, llama_7b, resnet50, vit_b_16
from hypergen.evaluation.results import Results, Row
from hypergen.functional import distinct_value_share
from hypergen.generators.published.files import VARIANTS

# Target, generator, most seconds that tracing and predicting should take.
PAIRS: tuple[tuple[Callable[[], nn.Module], str, float], ...] = (
    (gpt2_large, "logah-tiny", 1.5),
    (gpt2_small, "logah-small", 0.6),
    (resnet50, "ghn-3-xl", 1.5),
    (vit_b_16, "logah-tiny", 0.3),
)
_CHUNK = 2**26


def main(arguments: Sequence[str] | None = None) -> Results:
    """Run the benchmark, print its table and, last, its JSON."""
    options = _parser().parse_args(arguments)
    rows: list[Row] = []
    for build, generator, aim in track(PAIRS if options.repeats else (), "Timing predictions", transient=True):
        rows += in_fresh_process(timing_rows, build, generator, aim, options.repeats)
    if options.repeats:
        rows += memory_rows(options.repeats)
        rows += diversity_rows()
    for name in track(options.variants, "Timing variants", transient=True):
        rows += in_fresh_process(variant_rows, name)
    if options.disk_repeats:
        rows += disk_rows(options.folder, options.disk_repeats)
    details = {"threads": torch.get_num_threads(), "repeats": options.repeats, "disk_repeats": options.disk_repeats}
    results = Results("benchmarks.predict", 0, tuple(rows), details)
    results.print_table(Console(width=max(Console().width, 110)))
    print(results.to_json())
    return results


def timing_rows(build: Callable[[], nn.Module], name: str, aim: float, repeats: int) -> list[Row]:
    """Seconds to trace and predict, and over the module's own default initialisation, the two taking turns."""
    generator = _generator(name)
    with torch.device("meta"):
        network = build()
    figure = f"{build.__name__}_{name.replace('-', '_')}"
    predicted, default = [], []
    for repeat in range(repeats + 1):
        elapsed = _seconds(lambda: hypergen.predict_params(network, generator))
        if repeat:  # the first one loads libraries and fills caches
            predicted.append(elapsed)
            default.append(_seconds(build))
    over = [one / other for one, other in zip(predicted, default, strict=True)]
    ratio_aim = 0.125 if build is gpt2_large else None
    return [
        Row.from_values(f"{figure}_seconds", predicted, aim=aim, better="lower", statistic="median"),
        Row.from_values(f"{figure}_over_default", over, aim=ratio_aim, better="lower", statistic="median"),
        Row.from_values(f"{build.__name__}_default_seconds", default, better="lower", statistic="median"),
    ]


def variant_rows(name: str) -> list[Row]:
    """A published system: its size, the widest matrix that does not repeat, seconds and memory of a prediction."""
    generator = _generator(name)
    build = gpt2_small if generator.config["language"] else resnet50
    with torch.device("meta"):
        network = build()
    _seconds(lambda: hypergen.predict_params(nn.Linear(2, 2), generator))  # loads what is loaded once
    before = start_peak()
    _seconds(lambda: hypergen.predict_params(network, generator))
    gigabytes = (peak() - before) / 1e9
    seconds = [_seconds(lambda: hypergen.predict_params(network, generator)) for _ in range(3)]
    figure = f"{name.replace('-', '_')}_{build.__name__}"
    return [
        Row(f"{figure}_generator_parameters", sum(value.numel() for value in generator.parameters()), better="lower"),
        Row(f"{figure}_widest_without_repeats", min(generator.config["max_shape"][:2])),
        Row.from_values(f"{figure}_seconds", seconds, better="lower", statistic="median"),
        Row(f"{figure}_peak_gigabytes", gigabytes, better="lower"),
    ]


def memory_rows(repeats: int) -> list[Row]:
    """Peak memory of predicting GPT-2 Large over the size of its parameters, in fresh processes."""
    over = [in_fresh_process(_peak_over_parameters) for _ in range(repeats)]
    return [
        Row.from_values(
            "gpt2_large_logah_tiny_peak_over_parameters", over, aim=1.25, better="lower", statistic="median"
        )
    ]


def _peak_over_parameters() -> float:
    generator = _generator("logah-tiny")
    with torch.device("meta"):
        network = gpt2_large()
    _quiet(lambda: hypergen.predict_params(nn.Linear(2, 2), generator))  # loads what is loaded once
    before = start_peak()
    parameters = _quiet(lambda: hypergen.predict_params(network, generator))
    return (peak() - before) / sum(value.numel() * value.element_size() for value in parameters.values())


def diversity_rows() -> list[Row]:
    """Effective rank over that of default initialisation, and distinct values, of a predicted GPT-2 small."""
    default = dict(gpt2_small().named_parameters())
    with torch.device("meta"):
        network = gpt2_small()
    rows = []
    for name, aims in (("digits-ghn", (0.5, 0.99)), ("logah-tiny", (None, None))):
        parameters = _quiet(lambda name=name: hypergen.predict_params(network, _generator(name)))  # type: ignore[misc]
        matrices = [key for key, value in parameters.items() if value.dim() > 1 and min(value.shape) >= 768]
        hidden = [key for key in matrices if ".h." in key]
        over = [effective_rank(parameters[key]) / effective_rank(default[key]) for key in hidden]
        figure = f"gpt2_small_{name.replace('-', '_')}"
        rows.append(Row.from_values(f"{figure}_effective_rank_over_default", over, aim=aims[0], better="higher"))
        # Of independent values some coincide, too: over those of default initialisation.
        share = distinct_value_share(parameters) / distinct_value_share(default)
        rows.append(
            Row(f"{figure}_distinct_values_over_default", share, n=len(parameters), aim=aims[1], better="higher")
        )
    return rows


def effective_rank(matrix: Tensor) -> float:
    """Exponential of the entropy of the normalised singular values (Roy and Vetterli, 2007)."""
    values = torch.linalg.svdvals(matrix.detach().float())
    shares = values / values.sum()
    return float((-(shares * shares.clamp_min(1e-30).log()).sum()).exp())


def disk_rows(folder: Path, repeats: int) -> list[Row]:
    """A Llama of 6.7 billion parameters to disk in bfloat16: peak memory, and speed over a plain write's."""
    memory, speed, plain = [], [], []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            plain.append(_plain_write(Path(scratch) / "plain", 2**31))
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            gigabytes, bytes_per_second = in_fresh_process(_to_disk, os.path.join(scratch, "llama"))
        memory.append(gigabytes)
        speed.append(bytes_per_second)
    share = [one / other for one, other in zip(speed, plain, strict=True)]
    return [
        Row.from_values("llama_7b_to_disk_peak_gigabytes", memory, aim=4.0, better="lower", statistic="median"),
        Row.from_values("llama_7b_to_disk_over_plain_write", share, aim=0.6, better="higher", statistic="median"),
        Row.from_values("llama_7b_to_disk_megabytes_per_second", [s / 1e6 for s in speed], better="higher"),
        Row.from_values("plain_write_megabytes_per_second", [s / 1e6 for s in plain], better="higher"),
    ]


def _to_disk(folder: str) -> tuple[float, float]:
    generator = hypergen.load_generator("digits-ghn")
    with torch.device("meta"):
        network = llama_7b()
    start_peak()
    start = time.perf_counter()
    report = hypergen.predict_to_disk(network, generator, folder, dtype=torch.bfloat16, progress=False)
    return peak() / 1e9, report.size / (time.perf_counter() - start)


def _plain_write(file: Path, size: int) -> float:
    """Bytes per second of writing random bytes and waiting for the disk."""
    data = os.urandom(_CHUNK)
    start = time.perf_counter()
    with open(file, "wb") as stream:
        for _ in range(size // _CHUNK):
            stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    return size / (time.perf_counter() - start)


def _generator(name: str) -> hypergen.Generator:
    return _quiet(lambda: hypergen.load_generator(name))


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    result = _quiet(run)
    elapsed = time.perf_counter() - start
    del result  # freeing memory is no part of it
    return elapsed


def _quiet(run: Callable[[], object]):  # type: ignore[no-untyped-def]
    """Without what is said of untrained generators and repeated rows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return run()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks.predict", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="timings per target; 0 leaves them out")
    parser.add_argument("--disk-repeats", type=int, default=1, help="7-billion-parameter writes; 0 leaves them out")
    parser.add_argument("--variants", nargs="*", default=[], choices=VARIANTS, help="published systems to time besides")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="on the disk to write to")
    return parser


if __name__ == "__main__":
    main()
