"""Hand hypergen what it cannot use, and judge the answers: ``python -m benchmarks.hostile --inputs 2000 --seed 0``.

Inputs over the API, constructors, files, zoos, the command line and Hydra configurations are drawn from one seed and
tried in this process. An answer is clear where the input is taken, or refused by an error of hypergen's own whose
message says what it is about; it is unclear where an error of another library, or one without a message, comes out. The
last line is JSON: counts of unclear answers, of inputs that took longer than the limit, of files that changed, and of
code in files that ran.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.sweeps.hostile_inputs import KINDS, Case, Refused
from hypergen.cli.boundary import user_message
from hypergen.evaluation.results import Results, Row

_SHORTEST = 15


class TooLong(BaseException):
    """An input took longer than the limit."""


def judge(case: Case, seconds: float) -> tuple[str, str]:
    """Try an input: ``accepted``, ``refused``, ``unclear`` or ``hung``, and the message or traceback."""

    def stop(number: int, frame: Any) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        case.run()
    except TooLong:
        return "hung", f"longer than {seconds:g} s"
    except Refused as refused:
        return _judged(str(refused))
    except Exception as error:
        message = user_message(error)
        if message is None:
            return "unclear", "".join(traceback.format_exception(error)[-3:])
        return _judged(message)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return "accepted", ""


def _judged(message: str) -> tuple[str, str]:
    bad = len(message) < _SHORTEST or "Traceback" in message or "object at 0x" in message
    return ("unclear" if bad else "refused"), message


def main(arguments: Sequence[str] | None = None) -> Results:
    """Try inputs, print what is unclear, and the counts as JSON."""
    parser = argparse.ArgumentParser("python -m benchmarks.hostile", description=__doc__)
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--limit", type=float, default=30.0, help="seconds for one input")
    parser.add_argument("--messages", type=Path, help="a JSON file for the refusals")
    options = parser.parse_args(arguments)
    counts: Counter[str] = Counter()
    refusals: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(name)
        for index, kind in enumerate(options.kinds):
            below = folder / kind
            below.mkdir()
            cases = KINDS[kind](random.Random(f"{options.seed} {kind}"), below)
            share = options.inputs // len(options.kinds) + (index < options.inputs % len(options.kinds))
            for _ in range(share):
                case = next(cases)
                verdict, message = judge(case, options.limit)
                counts[verdict] += 1
                counts["lost"] += message.startswith("LOST")
                if verdict in ("unclear", "hung"):
                    print(f"{verdict}: {case.kind}: {case.what}\n  {message.strip()[-700:]}", flush=True)
                elif verdict == "refused":
                    refusals[f"{case.kind}: {case.what}".replace(name, "FOLDER")] = message.replace(name, "FOLDER")
            counts["executed"] += (below / "executed").exists()
    if options.messages:
        options.messages.write_text(json.dumps(refusals, indent=1, ensure_ascii=False))
    targets = {"unclear": 0, "hung": 0, "lost": 0, "executed": 0}
    rows = [Row(f"hostile_{key}", counts[key], n=options.inputs, aim=0, better="lower") for key in targets]
    rows += [Row(f"hostile_{key}", counts[key], n=options.inputs) for key in ("accepted", "refused")]
    results = Results("hostile", options.seed, tuple(rows), {"kinds": options.kinds})
    results.print_table(Console(width=110))
    print(results.to_json())
    return results


if __name__ == "__main__":
    main()
