"""``python train.py experiment=lora_tasks``: adapters of a language model for tasks that nobody trained, from text."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytorch_lightning as pl
import torch
from rich.console import Console
from torch import Tensor, nn

from experiments.lora_tasks.zoo import LanguageModel, LetterTasks, answering, trained_parameters
from experiments.shared.processes import cpu_seconds, seconds_since_start
from experiments.shared.task_zoo import Learner, train_stages
from hypergen.evaluation.results import Results, Row
from hypergen.evaluation.zoo.baselines import Sampler
from hypergen.evaluation.zoo.data import Checkpoints, Cost, Stacked
from hypergen.evaluation.zoo.finetuning import FinetuningProtocol
from hypergen.evaluation.zoo.protocol import GENERATED, TRAINED, ZooEvaluation, evaluate_zoo_generator
from hypergen.generators.latent_diffusion.model import LatentDiffusion
from hypergen.generators.tokens.network_batches import LayoutNetworks, TrainingZoo
from hypergen.zoo import Layout, ZooWriter

# Every adapter learns its task in 60 steps of itself.
FINETUNING = FinetuningProtocol(learning_rates=(1e-2,), steps=10)


def train_lora_tasks(
    *,
    name: str,
    output: str,
    seed: int,
    letters: LetterTasks,
    language: LanguageModel,
    trainer: Callable[..., pl.Trainer],
    learner: Learner,
    samples: int = 4,
    aims: Mapping[str, float] | None = None,
) -> Results:
    """Train a language model, adapters of it for tasks, and a generator of adapters from the tasks' texts.

    The generator is evaluated on tasks that neither it nor the language model has seen, beside every simple method.
    Those are told the tasks' attributes, a bit each, as they cannot read. What counts is the share of the gain of
    trained adapters over the language model alone.

    Args:
        name: Name of the experiment.
        output: The folder that everything is written into.
        seed: Random seed of the language model, adapters, training and sampling.
        letters: The tasks.
        language: The language model and its adapters.
        trainer: Makes trainers.
        learner: The generator.
        samples: Adapters for each held-out task; more where there are few tasks, to make at least 32.
        aims: By figure.

    Returns:
        The figures, which are also written to ``output`` and printed.

    Raises:
        HypergenError: A library is missing, adapters became infinite, or a file cannot be written.
    """
    console = Console()
    tasks, held_out_tasks = letters.drawn
    console.print(f"{name}: seed {seed}, {len(tasks)} training tasks, {len(held_out_tasks)} held out")
    begun = time.monotonic()
    base = language.train(tasks, seed)
    base.save_pretrained(Path(output) / "language_model")
    console.print(f"Language model of {base.num_parameters():,} parameters trained in {time.monotonic() - begun:.0f} s")

    begun = time.monotonic()
    adapted = language.with_adapter(base, seed)
    model = answering(adapted)
    every, accuracy = language.train_adapters(model, [*tasks, *held_out_tasks], letters, seed)
    zoo_seconds = time.monotonic() - begun
    _write_zoo(Path(output) / "zoo", adapted, every, accuracy, letters, language)
    seen = every.tasks < len(tasks)
    train, held_out = every[seen], every[~seen]
    console.print(f"Zoo of {len(every)} adapters trained in {zoo_seconds:.0f} s")

    begun = time.monotonic()
    torch.manual_seed(seed)
    texts = [task.text(number) for number, task in enumerate(letters.task_of(train.conditions))]
    generator = learner.generator(layouts=[{key: list(value.shape[1:]) for key, value in train.parameters.items()}])
    conditions: list[dict[str, object]] = [{"text": text} for text in texts]
    zoo = TrainingZoo.read(generator, [LayoutNetworks(model, train.parameters, conditions)])
    train_stages(learner, generator, zoo, letters.data["train"][0], trainer, output, seed)
    seconds = time.monotonic() - begun
    console.print(f"Generator trained in {seconds:.0f} s")

    evaluation = evaluate_zoo_generator(
        text_sampler(generator, adapted, letters),
        letters.problem(model),
        train,
        {"task": held_out},
        init=trained_parameters(adapted),
        samples=samples,
        seed=seed,
        cost=Cost(seconds, sum(value.numel() for value in generator.parameters()), zoo_seconds, len(train)),
        finetuning=FINETUNING,
        name=name,
    )
    rows = [
        *gain_rows(evaluation),
        *evaluation.results.rows,
        Row("run_seconds", seconds_since_start(), better="lower"),
        Row("run_cpu_seconds", cpu_seconds(), better="lower"),
    ]
    rows = [Row(row.figure, row.value, row.std, row.n, (aims or {}).get(row.figure), row.better) for row in rows]
    details = {**evaluation.results.details, "held_out_texts": [task.text() for task in held_out_tasks]}
    results = Results(name, seed, tuple(sorted(rows, key=lambda row: row.aim is None)), details)
    generator.save_pretrained(Path(output) / "generator", results=results.to_dict())
    full = ZooEvaluation(results, evaluation.methods, evaluation.noise, evaluation.finetuning)
    full.write(output)
    full.print_table(console)
    console.print(f"Results, tables and plots are in {output}", soft_wrap=True)
    return results


def text_sampler(generator: LatentDiffusion, model: nn.Module, letters: LetterTasks) -> Sampler:
    """A generator of adapters as the evaluation calls it; it is told texts, and a task's wordings in turn."""

    def sample(features: Tensor, samples: int, seed: int) -> Stacked:
        texts = [task.text(number) for task in letters.task_of(features) for number in range(samples)]
        with torch.no_grad():
            return generator.sample(model, [{"text": text} for text in texts], seed=seed)

    return sample


