"""Kill writers at random moments and look at what they leave: ``python -m benchmarks.kills --kills 100``.

Training that is resumed, four writers of one zoo, streaming to disk and a writer of adapters are ended by SIGKILL, and
two training processes by SIGTERM. Everything runs in forked processes of this one, so that libraries are imported
once. The last line is JSON: files that could not be read, rows that are there twice, results other than those of a run
that nobody disturbed, and processes that hung.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import runpy
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import nn

import hypergen
from hypergen.evaluation.results import Results, Row
from hypergen.zoo import Zoo, ZooWriter
from hypergen.zoo.layout import Layout

_ROOT = Path(__file__).parents[1]
_LONGEST = 300.0
_OPTIONS = ["debug=fast", "evaluate=false", "training.steps=12", "trainer.val_check_interval=6"]


def start(run: Callable[[], Any], log: Path, own_group: bool = True) -> int:
    """Run in a forked process, which leads a group of its own or stays in this one; its output goes into a file."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        if own_group:
            os.setsid()
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        run()
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException as error:
        with contextlib.suppress(Exception):
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def wait(process: int, seconds: float) -> int | None:
    """Exit code of a process, None where it still runs after so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None


def kill(process: int) -> None:
    """End a process, and its group, at once."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)


def disturbed(
    write: Callable[[Path], Any],
    check: Callable[[Path, bool], Sequence[str]],
    folder: Path,
    kills: int,
    rng: random.Random,
    seconds: float,
) -> Counter[str]:
    """Kill and start again until a writer ends, over and over; counts by what was found.

    Args:
        write: Writes into a folder, and goes on there.
        check: What is wrong with a folder, as keys of the counts; called with whether the writer ended.
        folder: Where to write.
        kills: Number of kills.
        rng: Chooses their moments.
        seconds: Time that an undisturbed writer takes.
    """
    counts: Counter[str] = Counter()
    while counts["kills"] < kills:
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        code = None
        while code is None:
            process = start(lambda: write(folder), folder.parent / "log")
            last = counts["kills"] >= kills
            code = wait(process, _LONGEST if last else rng.uniform(0.02, 0.9) * seconds)
            if code is None:
                kill(process)
                counts["hung" if last else "kills"] += 1
                if last:
                    return counts
            counts.update(check(folder, code is not None))
            if code:
                counts["failed"] += 1
                print(f"ended with {code}: {(folder.parent / 'log').read_text()[-500:]}", flush=True)
        counts["ended"] += 1
    return counts


def streaming(folder: Path, kills: int, rng: random.Random) -> Counter[str]:
    """:func:`hypergen.predict_to_disk` of a network on the meta device."""
    with torch.device("meta"):
        model = nn.Sequential(*[nn.Linear(256, 256) for _ in range(24)])

    def write(place: Path) -> None:
        inputs = torch.zeros(1, 256)
        hypergen.predict_to_disk(
            model, "digits-ghn", place, max_shard_size="600KB", example_inputs=inputs, progress=False
        )

    want, seconds = _reference(write, folder / "reference")
    expected = _digests(want)

    def check(place: Path, ended: bool) -> list[str]:
        found = _digests(place)
        wrong = [name for name, digest in found.items() if name in expected and digest != expected[name]]
        return ["unreadable"] * len(wrong) + ["unequal"] * (ended and found != expected)

    return disturbed(write, check, folder / "kills" / "out", kills, rng, seconds)


def training(folder: Path, kills: int, rng: random.Random) -> Counter[str]:
    """``train.py``, resumed from ``last.ckpt``."""

    def write(place: Path) -> None:
        checkpoint = place / "last.ckpt"
        resume = [f"ckpt_path={checkpoint}"] if checkpoint.exists() else []
        _train([*_OPTIONS, "trainer=cpu", "callbacks.last_checkpoint.every_steps=1", f"hydra.run.dir={place}", *resume])

    want, seconds = _reference(write, folder / "reference")
    expected = load_file(want / "generator" / "model.safetensors")

    def check(place: Path, ended: bool) -> list[str]:
        wrong = []
        if (place / "last.ckpt").exists():
            try:
                torch.load(place / "last.ckpt", weights_only=True)
            except Exception:
                wrong.append("unreadable")
        if ended:
            found = load_file(place / "generator" / "model.safetensors")
            wrong += ["unequal"] * any(not torch.equal(found[name], value) for name, value in expected.items())
        return wrong

    return disturbed(write, check, folder / "kills" / "out", kills, rng, seconds)


