"""Traces the networks of a suite one by one, each in a forked process of its own."""

from __future__ import annotations

import math
import multiprocessing
import resource
import signal
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
from torch import nn

import hypergen
from benchmarks.memory import peak, start_peak
from benchmarks.trace_suites import Case
from hypergen.errors import TraceError
from hypergen.graph.properties import violations

_MAX_BYTES = 8 * 2**30
# How much longer than it computes a process may take where others want the cores, too.
_BUSY = 10
# Seconds of computing within which PyTorch itself has to show that it can run what could not be traced.
_SECONDS_TO_RUN = 10
_FORK = multiprocessing.get_context("fork")


@dataclass
class Traced:
    """What came out of tracing one network.

    Attributes:
        case: Name of the network.
        group: Its group in the suite.
        failure: Why there is no graph; empty where there is one.
        not_run: Why PyTorch itself cannot run the network; empty where it can, or where nobody asked.
        wrong: In which ways the graph is not right.
        mode: The tracing mode that served.
        seconds: That the trace took.
        cpu_seconds: That it computed; less than ``seconds`` on a busy machine.
        peak_bytes: By how much it raised the memory of the process.
        parameter_values: How many values the network's parameters have.
        covered_values: How many of them are on a node.
        unused: Names of parameters that no operation reads.
        nodes: Number of nodes.
        on_meta: Whether the network could be built on the meta device.
    """

    case: str
    group: str = ""
    failure: str = ""
    not_run: str = ""
    wrong: list[str] = field(default_factory=list)
    mode: str = ""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int = 0
    parameter_values: int = 0
    covered_values: int = 0
    unused: list[str] = field(default_factory=list)
    nodes: int = 0
    on_meta: bool = True


def warm_up() -> None:
    """Load what torch loads on first use, once for all processes that are forked from this one."""
    layer = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
    hypergen.trace(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(2), nn.Linear(4, 8), layer), torch.zeros(1, 3, 4, 4))


def trace_in_forks(cases: Iterable[Case], workers: int = 1, limit: float = 60.0) -> Iterator[Traced]:
    """Build, trace and check networks, each in a process of its own.

    Args:
        cases: The networks.
        workers: How many are traced at a time; more than one on each core make each other's seconds longer.
        limit: Seconds of computing after which one counts as failed; or ten times as many on the clock.

    Yields:
        What came out, in the order in which the processes end.
    """
    waiting = iter(cases)
    running: dict[Any, tuple[Case, Any, float]] = {}
    try:
        while True:
            for case in islice(waiting, workers - len(running)):
                here, there = _FORK.Pipe(duplex=False)
                process = _FORK.Process(target=_send, args=(case, there, limit))
                process.start()
                there.close()
                running[here] = case, process, time.monotonic() + _BUSY * limit
            if not running:
                return
            earliest = min(end for _, _, end in running.values())
            ready: list[Any] = wait(list(running), timeout=max(earliest - time.monotonic(), 0))
            for here in ready or [here for here, (_, _, end) in running.items() if end <= time.monotonic()]:
                case, process, _ = running.pop(here)
                yield _received(case, process, here, limit)
    finally:
        for _, process, _ in running.values():
            process.kill()


def _received(case: Case, process: Any, here: Connection, limit: float) -> Traced:
    try:
        if here.poll():
            return here.recv()
        return Traced(case.name, case.group, f"took more than {_BUSY * limit:g} s")
    except EOFError:
        process.join()
        if process.exitcode == -signal.SIGXCPU:
            return Traced(case.name, case.group, f"computed for more than {limit:g} s")
        return Traced(case.name, case.group, f"the process ended with exit code {process.exitcode}")
    finally:
        process.kill()
        process.join()
        here.close()


def _send(case: Case, connection: Connection, limit: float) -> None:
    warnings.simplefilter("ignore")
    # A network that is too large to be built for real fails by itself, not by what the system kills for want of memory.
    resource.setrlimit(resource.RLIMIT_DATA, (_MAX_BYTES, _MAX_BYTES))
    seconds = max(1, math.ceil(limit))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 2 * _SECONDS_TO_RUN))
    traced = trace_case(case)
    if traced.failure and case.not_run:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds + 2 * _SECONDS_TO_RUN,) * 2)
        with suppress(Exception, _TimeUp), _interrupted_after(_SECONDS_TO_RUN):
            traced.not_run = _one_line(case.not_run())
    connection.send(traced)


class _TimeUp(BaseException):
    """Is no error of the network's that runs for too long."""


@contextmanager
def _interrupted_after(seconds: float) -> Iterator[None]:
    """Raise :class:`_TimeUp` after so many seconds of computing, at the next step of Python's."""

    def interrupt(*_: Any) -> None:
        raise _TimeUp

    signal.signal(signal.SIGPROF, interrupt)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def trace_case(case: Case) -> Traced:
    """Build, trace and check one network."""
    traced = Traced(case.name, case.group)
    try:
        model = _built(case, traced)
        inputs = case.inputs() if case.inputs else None
    except Exception as error:
        traced.failure = f"could not be built: {type(error).__name__}: {_one_line(error)}"
        return traced
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    traced.parameter_values = sum(sizes.values())
    before, start, cpu = start_peak(), time.perf_counter(), time.process_time()
    try:
        graph = hypergen.trace(model, inputs)
    except TraceError as error:
        traced.failure = _one_line(error)
        return traced
    except Exception as error:
        traced.failure = f"{type(error).__name__}: {_one_line(error)}"
        return traced
    finally:
        traced.cpu_seconds = time.process_time() - cpu
        traced.seconds, traced.peak_bytes = time.perf_counter() - start, peak() - before
    traced.mode = graph.tracing_mode
    traced.nodes = len(graph.nodes)
    traced.unused = list(graph.unused_parameters)
    traced.covered_values = sum(sizes.get(name, 0) for name in graph.readers)
    traced.wrong = violations(graph, model)
    return traced


def _built(case: Case, traced: Traced) -> nn.Module:
    try:
        with torch.device("meta"):
            return case.build()
    except Exception:  # Constructors that look at values: `.item()`, `.tolist()`, numpy.
        traced.on_meta = False
        return case.build()


def _one_line(error: Any) -> str:
    return " ".join(str(error).split())
