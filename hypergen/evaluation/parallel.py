"""Run one function over many tasks in worker processes, with results that do not depend on how many there are."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from hypergen.evaluation.image_data import ImageData

Task = TypeVar("Task")
Result = TypeVar("Result")

_data: ImageData | None = None  # Of this worker process.


def map_tasks(
    function: Callable[[ImageData, Task], Result], data: ImageData, tasks: Iterable[Task], *, workers: int
) -> Iterator[tuple[int, Result]]:
    """Call ``function(data, task)`` for every task, on one thread each.

    Tasks are drawn only a few ahead of the workers, so that large ones do not pile up in memory.

    Args:
        function: Importable by name; draws no randomness but from seeds in its task.
        data: Sent to each worker once.
        tasks: Picklable and without tensors, whose storages would travel as open files; numpy arrays are fine.
        workers: Processes; 0 calls the function in this one.

    Yields:
        (index of the task, result) as they are finished.

    Raises:
        RuntimeError: A worker died.
    """
    if workers < 0:
        raise ValueError(f"workers must not be negative; got {workers}")
    if workers == 0:
        for index, task in enumerate(tasks):
            with one_thread():
                result = function(data, task)
            yield index, result
        return
    arrays = [(images.numpy(), labels.numpy()) for images, labels in data]
    pool = ProcessPoolExecutor(workers, mp_context=_context(), initializer=_start_worker, initargs=(arrays,))
    running: dict[Future[Result], int] = {}
    try:
        for index, task in enumerate(tasks):
            running[pool.submit(_call, function, task)] = index
            while len(running) >= 2 * workers:
                yield from _finished(running)
        while running:
            yield from _finished(running)
    except BrokenProcessPool as error:
        raise RuntimeError(
            "A worker process died. It may have run out of memory; and a script that starts workers must do so below "
            "`if __name__ == '__main__':`, because each worker imports it. workers=0 does without them."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread, as workers do: sums in another order end in other digits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def pack(parameters: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Parameters as arrays in single precision, to send to a worker."""
    return {name: value.detach().float().cpu().numpy() for name, value in parameters.items()}


def unpack(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Undo :func:`pack`."""
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _context() -> Any:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")  # Windows.
    # Forking this process would copy its threads' locks and autograd's state; a server that has only imported the
    # package forks in milliseconds and shares those pages.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "hypergen.evaluation.image_classifiers.one_architecture"])
    return context


def _start_worker(arrays: list[tuple[np.ndarray, np.ndarray]]) -> None:
    global _data
    torch.set_num_threads(1)
    _data = ImageData(*((torch.from_numpy(images), torch.from_numpy(labels)) for images, labels in arrays))


def _call(function: Callable[[ImageData, Task], Result], task: Task) -> Result:
    assert _data is not None
    return function(_data, task)


def _finished(running: dict[Future[Result], int]) -> Iterator[tuple[int, Result]]:
    done, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        yield running.pop(future), future.result()
