"""Where the groups of a zoo are trained: in this process, or on the machines of a Ray cluster."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from hypergen.errors import HypergenError, UnknownNameError, missing_extra
from hypergen.functional.stacked import Snapshot, Splits, train_stacked
from hypergen.zoo.build.plan import Group

OnStep = Callable[[int, int], None]


class Engine(Protocol):
    """Trains groups."""

    def train(
        self, groups: Iterable[Group], data: Splits, settings: Mapping[str, Any], on_step: OnStep
    ) -> Iterator[tuple[Group, Snapshot | None]]:
        """Train groups, in any order.

        Args:
            groups: What to train.
            data: What to train on.
            settings: Further arguments of :func:`hypergen.functional.stacked.train_stacked`.
            on_step: Called with a step and the number of networks that made it, where that is known at once.

        Yields:
            A group and a snapshot of it; after its last snapshot, the group and None.
        """


class LocalEngine:
    """One group after another, in this process."""

    def train(
        self, groups: Iterable[Group], data: Splits, settings: Mapping[str, Any], on_step: OnStep
    ) -> Iterator[tuple[Group, Snapshot | None]]:
        """Train groups; see :class:`Engine`."""
        for group in groups:
            for snapshot in train_stacked(group.architecture.build, group.recipes, data, on_step=on_step, **settings):
                yield group, snapshot
            yield group, None


class RayEngine:
    """Groups as tasks of a Ray cluster, which starts them again where a machine fails.

    Args:
        address: Address of the cluster; None for the one that this machine belongs to, or else for workers on this
            machine.
        workers: Number of workers on this machine where there is no cluster.
        cpus_per_group: CPUs that each task asks of the cluster.
        gpus_per_group: GPUs that each task asks of the cluster; with a share, pass ``device="cuda"`` to the build.
        ahead: Groups given to the cluster before the first is done; None for twice its processors.

    Raises:
        HypergenError: Ray is not installed, or there is no cluster at the address.
    """

    def __init__(
        self,
        address: str | None = None,
        workers: int | None = None,
        cpus_per_group: float = 1.0,
        gpus_per_group: float = 0.0,
        ahead: int | None = None,
    ) -> None:
        try:
            import ray
        except ModuleNotFoundError as error:
            raise missing_extra("An engine of Ray", "ray", "ray") from error
        self.ray, self.address, self.workers = ray, address, workers
        self.resources = {"num_cpus": cpus_per_group, "num_gpus": gpus_per_group}
        self.ahead = ahead

    def train(
        self, groups: Iterable[Group], data: Splits, settings: Mapping[str, Any], on_step: OnStep
    ) -> Iterator[tuple[Group, Snapshot | None]]:
        """Train groups; see :class:`Engine`. A group's snapshots arrive together."""
        ray = self.ray
        started = not ray.is_initialized()
        if started:
            self._start()
        try:
            shared = ray.put({split: tuple(tensors) for split, tensors in data.items()})
            train = ray.remote(_train_group).options(**self.resources)
            ahead = self.ahead or max(2, 2 * int(ray.cluster_resources().get("CPU", 1)))
            waiting: dict[Any, Group] = {}
            rest = iter(groups)
            while True:
                # Not all at once: a zoo may have more groups than a cluster's memory holds results.
                while len(waiting) < ahead and (group := next(rest, None)) is not None:
                    waiting[train.remote(group, shared, dict(settings))] = group
                if not waiting:
                    return
                (done,), _ = ray.wait(list(waiting), num_returns=1)
                group = waiting.pop(done)
                for snapshot in ray.get(done):
                    yield group, snapshot
                on_step(0, sum(recipe.steps for recipe in group.recipes))
                yield group, None
        finally:
            if started:
                ray.shutdown()

    def _start(self) -> None:
        options: dict[str, Any] = {"address": self.address} if self.address else {}
        if self.workers is not None and not self.address:
            options["num_cpus"] = self.workers
        try:
            self.ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, **options)
        except (ConnectionError, ValueError, RuntimeError, self.ray.exceptions.RayError) as error:
            raise HypergenError(f"Ray could not be started (address {self.address!r}): {error}") from error


def make_engine(name: str, **options: Any) -> Engine:
    """The engine of a name.

    Raises:
        UnknownNameError: There is none.
    """
    if name not in _ENGINES:
        raise UnknownNameError("engine", name, _ENGINES)
    return _ENGINES[name](**options)


def _train_group(group: Group, data: Splits, settings: Mapping[str, Any]) -> list[Snapshot]:
    import torch

    # Ray runs as many tasks as there are processors.
    torch.set_num_threads(1)
    return list(train_stacked(group.architecture.build, group.recipes, data, **settings))


_ENGINES: dict[str, Callable[..., Engine]] = {"local": LocalEngine, "ray": RayEngine}
