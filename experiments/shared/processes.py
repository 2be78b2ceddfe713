"""Parts of an experiment side by side on two cores, and what they took."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")
_IMPORTED = time.time()


class SameProcess(Executor):
    """Runs what is submitted at once, in this process."""

    def submit(self, function: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        """Call the function; an error is raised by the future's ``result``."""
        future: Future[Result] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def executor(workers: int) -> Executor:
    """A pool of processes of one thread each that starts at once, or this process for 0.

    It must be made before this process computes gradients: a forked process lacks the threads that did.
    """
    if workers == 0:
        return SameProcess()
    method = "fork" if sys.platform == "linux" else "spawn"
    context = multiprocessing.get_context(method)
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=torch.set_num_threads, initargs=(1,))
    pool.submit(os.getpid).result()
    return pool


def cpu_seconds() -> float:
    """Processor time of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def seconds_since_start() -> float:
    """Since this process was started, its imports included; where the system does not tell, since this import."""
    try:
        after_boot = float(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf(
            "SC_CLK_TCK"
        )
        return float(Path("/proc/uptime").read_text().split()[0]) - after_boot
    except (OSError, ValueError):  # Not Linux.
        return time.time() - _IMPORTED
