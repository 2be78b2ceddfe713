"""Checks of many networks, each in a process of its own: what the sweeps of symmetry and equivariance share."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from rich.console import Console
from rich.progress import track
from torch import nn

import hypergen
from benchmarks.sweeps.symmetry_cases import SUITES, cases
from benchmarks.sweeps.trace_sweep import warm_up
from benchmarks.trace_suites import Case
from hypergen.evaluation.results import Results, Row
from hypergen.graph import ComputationalGraph

_WIDTH = 110
_FORK = multiprocessing.get_context("fork")


class Checked(Protocol):
    """What came out of checking one network: a dataclass with at least these.

    Attributes:
        case: Name of the network.
        skipped: Why it was not checked, where the reason is not what is checked; empty for a network that was.
        failure: What went wrong.
        unsupported: Operations without a rule of symmetry.
    """

    __dataclass_fields__: Any
    case: str
    skipped: str
    failure: str
    unsupported: tuple[str, ...]


Outcome = TypeVar("Outcome", bound=Checked)


def run_sweep(
    name: str,
    description: str | None,
    check: Callable[[Case], Outcome],
    skipped: Callable[[str, str], Outcome],
    rows_of: Callable[[str, Sequence[Outcome]], list[Row]],
    arguments: Sequence[str] | None = None,
    outcome_type: Callable[..., Outcome] | None = None,
) -> Results:
    """Check networks as the command line says; print a line per failure, the table and, last, its JSON.

    Args:
        name: Name of the benchmark.
        description: For its help.
        check: Checks one network.
        skipped: Makes what stands for a network that was not checked, from its name and the reason.
        rows_of: The figures of a suite.
        arguments: Arguments of the command line; None for the process's own.
        outcome_type: Makes an outcome from its fields: networks whose outcome is in the output folder are then not
            checked again, so that a sweep that was stopped goes on.
    """
    options = _parser(name, description).parse_args(arguments)
    rows: list[Row] = []
    for suite in SUITES if options.suite == "all" else (options.suite,):
        fitting = [case for case in cases(suite) if re.search(options.only, case.name)]
        count = min(options.limit or len(fitting), len(fitting))
        chosen = [fitting[i * len(fitting) // count] for i in range(count)]
        file = options.output / f"{suite}.jsonl" if options.output else None
        known = _known(file, outcome_type)
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(map(_line, known.values())), encoding="utf-8")
        for result in _sweep(suite, [c for c in chosen if c.name not in known], options.seconds, check, skipped):
            known[result.case] = result
            if file:
                with file.open("a", encoding="utf-8") as lines:
                    lines.write(_line(result))
        rows += rows_of(suite, [known[case.name] for case in chosen])
    details = {"suite": options.suite, "only": options.only, "limit": options.limit}
    outcome = Results(name, 0, tuple(rows), details)
    if options.output:
        outcome.write(options.output)
    outcome.print_table(Console(width=max(Console().width, _WIDTH)))
    print(outcome.to_json())
    return outcome


def _line(result: Any) -> str:
    return f"{json.dumps(asdict(result))}\n"


def _known(file: Path | None, outcome_type: Callable[..., Outcome] | None) -> dict[str, Outcome]:
    """The outcomes of an earlier run, by the names of networks."""
    if file is None or outcome_type is None or not file.exists():
        return {}
    found: dict[str, Outcome] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            fields = json.loads(line)
        except ValueError:
            continue  # cut off in the middle of a line
        found[fields["case"]] = outcome_type(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})
    return found


def _sweep(
    suite: str,
    chosen: Sequence[Case],
    limit: float,
    check: Callable[[Case], Outcome],
    skipped: Callable[[str, str], Outcome],
) -> Iterator[Outcome]:
    """Check networks; print what fails and what has no rule."""
    warm_up()
    for case in track(chosen, f"Checking {suite}", transient=True):
        result = _in_fork(check, case, limit)
        if isinstance(result, str):
            result = skipped(case.name, result)
        name = f"{suite}:{case.name}"
        if result.failure:
            print(f"WRONG {name}: {result.failure}", flush=True)
        elif result.skipped:
            print(f"skipped {name}: {result.skipped}", flush=True)
        if result.unsupported:
            print(f"no rule {name}: {', '.join(result.unsupported)}", flush=True)
        yield result


class Skipped(Exception):
    """A network cannot be checked, for a reason that is not what is checked."""


def built_and_traced(case: Case, most_parameters: int) -> tuple[nn.Module, Any, ComputationalGraph]:
    """A network with values, what it is called with (None where it tells), and its graph.

    Raises:
        Skipped: It is too large, or cannot be built or traced.
    """
    try:
        torch.manual_seed(0)
        model = _with_values(case.build()).eval()
        size = sum(parameter.numel() for parameter in model.parameters())
        if size > most_parameters:
            raise Skipped(f"{size / 1e6:.0f} million parameters")
        inputs = case.inputs() if case.inputs else None
        return model, inputs, hypergen.trace(model, inputs)
    except Skipped:
        raise
    except Exception as error:
        raise Skipped(f"not traced: {one_line(error)}") from error


def counted_outputs(graph: ComputationalGraph) -> list[str] | None:
    """The logits, where a network returns any; None for all outputs.

    Hidden states and caches that a language model returns, too, would keep all that they are made of.
    """
    return ["logits"] if graph.calls is not None and "logits" in graph.calls.outputs else None


def _with_values(model: nn.Module) -> nn.Module:
    """A network that was built on the meta device once more: its values are needed."""
    if not any(tensor.is_meta for tensor in model.state_dict(keep_vars=True).values()):
        return model
    return type(model)(model.config)


def one_line(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _in_fork(check: Callable[[Case], Outcome], case: Case, limit: float) -> Outcome | str:
    """What a check returns in a process of its own, or why it returns nothing."""
    here, there = _FORK.Pipe(duplex=False)
    process = _FORK.Process(target=_send, args=(check, case, there))
    process.start()
    there.close()
    try:
        if here.poll(limit):
            return here.recv()
        return f"took more than {limit:.0f} s"
    except EOFError:
        return "the process ended"
    finally:
        process.kill()
        process.join()
        here.close()


def _send(check: Callable[[Case], Any], case: Case, connection: Connection) -> None:
    warnings.simplefilter("ignore")
    try:
        connection.send(check(case))
    except Skipped as reason:
        connection.send(str(reason))


def _parser(name: str, description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(f"python -m benchmarks.{name}", description=description)
    add = parser.add_argument
    add("--suite", choices=(*SUITES, "all"), default="all", help="which networks")
    add("--only", default="", metavar="PATTERN", help="a regular expression that names have to contain")
    add("--limit", type=int, help="at most so many networks per suite, spread over it")
    add("--seconds", type=float, default=180.0, help="after which a network is skipped")
    add("--output", type=Path, help="a folder for results.json, results.md and a file per suite")
    return parser
