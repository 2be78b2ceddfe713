"""Builds a zoo from a plan; a build that was stopped, or killed, goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from hypergen.errors import CheckpointError, TraceError
from hypergen.functional.files import read_json
from hypergen.functional.stacked import Snapshot, Splits
from hypergen.graph import trace
from hypergen.zoo.build.engines import Engine, LocalEngine
from hypergen.zoo.build.plan import Buildable, Group, ZooPlan
from hypergen.zoo.build.progress import Progress
from hypergen.zoo.folder import BUILDS, write_json
from hypergen.zoo.index import uid_of
from hypergen.zoo.layout import Layout
from hypergen.zoo.writer import ZooWriter

_VECTORS = ("learning_rate", "weight_decay", "init_scale", "data_fraction")


@dataclass(frozen=True)
class BuildReport:
    """What came of a build, all of its parts together.

    Attributes:
        networks: That the plan has.
        diverged: Networks that became infinite; their checkpoints until then are in the zoo.
        checkpoints: In the zoo.
        seconds: That training and writing took; of the groups that were finished.
        trained: Networks that this part of the build trained.
    """

    networks: int
    diverged: tuple[str, ...]
    checkpoints: int
    seconds: float
    trained: int


def build_zoo(
    folder: str | os.PathLike[str],
    plan: ZooPlan,
    data: Splits,
    *,
    data_name: str,
    engine: Engine | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> BuildReport:
    """Train the networks of a plan that the zoo does not have yet.

    A group of networks is added when it is trained. Whatever stops a build, what was added stays; the next call trains
    the groups that are missing, to the same weights as an undisturbed build. A plan with more networks adds those.

    Args:
        folder: Folder of the zoo; made if there is none.
        plan: What to train.
        data: ``"train"``, ``"validation"`` and ``"test"``: inputs [N, …] and labels [N].
        data_name: What to call the data; zoos of the same plan on other data are other builds.
        engine: Where to train; in this process if None.
        device: What to train on.
        progress: Whether to show it.

    Raises:
        CheckpointError: The folder holds something else, or cannot be written.
    """
    identity = {"data": data_name, **plan.to_json()}
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    settings = {
        "save_steps": plan.save_steps(),
        "tasks": {task.name: task.labels for task in plan.tasks} or None,
        "batch_size": plan.batch_size,
        "optimizer": plan.optimizer,
        "schedule": plan.schedule,
        "label_smoothing": plan.label_smoothing,
        "input_noise": plan.input_noise,
        "device": device,
    }
    with ZooWriter(folder, on_duplicate="skip", shard_rows=2**62) as writer:
        record = _Record(Path(folder) / BUILDS / f"{key}.json", identity)
        for task in plan.tasks:
            writer.add_task(task.name, task.to_json())
        groups = list(plan.groups())
        missing = [group for group in groups if not record.has(group, writer)]
        steps = [sum(recipe.steps for recipe in group.recipes) for group in groups]
        there = sum(steps) - sum(sum(recipe.steps for recipe in group.recipes) for group in missing)
        splits = {task.name: task.split for task in plan.tasks}
        layouts = {
            architecture.name: _layout(architecture, data["train"][0][:1], data_name)
            for architecture in plan.architectures
        }
        diverged: list[str] = []
        begun = time.monotonic()
        with Progress(sum(steps), there, shown=progress) as bar:
            trained = (engine or LocalEngine()).train(
                missing, data, settings, lambda _, networks: bar.advance(networks)
            )
            for group, snapshot in trained:
                if snapshot is not None:
                    _add(writer, group, snapshot, plan, layouts[group.architecture.name], splits)
                    diverged += [group.recipes[network].run for network in snapshot.diverged]
                    bar.measured(group.architecture.name, snapshot)
                    continue
                writer.flush()
                with writer.locked():
                    record.add(diverged, time.monotonic() - begun)
                diverged, begun = [], time.monotonic()
        checkpoints = len(writer)
    return BuildReport(
        sum(len(group.recipes) for group in groups),
        tuple(record.diverged),
        checkpoints,
        record.seconds,
        sum(len(group.recipes) for group in missing),
    )


def _add(
    writer: ZooWriter,
    group: Group,
    snapshot: Snapshot,
    plan: ZooPlan,
    layout: Layout,
    splits: Mapping[str, Any],
) -> None:
    if not snapshot.networks:
        return
    recipes = [group.recipes[network] for network in snapshot.networks]
    columns: dict[str, Any] = {
        "task": [recipe.task for recipe in recipes],
        "init_seed": [recipe.init_seed for recipe in recipes],
        "data_seed": [recipe.data_seed for recipe in recipes],
        "split_task": [splits.get(recipe.task or "") for recipe in recipes],
        **{f"hyperparameters.{name}": [getattr(recipe, name) for recipe in recipes] for name in _VECTORS},
        "hyperparameters.steps": [recipe.steps for recipe in recipes],
        "hyperparameters.optimizer": plan.optimizer,
        "hyperparameters.schedule": plan.schedule,
        "hyperparameters.batch_size": plan.batch_size,
        **{f"{split}.{name}": values for split, named in snapshot.metrics.items() for name, values in named.items()},
    }
    writer.add_stacked(
        snapshot.state,
        runs=[recipe.run for recipe in recipes],
        steps=snapshot.step,
        layout=layout,
        columns=columns,
    )


def _layout(architecture: Buildable, inputs: Tensor, data_name: str) -> Layout:
    """The layout of an architecture's checkpoints, with its permutation groups."""
    network = architecture.build()
    metadata = {"architecture": dict(architecture.to_json()), "data": data_name}
    buffers = [name for name, _ in network.named_buffers()]
    layout = Layout.of(network.state_dict(), buffers=buffers, name=architecture.name, metadata=metadata)
    try:
        return layout.with_groups(trace(network, inputs).symmetry().simple_groups)
    except TraceError:  # It can be trained all the same.
        return layout


class _Record:
    """What a zoo knows of a build besides its checkpoints: the plan, the time, and which networks are lost."""

    def __init__(self, file: Path, plan: Mapping[str, Any]) -> None:
        self.file, self.plan = file, plan
        self.seconds = 0.0
        self.diverged: list[str] = []
        self._read()

    def _read(self) -> None:
        record = read_json(self.file) if self.file.exists() else {}
        seconds, diverged = record.get("seconds", 0.0), record.get("diverged", [])
        if not isinstance(seconds, (int, float)) or not isinstance(diverged, list):
            raise CheckpointError(
                f"{str(self.file)!r} is no record of a build. Delete it; networks that diverged train again."
            )
        self.seconds = float(seconds)
        self.diverged = [str(run) for run in diverged]

    def has(self, group: Group, writer: ZooWriter) -> bool:
        """Whether every network of a group was trained to its end."""
        lost = set(self.diverged)
        return all(recipe.run in lost or uid_of(recipe.run, recipe.steps) in writer for recipe in group.recipes)

    def add(self, diverged: list[str], seconds: float) -> None:
        """Write down a group, beside those that another build at the same plan has written meanwhile."""
        self._read()
        self.diverged += [run for run in diverged if run not in self.diverged]
        self.seconds += seconds
        write_json(self.file, {"plan": self.plan, "seconds": self.seconds, "diverged": self.diverged})
