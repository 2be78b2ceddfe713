"""``python train.py experiment=diffusion_tasks``: networks for tasks, and in layouts, that nobody trained."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from rich.console import Console

from experiments.diffusion_tasks.resizing import resize_networks
from experiments.shared.processes import cpu_seconds, executor, seconds_since_start
from experiments.shared.task_zoo import Learner, TaskSplits, TaskZoo, codes
from hypergen.data import ImageDataModule
from hypergen.evaluation.results import Results, Row
from hypergen.evaluation.zoo.baselines import nearest_condition
from hypergen.evaluation.zoo.data import Cost, Stacked, cycle
from hypergen.evaluation.zoo.finetuning import FinetuningProtocol
from hypergen.evaluation.zoo.measures import difference
from hypergen.evaluation.zoo.problem import accuracies
from hypergen.evaluation.zoo.protocol import ZooEvaluation, evaluate_zoo_generator
from hypergen.generators.latent_diffusion.model import LatentDiffusion
from hypergen.zoo.build.plan import Task, ZooPlan

ZOO, LAYOUT_ZOO = "zoo", "zoo_of_layouts"
SPARSE = "sparse_zoo"
# What fine-tuning saves is measured with the generator on all tasks alone: it takes longer than all other figures.
NO_FINETUNING = FinetuningProtocol(learning_rates=(1e-3,), steps=1)


def train_diffusion_tasks(
    *,
    name: str,
    output: str,
    seed: int,
    data: ImageDataModule,
    tasks: TaskSplits,
    zoo: Callable[..., ZooPlan],
    trainer: Callable[..., pl.Trainer],
    learner: Learner,
    sparse_learner: Learner,
    layout_learner: Learner,
    widths: Sequence[int] = (16,),
    layouts: Sequence[Sequence[int]] = (),
    unseen_layouts: Sequence[Sequence[int]] = (),
    samples: int = 2,
    workers: int = 1,
    aims: Mapping[str, float] | None = None,
) -> Results:
    """Build zoos, train latent diffusion on them, and evaluate it on held-out tasks beside every simple method.

    Three generators of one kind: on all training tasks, on few of them, and on networks of several layouts.

    Args:
        name: Name of the experiment.
        output: The folder that everything is written into.
        seed: Random seed of networks, training and sampling.
        data: The images.
        tasks: How many tasks there are.
        zoo: Makes the plans of zoos.
        trainer: Makes trainers.
        learner: The generator on all training tasks.
        sparse_learner: That on few of them.
        layout_learner: That on networks of several layouts.
        widths: Hidden layers of the networks of the first two.
        layouts: Hidden layers of the networks of the third; none to leave it out.
        unseen_layouts: Hidden layers that it is asked for, of widths and depths that its zoo lacks.
        samples: Networks for each held-out task.
        workers: 1 to train the generator of several layouts in a second process meanwhile, 0 for all in this one.
        aims: By figure.

    Returns:
        The figures, which are also written to ``output`` and printed.

    Raises:
        ValueError: A width or depth of an unseen layout is in the zoo.
        HypergenError: A file cannot be read or written.
    """
    _refuse_seen(layouts, unseen_layouts)
    console = Console()
    networks = TaskZoo(output, seed, data, zoo, trainer)
    train, validation, held_out = tasks.draw(data.num_classes)
    with executor(workers) as pool:
        console.print(f"{name}: seed {seed}, {len(train)} training tasks, {len(held_out)} held out")
        others = []
        if layouts:
            some = train[: tasks.by_architecture]
            others.append(
                pool.submit(layout_rows, networks, layout_learner, layouts, unseen_layouts, some, validation, held_out)
            )
        seconds = networks.build(ZOO, [widths], [*train, *held_out], tasks.data_orders)
        console.print(f"Zoo of {tasks.data_orders * (len(train) + len(held_out))} networks built in {seconds:.0f} s")
        evaluation, generator = evaluated(
            networks, learner, widths, train, validation, held_out, samples, name, seconds, aims
        )
        generator.save_pretrained(Path(output) / "generator", results=evaluation.results.to_dict())
        rows = list(evaluation.results.rows)
        few = train[: tasks.sparse]
        sparse_evaluation, _ = evaluated(
            networks, sparse_learner, widths, few, validation, held_out, samples, SPARSE, finetuning=NO_FINETUNING
        )
        rows += [
            Row(f"{SPARSE}_{row.figure}", row.value, row.std, row.n, None, row.better)
            for row in sparse_evaluation.results.rows
            if row.figure.endswith(("_accuracy", "_best_baseline", "_diversity_relative", "_novelty_relative"))
        ]
        for other in others:
            rows += other.result()
    rows += [
        Row("run_seconds", seconds_since_start(), better="lower"),
        Row("run_cpu_seconds", cpu_seconds(), better="lower"),
    ]
    rows = [Row(row.figure, row.value, row.std, row.n, (aims or {}).get(row.figure), row.better) for row in rows]
    rows.sort(key=lambda row: row.aim is None)
    results = Results(name, seed, tuple(rows), evaluation.results.details)
    full = ZooEvaluation(results, evaluation.methods, evaluation.noise, evaluation.finetuning)
    full.write(output)
    sparse_evaluation.write(Path(output) / SPARSE, plots=False)
    full.print_table(console)
    console.print(f"Results, tables and plots are in {output}", soft_wrap=True)
    return results


def evaluated(
    networks: TaskZoo,
    learner: Learner,
    widths: Sequence[int],
    train: Sequence[Task],
    validation: Sequence[Task],
    held_out: Sequence[Task],
    samples: int,
    name: str,
    zoo_seconds: float = float("nan"),
    aims: Mapping[str, float] | None = None,
    finetuning: FinetuningProtocol | None = None,
) -> tuple[ZooEvaluation, LatentDiffusion]:
    """Train a generator on the zoo's networks of some tasks, and evaluate it on others."""
    seen = networks.read(ZOO, widths, train)
    generator, seconds = networks.train(learner, [(widths, seen)])
    problem = networks.problem(widths)
    sampler = networks.sampler(generator, widths)
    selection = codes(validation)
    chosen_on = accuracies(problem, sampler(selection, 1, networks.seed), selection, "validation")
    Console().print(f"{name}: trained in {seconds:.0f} s, {chosen_on.mean():.3f} on validation tasks")
    evaluation = evaluate_zoo_generator(
        sampler,
        problem,
        seen,
        {"task": networks.read(ZOO, widths, held_out)},
        init=_init(networks, widths),
        samples=samples,
        seed=networks.seed,
        cost=Cost(seconds, sum(value.numel() for value in generator.parameters()), zoo_seconds, len(seen)),
        finetuning=finetuning,
        aims=aims,
        name=name,
    )
    return evaluation, generator


