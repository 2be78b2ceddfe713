"""The evaluation of a generator on a zoo as it lies on disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hypergen.data.canonical import parameter_groups
from hypergen.data.zoo import KINDS, ZooDataModule, architecture_of, generated
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
    a task, a metric the column of the index that ``data.metric`` names.

    Args:
        generator: Conditioned on code, on metric, on both, or on nothing.
        data: Zoo, with the data that its networks classify; of several layouts the most frequent is evaluated.
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
    zoo, classified = data.zoo, data.images
    if not set(kinds) <= set(KINDS) or (zoo.tasks and not kinds):
        raise HypergenError(
            f"{type(generator).__name__} is conditioned on {', '.join(kinds) or 'nothing'}; a zoo's evaluation knows "
            f"{' and '.join(KINDS)}. Evaluate it by `hypergen.evaluation.zoo.protocol.evaluate_zoo_generator`."
        )
    if classified is None:
        raise HypergenError("The zoo's networks are evaluated on data; pass ZooDataModule(…, images=…) or task=….")
    data.check_task()
    train, held_out = data.part("train"), data.held_out()
    layouts = Counter(train.column("layout"))
    chosen = next(iter(layouts))
    if len(layouts) > 1:  # The most frequent; distances and averages are those of one layout.
        chosen = layouts.most_common(1)[0][0]
        train = train.select(layout=chosen)
        held_out = {split: part.select(layout=chosen) for split, part in held_out.items()}
        if not all(map(len, held_out.values())):
            raise HypergenError(
                f"No run of the layout {zoo.layouts[chosen].name!r} is held out. Import more runs of it."
            )
    architecture, order = architecture_of(train), data.order_of(chosen)
    images = {split: classified.tensors(split) for split in ("train", "validation", "test")}
    template = architecture.build()
    keys = generated(train.layout)
    symmetry = trace(template, images["train"][0][:1]).symmetry()
    groups = parameter_groups(symmetry, dict.fromkeys(keys))
    codes = len(next(iter(zoo.tasks.values()))["labels"]) if zoo.tasks else 0
    relabel = (lambda conditions: conditions[:, :codes].round()) if zoo.tasks else None
    problem = StackedClassification(template, images, relabel, groups, score=data.score)
    first = next(iter(held_out.values()))
    seeds = [number if known is None else known for number, known in enumerate(first.column("init_seed")[:256])]
    init = StackedModule(architecture.build).initialise(seeds)

    def sampler(conditions: Tensor, samples: int, seed: int) -> Stacked:
        told = [
            {
                **({"code": row[:codes].tolist()} if "code" in kinds else {}),
                **({"metric": row[codes:].tolist()[0]} if "metric" in kinds else {}),
            }
            for row in conditions.repeat_interleave(samples, 0)
        ]
        with torch.no_grad():
            return generator.sample(template, told, seed=seed)

    train_checkpoints = _checkpoints(train, data, kinds)
    prompts = None
    if "metric" in kinds:
        known = train_checkpoints.conditions[:, -1]
        wanted = torch.linspace(float(known.min()), float(known.max()), 100)
        metric = "loss" if (data.metric or "").endswith("loss") else "accuracy"
        prompts = Prompts(
            torch.cat([train_checkpoints.conditions[:1, :-1].expand(100, -1), wanted[:, None]], 1), wanted, metric
        )
    return evaluate_zoo_generator(
        sampler,
        problem,
        train_checkpoints,
        {split: _checkpoints(part, data, kinds) for split, part in held_out.items()},
        init={key: value for key, value in init.items() if key in keys},
        samples=samples,
        seed=seed,
        prompts=prompts,
        cost=cost,
        finetuning=finetuning,
        aims=aims,
        name=name,
        details={
            "conditions": list(kinds),
            "metric": data.metric if "metric" in kinds else None,
            "layout": train.layout.name or chosen,
            "distance_to_mean": None if order is None else {"as_imported": order.before, "aligned": order.after},
        },
    )


def _checkpoints(part: Zoo, data: ZooDataModule, kinds: Sequence[str]) -> Checkpoints:
    tasks = data.zoo.tasks
    names = part.column("task") if tasks else [""] * len(part)
    numbers = {task: number for number, task in enumerate(dict.fromkeys(names))}
    columns = [torch.tensor([tasks[task]["labels"] for task in names]).float()] if tasks else []
    if "metric" in kinds:
        columns.append(torch.tensor([[float(str(each["metric"]))] for each in data.conditions_of(part, ("metric",))]))
    conditions = torch.cat(columns, 1) if columns else torch.zeros(len(part), 1)
    return Checkpoints(data.in_order(part), conditions, torch.tensor([numbers[task] for task in names]))