def gain_rows(evaluation: ZooEvaluation) -> list[Row]:
    """What each method gains over the language model alone, as a share of what trained adapters gain.

    The first is ``share_of_trained_gain`` of the generator; those of other methods have their names at the end.
    """
    methods = {row["method"]: row for row in next(iter(evaluation.methods.values()))}
    base = methods["init"]["accuracy"]
    gain = methods[TRAINED]["accuracy"] - base
    rows = []
    for method, found in methods.items():
        suffix = "" if method == GENERATED else f"_{method}"
        share = (found["accuracy"] - base) / gain if gain else float("nan")
        spread = found["std"] / abs(gain) if gain else float("nan")
        if method not in (TRAINED, "init"):
            rows.append(Row(f"share_of_trained_gain{suffix}", share, spread, found["n"]))
    return rows


def _write_zoo(
    folder: Path,
    model: nn.Module,
    adapters: Checkpoints,
    accuracy: Mapping[str, Tensor],
    letters: LetterTasks,
    language: LanguageModel,
) -> None:
    """Write the adapters, and what is frozen once."""
    train, held_out = letters.drawn
    names = [task.name for task in (*train, *held_out)]
    frozen = {key: value.detach() for key, value in model.named_parameters() if not value.requires_grad}
    first = {key: value[0] for key, value in adapters.parameters.items()}
    layout = Layout.of({**frozen, **first}, frozen=list(frozen), name="adapter")
    numbers = adapters.tasks.tolist()
    with ZooWriter(folder) as writer:
        for task in (*train, *held_out):
            writer.add_task(task.name, {"text": task.text(), "features": task.features})
        writer.add_stacked(
            {**frozen, **adapters.parameters},
            runs=[f"{names[number]}-{order % language.orders}" for order, number in enumerate(numbers)],
            steps=language.adapter_steps,
            layout=layout,
            columns={
                "task": [names[number] for number in numbers],
                "split_task": ["train" if number < len(train) else "test" for number in numbers],
                **{f"{split}.accuracy": values for split, values in accuracy.items()},
            },
        )