def layout_rows(
    networks: TaskZoo,
    learner: Learner,
    layouts: Sequence[Sequence[int]],
    unseen: Sequence[Sequence[int]],
    train: Sequence[Task],
    validation: Sequence[Task],
    held_out: Sequence[Task],
) -> list[Row]:
    """Train a generator on networks of several layouts, and ask it for layouts and tasks that it has not seen.

    The networks that it is compared with are those of the nearest training task, resized from each layout of the zoo;
    which layout is best, validation tasks decide.
    """
    begun = time.monotonic()
    networks.build(LAYOUT_ZOO, layouts, train, 1)
    zoo_seconds = time.monotonic() - begun
    seen = [(widths, networks.read(LAYOUT_ZOO, widths, train)) for widths in layouts]
    generator, seconds = networks.train(learner, seen)
    generator.save_pretrained(Path(networks.output) / "layout_generator")
    found: dict[str, list[torch.Tensor]] = {"generated": [], "resized": [], "init": []}
    chosen_on = []
    for widths in unseen:
        problem = networks.problem(widths)
        sampler = networks.sampler(generator, widths)
        shapes = {name: tuple(value.shape) for name, value in networks.architecture(widths).build().named_parameters()}

        def resized(conditions: torch.Tensor, number: int, shapes: dict[str, tuple[int, ...]] = shapes) -> Stacked:
            return resize_networks(nearest_condition(seen[number][1])(conditions, 1, networks.seed), shapes)

        selection, test = codes(validation), codes(held_out)
        best = max(
            range(len(seen)),
            key=lambda number: float(
                accuracies(problem, resized(selection, number), selection, "validation").mean()  # noqa: B023
            ),
        )
        chosen_on.append(accuracies(problem, sampler(selection, 1, networks.seed), selection, "validation"))
        for method, stacked in (
            ("generated", sampler(test, 1, networks.seed)),
            ("resized", resized(test, best)),
            ("init", cycle(_init(networks, widths), len(test))),
        ):
            found[method].append(accuracies(problem, stacked, test, "test"))
    together = {method: torch.stack(values, 1) for method, values in found.items()}  # [tasks, layouts]
    Console().print(
        f"unseen layouts: trained in {seconds:.0f} s, {torch.cat(chosen_on).mean():.3f} on validation tasks"
    )
    rows = [
        Row.from_values(f"unseen_architecture_{method}_accuracy", values.flatten().tolist())
        for method, values in together.items()
    ]
    best_other = max(together["resized"], together["init"], key=lambda values: float(values.mean()))
    margin, error = difference(together["generated"], best_other)
    count = len(best_other)
    rows += [
        Row("unseen_architecture_margin", margin, error * count**0.5, count),
        Row("unseen_architecture_generator_seconds", seconds, better="lower"),
        Row("unseen_architecture_zoo_seconds", zoo_seconds, better="lower"),
    ]
    return rows


def _init(networks: TaskZoo, widths: Sequence[int]) -> Stacked:
    """Networks at their default initialisation, under several seeds."""
    states = []
    for seed in range(8):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            states.append(dict(networks.architecture(widths).build().named_parameters()))
    return {name: torch.stack([state[name].detach() for state in states]) for name in states[0]}


def _refuse_seen(layouts: Sequence[Sequence[int]], unseen: Sequence[Sequence[int]]) -> None:
    widths = {width for layout in layouts for width in layout}
    depths = {len(layout) for layout in layouts}
    for layout in unseen:
        if len(layout) in depths or widths & set(layout):
            raise ValueError(
                f"the unseen layout {list(layout)} has a width or a depth of the zoo (widths {sorted(widths)}, depths "
                f"{sorted(depths)}); name others"
            )
