"""The evaluation of a generator on a zoo as it lies on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hypergen.data.zoo import KINDS, ZooDataModule, architecture_of
from hypergen.errors import HypergenError
from hypergen.evaluation.zoo.data import Checkpoints, Cost, Stacked
from hypergen.evaluation.zoo.finetuning import FinetuningProtocol
from hypergen.evaluation.zoo.problem import StackedClassification
from hypergen.evaluation.zoo.protocol import Prompts, ZooEvaluation, evaluate_zoo_generator
from hypergen.functional.stacked_module import StackedModule
from hypergen.generators.zoo_generator import ZooGenerator
from hypergen.graph import trace
from hypergen.zoo import Zoo


def evaluate_on_zoo(
    generator: ZooGenerator,
    data: ZooDataModule,
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
        data: Zoo of one layout, with the images that its networks classify.
        samples: Networks per condition.
        seed: Random seed of everything random.
        cost: Cost of the generator and the zoo.
        finetuning: The settings of training from generated networks.
        aims: By figure.
        name: Name of the results.

    Raises:
        HypergenError: The zoo does not say how its networks are made, holds nothing out, or the generator needs
            conditions of other kinds.
    """
    kinds = generator.condition_kinds
    if not kinds or not set(kinds) <= set(KINDS):
        raise HypergenError(
            f"{type(generator).__name__} is conditioned on {', '.join(kinds) or 'nothing'}; a zoo's evaluation knows "
            f"{' and '.join(KINDS)}. Evaluate it by `hypergen.evaluation.zoo.protocol.evaluate_zoo_generator`."
        )
    zoo, classified = data.zoo, data.images
    if classified is None:
        raise HypergenError("The zoo's networks are evaluated on images; pass ZooDataModule(…, images=…).")
    architecture = architecture_of(zoo)
    train = data.part("train")
    held_out = {"task": zoo.last().split("test", by="task")} if zoo.tasks else {}
    held_out["run"] = _runs(zoo)
    held_out = {split: part for split, part in held_out.items() if len(part)}
    if not len(train) or not held_out:
        raise HypergenError("The zoo has no training runs, or holds out no task and no run. Build it with splits.")
    images = {split: classified.tensors(split) for split in ("train", "validation", "test")}
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


def _runs(zoo: Zoo) -> Zoo:
    """Unseen runs on training tasks; a zoo without tasks is not split by them."""
    part = zoo.last().split("test", by="run")
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