def zoo_of(states: Sequence[dict[str, Any]], writers: int) -> Callable[..., Counter[str]]:
    """A trial of processes that write checkpoints into one zoo, a share each."""

    def trial(folder: Path, kills: int, rng: random.Random) -> Counter[str]:
        layout = Layout.of(states[0], name="adapter" if writers == 1 else "network")

        def share(place: Path, which: int) -> None:
            for first in range(which, len(states), writers * 4):
                with ZooWriter(place) as writer:
                    for number in range(first, min(first + writers * 4, len(states)), writers):
                        writer.add(states[number], run=f"run{number}", step=0, layout=layout)

        def write(place: Path) -> None:
            others = [start(lambda n=n: share(place, n), folder / f"log{n}", False) for n in range(1, writers)]
            share(place, 0)
            if any(wait(other, _LONGEST) for other in others):
                raise SystemExit(3)

        want, seconds = _reference(write, folder / "reference")
        expected = _rows(want)

        def check(place: Path, ended: bool) -> list[str]:
            if not (place / "zoo.json").exists():
                return []
            try:
                found = _rows(place)
            except Exception as error:
                print(f"unreadable: {type(error).__name__}: {error}", flush=True)
                return ["unreadable"]
            wrong = ["doubled"] * (max(found.values(), default=1) > 1)
            wrong += ["unequal"] * bool(found - expected)
            return wrong + ["unequal"] * (ended and found != expected)

        return disturbed(write, check, folder / "kills" / "out", kills, rng, seconds)

    return trial


def sigterm(folder: Path, times: int, rng: random.Random) -> Counter[str]:
    """SIGTERM to a group of two training processes; whoever lives for another 30 s hangs."""
    options = [*_OPTIONS, "trainer=ddp", "training.steps=100000", "callbacks.last_checkpoint.every_steps=1000"]
    counts: Counter[str] = Counter()
    for number in range(times):
        place = folder / f"run{number}"
        process = start(lambda p=place: _train([*options, f"hydra.run.dir={p}"]), folder / "log")
        time.sleep(rng.uniform(0.5, 12.0))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process, signal.SIGTERM)
        code = wait(process, 30)
        counts["times"] += 1
        counts["saved"] += (place / "last.ckpt").exists()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process, 0)
            time.sleep(2)
            os.killpg(process, signal.SIGKILL)
            counts["hung"] += 1
        if code is None:
            os.waitpid(process, 0)
    return counts


def main(arguments: Sequence[str] | None = None) -> Results:
    """Run the trials, print their counts and, last, their JSON."""
    generator = torch.Generator().manual_seed(0)
    networks = [nn.Linear(8, 8).state_dict() for _ in range(32)]
    adapters = [
        {
            f"layers.{i}.q_proj.lora_{part}.weight": torch.randn(4, 4, generator=generator)
            for i in (0, 1)
            for part in "AB"
        }
        for _ in range(16)
    ]
    trials: dict[str, Callable[[Path, int, random.Random], Counter[str]]] = {
        "streaming": streaming,
        "adapters": zoo_of(adapters, 1),
        "zoo": zoo_of(networks, 4),
        "training": training,
        "sigterm": sigterm,
    }
    parser = argparse.ArgumentParser("python -m benchmarks.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--times", type=int, default=50, help="signals to two processes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trials", nargs="+", choices=trials, default=list(trials))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    hypergen.predict_params(nn.Linear(2, 2), "digits-ghn")  # imports what forked processes need
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for trial in options.trials:
            place = Path(name) / trial
            place.mkdir()
            number = options.times if trial == "sigterm" else options.kills
            counts = trials[trial](place, number, random.Random(f"{options.seed} {trial}"))
            print(trial, dict(counts), flush=True)
            made = counts["times"] if trial == "sigterm" else counts["kills"]
            keys = ("hung",) if trial == "sigterm" else ("unreadable", "doubled", "unequal", "failed", "hung")
            rows += [Row(f"{trial}_{key}", counts[key], n=made, aim=0, better="lower") for key in keys]
    results = Results("kills", options.seed, tuple(rows), {"trials": options.trials})
    results.print_table(Console(width=110))
    print(results.to_json())
    return results


def _train(options: Sequence[str]) -> None:
    os.chdir(_ROOT)
    sys.argv = ["train.py", *options]
    runpy.run_path("train.py", run_name="__main__")


def _reference(write: Callable[[Path], Any], folder: Path) -> tuple[Path, float]:
    """What an undisturbed writer leaves, and the seconds that it takes."""
    begun = time.monotonic()
    log = folder.parent / "log"
    code = wait(start(lambda: write(folder), log), _LONGEST)
    if code != 0:
        raise SystemExit(f"the undisturbed writer ended with {code}: {log.read_text()[-1000:]}")
    return folder, time.monotonic() - begun


def _rows(folder: Path) -> Counter[tuple[str, str]]:
    zoo = Zoo(folder).verify()
    return Counter(zip(zoo.column("uid"), zoo.column("sha256"), strict=True))


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(folder.glob("[!.]*")) if folder.is_dir() else []
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files if ".saving" not in file.name}


if __name__ == "__main__":
    main()
