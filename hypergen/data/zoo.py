"""Networks of a zoo as data: of which split, and with what they were trained for."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from hypergen.architectures import Architecture
from hypergen.data.images import ImageDataModule
from hypergen.data.in_memory import SPLITS
from hypergen.errors import HypergenError, UnknownNameError
from hypergen.zoo import Zoo
from hypergen.zoo.build.build import BuildReport, build_zoo
from hypergen.zoo.build.plan import ZooPlan

KINDS = ("code", "metric")


@dataclass(frozen=True)
class LayoutNetworks:
    """Networks of one layout.

    Attributes:
        model: One such network, of whose values only those of frozen parameters and of buffers are read.
        parameters: ``[networks, *shape]`` by name.
        conditions: What each network was trained for.
    """

    model: nn.Module
    parameters: dict[str, Tensor]
    conditions: Sequence[dict[str, object]]


class ZooDataModule(pl.LightningDataModule):
    """The last checkpoint of every run of a zoo, split into training, validation and test networks.

    Args:
        folder: Folder of the zoo, as ``hypergen zoo build`` and ``hypergen zoo import`` write it.
        images: Data that its networks are run on, where something has to run them.
        conditions: Kinds of condition that generators are given: ``"code"``, the labels of a network's task, and
            ``"metric"``, its loss on validation images; None for the codes of a zoo with tasks, and for the metric of
            one without.
        split: Whether test networks are unseen runs of training tasks (``"run"``), or those of unseen tasks.
        plan: Plan of the zoo, by which what is missing of it is built.
        data_name: Name of the images in a zoo that is built.

    Attributes:
        report: What building took; None where nothing was to be built.

    Raises:
        UnknownNameError: A kind of condition or the split is unknown.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        images: ImageDataModule | None = None,
        *,
        conditions: Sequence[str] | None = None,
        split: Literal["run", "task"] = "run",
        plan: ZooPlan | None = None,
        data_name: str = "digits",
    ) -> None:
        super().__init__()
        for kind in conditions or ():
            if kind not in KINDS:
                raise UnknownNameError("kind of condition", kind, KINDS)
        if split not in ("run", "task"):
            raise UnknownNameError("split of a zoo", split, ("run", "task"))
        self.folder, self.images, self.split = folder, images, split
        self.plan, self.data_name = plan, data_name
        self.report: BuildReport | None = None
        self._conditions = None if conditions is None else tuple(conditions)
        self._zoo: Zoo | None = None

    def prepare_data(self) -> None:
        """Build what is missing of the zoo, where there is a plan.

        Raises:
            HypergenError: There is a plan, but no images to train networks on.
        """
        if self.plan is None or self.report is not None:
            return
        if self.images is None:
            raise HypergenError("A zoo is built by training networks on images; pass images=.")
        splits = {split: self.images.tensors(split) for split in SPLITS}
        self.report = build_zoo(self.folder, self.plan, splits, data_name=self.data_name)

    @property
    def zoo(self) -> Zoo:
        """The zoo, built and opened at the first use.

        Raises:
            CheckpointError: There is none in the folder.
        """
        if self._zoo is None:
            self.prepare_data()
            self._zoo = Zoo(self.folder)
        return self._zoo

    @property
    def conditions(self) -> tuple[str, ...]:
        """The kinds of condition that networks are generated for."""
        if self._conditions is not None:
            return self._conditions
        return ("code",) if self.zoo.tasks else ("metric",)

    def part(self, split: str) -> Zoo:
        """The last checkpoints of ``"train"``, ``"validation"`` or ``"test"``.

        Training networks are those that are held out neither by run nor by task.
        """
        if split != "train" and self.split == "task":
            return self.zoo.last().split(split, by="task")  # type: ignore[arg-type]
        part = self.zoo.last().split(split, by="run")  # type: ignore[arg-type]
        return part.split("train", by="task") if self.zoo.tasks else part

    def conditions_of(self, part: Zoo, kinds: Sequence[str] | None = None) -> list[dict[str, object]]:
        """What each network was trained for: the labels of its task, and its validation loss."""
        columns: dict[str, list[Any]] = {}
        for kind in self.conditions if kinds is None else kinds:
            if kind == "code":
                columns[kind] = [part.tasks[task]["labels"] for task in part.column("task")]
            else:
                columns[kind] = part.column("validation.loss")
        return [{kind: values[row] for kind, values in columns.items()} for row in range(len(part))]

    def networks(self, split: str = "train", kinds: Sequence[str] | None = None) -> list[LayoutNetworks]:
        """The networks of a split by layout, stacked, with their conditions.

        Raises:
            HypergenError: There are none, or a layout does not say what architecture it is of.
        """
        part = self.part(split)
        if not len(part):
            raise HypergenError(f"The zoo {str(self.folder)!r} has no networks for {split}. Build it with splits.")
        found = []
        for layout in dict.fromkeys(part.column("layout")):
            own = part.select(layout=layout)
            parameters = own.stack(keys=own.layout.keys("generate"))
            with torch.random.fork_rng(devices=[]):  # What is drawn later must not depend on a template's values.
                model = architecture_of(own).build()
            found.append(LayoutNetworks(model, parameters, self.conditions_of(own, kinds)))
        return found

    def generator_arguments(self) -> dict[str, Any]:
        """What a generator of these networks is made with: their layouts, and the sizes of its conditions."""
        layouts = [
            {key: list(value.shape[1:]) for key, value in each.parameters.items()} for each in self.networks(kinds=())
        ]
        code = len(next(iter(self.zoo.tasks.values()))["labels"]) if "code" in self.conditions and self.zoo.tasks else 0
        return {"layouts": layouts, "code_size": code, "metric_size": int("metric" in self.conditions)}


def architecture_of(zoo: Zoo) -> Architecture:
    """The architecture of a zoo of one layout.

    Raises:
        HypergenError: The layout does not name it.
    """
    described = dict(zoo.layout.metadata).get("architecture")
    if described is None:
        raise HypergenError(
            f"The layout {zoo.layout.name!r} does not say what architecture it is of, so its networks cannot be run. "
            "Take a zoo that `hypergen zoo build` has built, or add metadata={'architecture': …} to the layout."
        )
    return Architecture.from_json(described)


def generator_for(data: ZooDataModule, generator: Callable[..., nn.Module]) -> nn.Module:
    """Make a generator for the networks of a zoo.

    Args:
        data: The zoo.
        generator: Maker of the generator, from layouts and sizes of conditions.
    """
    return generator(**data.generator_arguments())
