"""The evaluation of a generator on a zoo as it lies on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hypergen.architectures import Architecture
from hypergen.errors import HypergenError
from hypergen.evaluation.image_data import HasTensors
from hypergen.evaluation.zoo.data import Checkpoints, Cost, Stacked
from hypergen.evaluation.zoo.finetuning import FinetuningProtocol
from hypergen.evaluation.zoo.problem import StackedClassification
from hypergen.evaluation.zoo.protocol import Prompts, ZooEvaluation, evaluate_zoo_generator
from hypergen.functional.stacked_module import StackedModule
from hypergen.generators.zoo_generator import ZooGenerator
from hypergen.graph import trace
from hypergen.zoo import Zoo

_KINDS = ("code", "metric")


def evaluate_on_zoo(
    generator: ZooGenerator,
    zoo: Zoo,
    data: HasTensors,
    *,
    samples: int = 4,
    seed: int = 0,
    cost: Cost | None = None,
    finetuning: FinetuningProtocol | None = None,
    aims: Mapping[str, float] | None = None,
    name: str = "zoo",
) -> ZooEvaluation:
    """Evaluate a generator on the tasks and runs that a zoo holds out; see :func:`evaluate_zoo_generator`.

    The zoo's last checkpoint of each run counts. Tasks are relabellings of the data's classes; a code is the labels of
    a task, a metric the loss on validation samples.

    Args:
        generator: Conditioned on code, on metric, or on both.
        zoo: Of one layout, built by :func:`hypergen.zoo.build.build.build_zoo`.
        data: What its networks classify.
        samples: Networks per condition.
        seed: Of everything random.
        cost: Of the generator and the zoo.
        finetuning: The settings of training from generated networks.
        aims: By figure.
        name: Of the results.

    Raises:
        HypergenError: The zoo does not say how its networks are made, holds nothing out, or the generator needs
            conditions of other kinds.
    """
    kinds = generator.condition_kinds
    if not kinds or not set(kinds) <= set(_KINDS):
        raise HypergenError(
            f"{type(generator).__name__} is conditioned on {', '.join(kinds) or 'nothing'}; a zoo's evaluation knows "
            f"{' and '.join(_KINDS)}. Evaluate it by `hypergen.evaluation.zoo.protocol.evaluate_zoo_generator`."
        )
    architecture = _architecture(zoo)
    train = training_part(zoo)
    held_out = {"task": zoo.last().split("test", by="task")} if zoo.tasks else {}
    held_out["run"] = _runs(zoo, "test")
    held_out = {split: part for split, part in held_out.items() if len(part)}
    if not len(train) or not held_out:
        raise HypergenError("The zoo has no training runs, or holds out no task and no run. Build it with splits.")
    images = {split: data.tensors(split) for split in ("train", "validation", "test")}
    groups = trace(architecture.build(), images["train"][0][:1]).symmetry().simple_groups
    codes = len(next(iter(zoo.tasks.values()))["labels"]) if zoo.tasks else 0
    relabel = (lambda conditions: conditions[:, :codes].round()) if zoo.tasks else None
    problem = StackedClassification(architecture.build(), images, relabel, groups)
    first = next(iter(held_out.values()))
    init = StackedModule(architecture.build).initialise(first.column("init_seed")[:256])
    keys = zoo.layout.keys("generate")

    def sampler(conditions: Tensor, samples: int, seed: int) -> Stacked:
        told = [
            {
                **({"code": row[:codes].tolist()} if "code" in kinds else {}),
                **({"metric": row[codes:].tolist()[0]} if "metric" in kinds else {}),
            }
            for row in conditions.repeat_interleave(samples, 0)
        ]
        with torch.no_grad():
            return generator.sample(architecture.build(), told, seed=seed)

    train_checkpoints = _checkpoints(train, zoo, kinds)
    prompts = None
    if "metric" in kinds:
        losses = train_checkpoints.conditions[:, -1]
        wanted = torch.linspace(float(losses.min()), float(losses.max()), 100)
        prompts = Prompts(
            torch.cat([train_checkpoints.conditions[:1, :-1].expand(100, -1), wanted[:, None]], 1), wanted
        )
    return evaluate_zoo_generator(
        sampler,
        problem,
        train_checkpoints,
        {split: _checkpoints(part, zoo, kinds) for split, part in held_out.items()},
        init={key: value for key, value in init.items() if key in keys},
        samples=samples,
        seed=seed,
        prompts=prompts,
        cost=cost,
        finetuning=finetuning,
        aims=aims,
        name=name,
        details={"conditions": list(kinds)},
    )


def _architecture(zoo: Zoo) -> Architecture:
    described = dict(zoo.layout.metadata).get("architecture")
    if described is None:
        raise HypergenError(
            f"The layout {zoo.layout.name!r} does not say what architecture it is of, so its networks cannot be run. "
            "Evaluate zoos that `hypergen zoo build` has built, or add metadata={'architecture': …} to the layout."
        )
    return Architecture.from_json(described)


def training_part(zoo: Zoo) -> Zoo:
    """The last checkpoint of each run that is for training, by task and by run."""
    return _runs(zoo, "train")


def conditions_of(part: Zoo, kinds: Sequence[str]) -> list[dict[str, object]]:
    """What each network of a zoo was trained for: code, the labels of its task, and metric, its validation loss."""
    columns: dict[str, list[Any]] = {}
    if "code" in kinds:
        columns["code"] = [part.tasks[task]["labels"] for task in part.column("task")]
    if "metric" in kinds:
        columns["metric"] = part.column("validation.loss")
    return [{kind: values[row] for kind, values in columns.items()} for row in range(len(part))]


def _runs(zoo: Zoo, split: Any) -> Zoo:
    """Runs of a split on training tasks; a zoo without tasks is not split by them."""
    part = zoo.last().split(split, by="run")
    return part.split("train", by="task") if zoo.tasks else part


def _checkpoints(part: Zoo, zoo: Zoo, kinds: Sequence[str]) -> Checkpoints:
    names = part.column("task") if zoo.tasks else [""] * len(part)
    numbers = {task: number for number, task in enumerate(dict.fromkeys(names))}
    columns = [torch.tensor([zoo.tasks[task]["labels"] for task in names]).float()] if zoo.tasks else []
    if "metric" in kinds:
        columns.append(torch.tensor(part.column("validation.loss"))[:, None])
    conditions = torch.cat(columns, 1) if columns else torch.zeros(len(part), 1)
    parameters = part.stack(keys=zoo.layout.keys("generate"))
    return Checkpoints(parameters, conditions, torch.tensor([numbers[task] for task in names]))
