"""Networks of a zoo as data: of which split, and with what they were trained for."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from hypergen.architectures import Architecture
from hypergen.architectures.by_name import NamedNetwork
from hypergen.data.canonical import CanonicalOrder
from hypergen.data.in_memory import SPLITS, InMemoryDataModule
from hypergen.data.wrapped import Score, WrappedDataModule, score_function
from hypergen.errors import HypergenError, UnknownNameError
from hypergen.zoo import Zoo
from hypergen.zoo.build.build import BuildReport, build_zoo
from hypergen.zoo.build.plan import Buildable, ZooPlan
from hypergen.zoo.layout import Layout

KINDS = ("code", "metric")
# The columns that networks are generated for where none is named: the first that the zoo has.
METRICS = tuple(f"{split}.{name}" for split in ("validation", "test", "train") for name in ("loss", "accuracy"))


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
            ``"metric"``, a column of the index; None for the codes of a zoo with tasks, and for the metric of one
            without.
        task: Instead of ``images``, the data module of somebody else's that the networks were trained on:
            ``package.module:name``; see :class:`~hypergen.data.wrapped.WrappedDataModule`.
        metric: Name of the column of the metric, such as ``"test.accuracy"``; None for the loss on validation images,
            or else for the first other loss or accuracy.
        score: Metric that networks are measured by instead of accuracy, ``package.module:function`` of outputs and
            labels.
        align: Whether the hidden units of all networks of a layout are brought into one order; None to do so where it
            brings the networks clearly nearer to one another, as it does unless they share an initialisation.
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
        images: InMemoryDataModule | None = None,
        *,
        task: str | None = None,
        metric: str | None = None,
        score: str | None = None,
        align: bool | None = None,
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
        self.folder, self.split, self.align = folder, split, align
        self.images: InMemoryDataModule | None = images if task is None else WrappedDataModule(task)
        self.score: Score | None = None if score is None else score_function(score)
        self._metric = metric
        self._parameters: dict[tuple[str, str], dict[str, Tensor]] = {}
        self._orders: dict[str, CanonicalOrder | None] = {}
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
    def metric(self) -> str | None:
        """The column of the index that networks are generated for; None where there is none.

        Raises:
            UnknownNameError: The zoo has no column of the name that was given.
        """
        names = self.zoo.index.column_names
        if self._metric is None:
            return next((name for name in METRICS if name in names and self.zoo.index[name].null_count == 0), None)
        if self._metric not in names:
            raise UnknownNameError("column of the zoo", self._metric, names)
        return self._metric

    @property
    def conditions(self) -> tuple[str, ...]:
        """The kinds of condition that networks are generated for."""
        if self._conditions is not None:
            return self._conditions
        if self.zoo.tasks:
            return ("code",)
        return () if self.metric is None else ("metric",)

    def part(self, split: str) -> Zoo:
        """The last checkpoints of ``"train"``, ``"validation"`` or ``"test"``.

        Training networks are those that are held out neither by run nor by task.
        """
        if split != "train" and self.split == "task":
            return self.zoo.last().split(split, by="task")  # type: ignore[arg-type]
        part = self.zoo.last().split(split, by="run")  # type: ignore[arg-type]
        return part.split("train", by="task") if self.zoo.tasks else part

    def held_out(self) -> dict[str, Zoo]:
        """The networks that generators are measured on, by what holds them out: ``"task"``, ``"run"``.

        Raises:
            HypergenError: There are no training networks, or nothing is held out.
        """
        zoo = self.zoo
        found = {"task": zoo.last().split("test", by="task")} if zoo.tasks else {}
        runs = zoo.last().split("test", by="run")
        found["run"] = runs.split("train", by="task") if zoo.tasks else runs
        found = {split: part for split, part in found.items() if len(part)}
        if not len(self.part("train")) or not found:
            raise HypergenError(
                f"The zoo {str(self.folder)!r} has no training runs, or holds out no task and no run: of "
                f"{len(set(zoo.column('run')))} runs {len(set(self.part('train').column('run')))} are for training. "
                "Build it with splits, or import more runs: a tenth of them is held out, by their names. Without "
                "anything held out, nothing can be said about a generator; evaluate=false trains it all the same."
            )
        return found

    def conditions_of(self, part: Zoo, kinds: Sequence[str] | None = None) -> list[dict[str, object]]:
        """What each network was trained for: the labels of its task, and its metric.

        Raises:
            HypergenError: The zoo tells no metric, or not that of every network.
        """
        columns: dict[str, list[Any]] = {}
        for kind in self.conditions if kinds is None else kinds:
            if kind == "code":
                columns[kind] = [part.tasks[task]["labels"] for task in part.column("task")]
            elif self.metric is None:
                raise HypergenError(
                    f"The zoo {str(self.folder)!r} tells no metric of its networks. Import it with --data, which "
                    "measures them, or with a --pattern that reads one from the files' names."
                )
            else:
                columns[kind] = part.column(self.metric)
                missing = [uid for uid, value in zip(part.column("uid"), columns[kind], strict=True) if value is None]
                if missing:
                    raise HypergenError(
                        f"{len(missing)} of {len(part)} networks have no {self.metric!r}, {missing[0]!r} first. Name "
                        "another column by data.metric=…, or import them with --data, which measures them."
                    )
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
            if (split, layout) not in self._parameters:
                self._parameters[split, layout] = self.in_order(own)
            with torch.random.fork_rng(devices=[]):  # What is drawn later must not depend on a template's values.
                model = architecture_of(own).build()
            found.append(LayoutNetworks(model, self._parameters[split, layout], self.conditions_of(own, kinds)))
        return found

    def in_order(self, part: Zoo) -> dict[str, Tensor]:
        """What generators write of networks of one layout, their hidden units in the order of the training networks.

        Args:
            part: Networks of one layout.

        Returns:
            ``[networks, *shape]`` by name.
        """
        parameters = part.stack(keys=generated(part.layout))
        order = self.order_of(part.layout.id)
        return parameters if order is None else order.apply(parameters)

    def order_of(self, layout: str) -> CanonicalOrder | None:
        """The order of the hidden units of a layout; None where networks stay as they are."""
        if layout not in self._orders:
            self._orders[layout] = None
            own = self.part("train").select(layout=layout)
            if self.align is not False and len(own) > 1:
                with torch.random.fork_rng(devices=[]):
                    model = architecture_of(own).build().eval()
                inputs = None if self.images is None else self.images.tensors("train")[0][:1]
                order = CanonicalOrder.of(model, own.stack(keys=generated(own.layout)), inputs)
                self._orders[layout] = order if order and (self.align or order.worthwhile) else None
        return self._orders[layout]

    def check_task(self) -> None:
        """Make sure that networks of every layout can be run on the task's data, where it is somebody else's.

        Raises:
            HypergenError: Inputs or labels do not fit; the message says what was expected.
        """
        if not isinstance(self.images, WrappedDataModule):
            return
        part = self.zoo.last()
        for layout in dict.fromkeys(part.column("layout")):
            own = part.select(layout=layout).take([0])
            model = architecture_of(own).build()
            model.load_state_dict(own.state_dict(0), strict=False)
            self.images.check(model, own.layout.name or f"The network {own.column('run')[0]!r}")

    def layouts_with_groups(self) -> list[dict[str, Any]]:
        """Shapes by name, and permutation groups, of each layout of the training networks."""
        found = []
        for layout in dict.fromkeys(self.part("train").column("layout")):
            own = self.zoo.layouts[layout]
            shapes = {name: list(own[name].shape) for name in generated(own)}
            kept = [[[name, axis] for name, axis in group if name in shapes] for group in own.permutation_groups]
            found.append({"shapes": shapes, "groups": [group for group in kept if group]})
        return found

    def generator_arguments(self) -> dict[str, Any]:
        """What a generator of these networks is made with: their layouts, and the sizes of its conditions."""
        part = self.part("train")
        if not len(part):
            raise HypergenError(f"The zoo {str(self.folder)!r} has no networks for training. Build it with splits.")
        layouts = []
        for layout in dict.fromkeys(part.column("layout")):
            own = self.zoo.layouts[layout]
            layouts.append({key: list(own[key].shape) for key in generated(own)})
        code = len(next(iter(self.zoo.tasks.values()))["labels"]) if "code" in self.conditions and self.zoo.tasks else 0
        return {"layouts": layouts, "code_size": code, "metric_size": int("metric" in self.conditions)}


def generated(layout: Layout) -> tuple[str, ...]:
    """The names of the parameters that generators write; statistics of batch norms are estimated afterwards."""
    return tuple(entry.key for entry in layout.entries if entry.role == "generate" and entry.kind == "parameter")


def architecture_of(zoo: Zoo) -> Buildable | NamedNetwork:
    """The architecture of a zoo of one layout.

    Raises:
        HypergenError: The layout does not name it.
    """
    metadata = dict(zoo.layout.metadata)
    if "architecture" in metadata:
        return Architecture.from_json(metadata["architecture"])
    if isinstance(metadata.get("model"), str):
        return NamedNetwork(metadata["model"])
    raise HypergenError(
        f"The layout {zoo.layout.name or zoo.layout.id!r} does not say what architecture it is of, so its networks "
        "cannot be run. Import it with `hypergen zoo import … --model package.module:factory`, take a zoo that "
        "`hypergen zoo build` has built, or add metadata={'model': …} to the layout."
    )


def generator_for(data: ZooDataModule, generator: Callable[..., nn.Module]) -> nn.Module:
    """Make a generator for the networks of a zoo.

    Args:
        data: The zoo.
        generator: Maker of the generator, from layouts and sizes of conditions.

    Raises:
        HypergenError: The networks do not fit the task's data.
    """
    data.check_task()
    arguments = data.generator_arguments()
    function = generator.func if isinstance(generator, functools.partial) else generator
    if "code_size" not in inspect.signature(function).parameters:  # reads units and trajectories, not conditions
        arguments = {"layouts": data.layouts_with_groups()}
    return generator(**arguments)
