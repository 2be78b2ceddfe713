"""The evaluation of a generator of checkpoints: its figures, always together with what could explain them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console, JustifyMethod
from rich.table import Table
from torch import Tensor

from hypergen.evaluation.results import Better, Results, Row, write_atomically
from hypergen.evaluation.zoo.baselines import Sampler, nearest_condition, noise_added, spread, zoo_baselines
from hypergen.evaluation.zoo.data import Checkpoints, Cost, Stacked, select
from hypergen.evaluation.zoo.finetuning import Finetuning, FinetuningProtocol, finetune_each
from hypergen.evaluation.zoo.measures import LEAST_NETWORKS, Comparison, Measures, difference
from hypergen.evaluation.zoo.problem import ZooProblem, accuracies
from hypergen.evaluation.zoo.words import in_words

GENERATED, TRAINED = "generated", "trained"
_COLUMNS = (
    "method",
    "accuracy",
    "std",
    "n",
    "novelty",
    "overlap_train",
    "from_averages",
    "diversity",
    "overlap_within",
    "verdict",
)


@dataclass(frozen=True)
class Prompts:
    """Conditions that ask for a metric, to see whether it is obtained.

    Args:
        conditions: [prompts, features].
        wanted: The metric that each asks for, [prompts].
        metric: ``"loss"`` or ``"accuracy"``, on test samples.
    """

    conditions: Tensor
    wanted: Tensor
    metric: str = "loss"


@dataclass(frozen=True)
class ZooEvaluation:
    """What was found about a generator of checkpoints.

    Args:
        results: The figures.
        methods: By split, a row for the generator and each baseline, in the columns of ``methods.csv``.
        noise: By split, (strength, novelty relative to trained networks, accuracy) of the noise sweep.
        finetuning: By split and start.
        prompts: (wanted, obtained) where the generator was prompted.
    """

    results: Results
    methods: Mapping[str, list[dict[str, Any]]]
    noise: Mapping[str, list[tuple[float, float, float]]]
    finetuning: Mapping[str, Mapping[str, Finetuning]]
    prompts: list[tuple[float, float]] = field(default_factory=list)

    def verdict(self, split: str | None = None, method: str = GENERATED) -> str:
        """The verdict on a method on a split; on the generator and the first split by default."""
        rows = self.methods[split or next(iter(self.methods))]
        return str(next(row["verdict"] for row in rows if row["method"] == method))

    def in_words(self) -> str:
        """Whether sampled networks work, and what to try where they do not."""
        return in_words(self.results, self.methods)

    def with_rows(self, rows: Sequence[Row], aims: Mapping[str, float]) -> ZooEvaluation:
        """The same with more figures at the end, and with aims."""
        every = [Row(**{**vars(row), "aim": aims.get(row.figure, row.aim)}) for row in (*self.results.rows, *rows)]
        return replace(self, results=replace(self.results, rows=tuple(every)))

    def write(self, folder: str | Path, *, plots: bool = True) -> list[Path]:
        """Write ``results.json``, ``results.md``, ``methods_SPLIT.csv`` and the plots.

        Args:
            folder: Made if it does not exist.
            plots: Whether to draw the plots, which takes a few seconds.

        Returns:
            The paths of the plots.
        """
        folder = Path(folder)
        self.results.write(folder)
        tables = [self.results.to_markdown()]
        for split, rows in self.methods.items():
            lines = [",".join(_COLUMNS), *(",".join(_cell(row[column]) for column in _COLUMNS) for row in rows)]
            write_atomically(folder / f"methods_{split}.csv", "\n".join(lines) + "\n")
            tables.append(_markdown(split, rows))
        write_atomically(folder / "results.md", "\n".join([*tables, f"{self.in_words()}\n"]))
        if not plots:
            return []
        from hypergen.evaluation.zoo.plots import write_zoo_plots  # Importing matplotlib takes a second.

        return write_zoo_plots(folder, self.methods, self.noise, self.finetuning, self.prompts)

    def print_table(self, console: Console | None = None) -> None:
        """Print the figures, and the methods beside each other."""
        # What is no terminal counts as 80 wide, which is too narrow for the table of methods.
        console = console or (Console() if Console().is_terminal else Console(width=110))
        self.results.print_table(console)
        for split, rows in self.methods.items():
            table = Table(title=f"held out by {split}", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
            for column in _COLUMNS:
                side: JustifyMethod = "left" if column in ("method", "verdict") else "right"
                table.add_column(column.replace("_", "\n"), justify=side, no_wrap=True)
            for row in rows:
                style = "bold" if row["method"] == GENERATED else ""
                table.add_row(*(_cell(row[column]) for column in _COLUMNS), style=style)
            console.print(table)


def evaluate_zoo_generator(
    sampler: Sampler,
    problem: ZooProblem,
    train: Checkpoints,
    held_out: Mapping[str, Checkpoints],
    *,
    init: Mapping[str, Tensor],
    samples: int = 4,
    seed: int = 0,
    cost: Cost | None = None,
    prompts: Prompts | None = None,
    finetuning: FinetuningProtocol | None = None,
    aims: Mapping[str, float] | None = None,
    details: Mapping[str, Any] | None = None,
    name: str = "zoo",
) -> ZooEvaluation:
    """Measure a generator of checkpoints on held-out conditions, with everything that could explain its figures.

    Every figure is a mean over all networks that were sampled, never of the best. Nothing is selected on test samples.
    How to read the verdicts stands in :mod:`hypergen.evaluation.zoo.measures`.

    Args:
        sampler: The generator: ``(conditions [m, features], samples, seed)`` to stacked networks, the samples of a
            condition in a row.
        problem: What the networks are for.
        train: What the generator was trained on.
        held_out: By what holds them apart (``"task"``, ``"run"``), networks that the generator was not trained on. The
            figures of the first have plain names, those of others end in ``_by_SPLIT``.
        init: Networks before training, [any number, *shape] by parameter.
        samples: Networks per condition; more where there are few conditions, to make at least 32.
        seed: Random seed of sampling, noise and training.
        cost: Cost of the generator and its zoo.
        prompts: Conditions that ask for a metric.
        finetuning: The settings of training from generated networks.
        aims: By figure.
        details: What else belongs to the results.
        name: Name of the results.

    Returns:
        Figures, and the table of methods with a verdict on each.
    """
    aims = aims or {}
    rows: list[Row] = []
    methods: dict[str, list[dict[str, Any]]] = {}
    noise: dict[str, list[tuple[float, float, float]]] = {}
    trainings: dict[str, dict[str, Finetuning]] = {}
    baselines = zoo_baselines(problem, train, init, seed)
    for number, (split, checkpoints) in enumerate(held_out.items()):
        comparison = Comparison(problem, train, checkpoints, dict(init), seed)
        conditions = comparison.conditions
        each = max(samples, math.ceil(LEAST_NETWORKS / len(conditions)))
        generated = sampler(conditions, each, seed)
        measured = _measure(comparison, generated, baselines, each, seed)
        methods[split] = [_method_row(comparison, measures) for measures in measured.values()]
        trained_novelty = float(comparison.trained.novelty.median())
        noise[split] = [
            (strength, float(novelty) / trained_novelty, float(accuracy.mean()))
            for strength, novelty, accuracy in comparison.noise
        ]
        few = math.ceil(LEAST_NETWORKS / len(conditions))
        starts = {
            "generated": select(generated, (torch.arange(len(conditions) * each) % each) < few),
            "nearest": baselines["nearest_condition"](conditions, few, seed),
            "init": baselines["init"](conditions, few, seed),
        }
        settings = finetuning or FinetuningProtocol()
        target = float(measured[TRAINED].accuracy.mean()) - settings.below_trained
        repeated = conditions.repeat_interleave(few, 0)
        trainings[split] = finetune_each(problem, starts, repeated, target, settings, seed)
        found = [*_accuracy_rows(comparison, measured), *_likeness_rows(comparison, measured[GENERATED])]
        found += _finetuning_rows(trainings[split])
        suffix = "" if number == 0 else f"_by_{split}"
        rows += [Row(row.figure + suffix, row.value, row.std, row.n, None, row.better) for row in found]
    obtained: list[tuple[float, float]] = []
    if prompts is not None:
        for method, prompted in ((GENERATED, sampler), ("nearest_condition", baselines["nearest_condition"])):
            values = _obtained(problem, prompted(prompts.conditions, 1, seed), prompts)
            rows += prompt_rows(method, prompts.wanted, values)
            if method == GENERATED:
                obtained = list(zip(prompts.wanted.tolist(), values.tolist(), strict=True))
    rows += _cost_rows(cost) if cost else []
    rows = [Row(row.figure, row.value, row.std, row.n, aims.get(row.figure), row.better) for row in rows]
    settings_used = {"samples": samples, "finetuning": asdict(finetuning or FinetuningProtocol())}
    everything = {**(details or {}), **settings_used, "methods": methods, "noise": noise}
    return ZooEvaluation(Results(name, seed, tuple(rows), everything), methods, noise, trainings, obtained)


def _measure(
    comparison: Comparison, generated: Stacked, baselines: Mapping[str, Sampler], each: int, seed: int
) -> dict[str, Measures]:
    """The generator first, the trained networks second, then every baseline."""
    measured = {GENERATED: comparison.measure(GENERATED, generated), TRAINED: comparison.trained}
    copies = select(comparison.train.parameters, measured[GENERATED].nearest)
    measured["nearest_weight"] = comparison.measure("nearest_weight", copies)
    for method, baseline in baselines.items():
        measured[method] = comparison.measure(method, baseline(comparison.conditions, each, seed))
    scale = spread(comparison.train.parameters)
    for strength in (0.1, 0.3, 1.0):
        noisy = noise_added(nearest_condition(comparison.train), scale, strength)
        method = f"noise_{strength:g}".replace(".", "")
        measured[method] = comparison.measure(method, noisy(comparison.conditions, each, seed))
    return measured


def _method_row(comparison: Comparison, measures: Measures) -> dict[str, Any]:
    accuracy = measures.accuracy
    similar = measures.similarity_within
    numbers = {
        "accuracy": float(accuracy.mean()),
        "std": float(accuracy.std()) if accuracy.numel() > 1 else 0.0,
        "novelty": comparison.novelty(measures),
        "overlap_train": comparison.similarity_to_train(measures),
        "from_averages": comparison.from_averages(measures),
        "diversity": comparison.diversity(measures.diversity),
        "overlap_within": float(similar.mean()) if len(similar) else math.nan,
    }
    return {
        "method": measures.method,
        **{key: value if math.isfinite(value) else None for key, value in numbers.items()},
        "n": accuracy.numel(),
        "verdict": comparison.verdict(measures),
    }


def _accuracy_rows(comparison: Comparison, measured: Mapping[str, Measures]) -> list[Row]:
    rows = [_row(f"{method}_accuracy", measures.accuracy) for method, measures in measured.items()]
    generated = measured[GENERATED].accuracy
    count = len(generated)
    equal = comparison.noise_at_equal_novelty(measured[GENERATED])
    rows.append(_row("noise_at_equal_novelty_accuracy", equal))
    explain = {method: measures.accuracy for method, measures in measured.items() if method not in (GENERATED, TRAINED)}
    best = max(explain, key=lambda method: float(explain[method].mean()))
    for figure, one, other in (
        ("generated_below_trained", measured[TRAINED].accuracy, generated),
        ("margin_over_best_baseline", generated, explain[best]),
        ("margin_over_noise_at_equal_novelty", generated, equal),
    ):
        mean, error = difference(one, other)
        better: Better = "lower" if figure == "generated_below_trained" else "higher"
        rows.append(Row(figure, mean, error * count**0.5, count, better=better))
    return rows


def _likeness_rows(comparison: Comparison, generated: Measures) -> list[Row]:
    count = len(generated.novelty)
    rows = [
        Row("generated_novelty_relative", comparison.novelty(generated), n=count),
        Row(
            "generated_overlap_with_train_relative", comparison.similarity_to_train(generated), n=count, better="lower"
        ),
        Row("generated_distance_to_averages_relative", comparison.from_averages(generated), n=count),
        _row("held_out_to_train_distance", comparison.trained.novelty),
        _row("held_out_to_train_overlap", comparison.trained.similarity_to_train, better="lower"),
    ]
    for who, distances, overlaps in (
        (GENERATED, generated.diversity, generated.similarity_within),
        (TRAINED, comparison.trained.diversity, comparison.trained.similarity_within),
        ("zoo", comparison.zoo_diversity, comparison.zoo_similarity),
    ):
        rows.append(Row(f"{who}_diversity_relative", comparison.diversity(distances), n=len(distances)))
        rows.append(_row(f"{who}_overlap_within", overlaps, better="lower"))
    return rows


def _finetuning_rows(finetuning: Mapping[str, Finetuning]) -> list[Row]:
    rows = [_row(f"finetuned_10_steps_{start}", found.early) for start, found in finetuning.items()]
    rows += [_row(f"steps_to_target_{start}", found.steps, better="lower") for start, found in finetuning.items()]
    rows.append(_row("steps_saved", finetuning["init"].steps - finetuning["generated"].steps))
    return rows


def _obtained(problem: ZooProblem, networks: Stacked, prompts: Prompts) -> Tensor:
    if prompts.metric == "loss":
        return problem.losses(networks, prompts.conditions, "test")
    return accuracies(problem, networks, prompts.conditions, "test")


def prompt_rows(method: str, wanted: Tensor, obtained: Tensor) -> list[Row]:
    """How well the metrics that were obtained are those that were wanted: correlation, and R² without any fit."""
    residual = (obtained - wanted).square().sum() / (wanted - wanted.mean()).square().sum()
    correlation = float(torch.corrcoef(torch.stack([wanted, obtained]))[0, 1])
    return [
        Row(f"{method}_prompt_correlation", correlation, n=len(wanted)),
        Row(f"{method}_prompt_r2", float(1 - residual), n=len(wanted)),
    ]


def _cost_rows(cost: Cost) -> list[Row]:
    return [
        Row("generator_seconds", cost.generator_seconds, better="lower"),
        Row("generator_parameters", cost.generator_parameters, better="lower"),
        Row("zoo_seconds", cost.zoo_seconds, better="lower"),
        Row("zoo_networks", cost.zoo_networks, better="lower"),
    ]


def _row(figure: str, values: Tensor, better: Better = "higher") -> Row:
    return Row.from_values(figure, values.flatten().tolist(), better=better)


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def _markdown(split: str, rows: list[dict[str, Any]]) -> str:
    lines = [
        f"## Held out by {split}",
        "",
        "Novelty, overlap of errors with training networks, distance from averages and diversity are relative to those "
        "of networks that were trained for the held-out conditions.",
        "",
        f"| {' | '.join(column.replace('_', ' ') for column in _COLUMNS)} |",
        f"| {' | '.join('---' if column in ('method', 'verdict') else '---:' for column in _COLUMNS)} |",
        *(f"| {' | '.join(_cell(row[column]) for column in _COLUMNS)} |" for row in rows),
        "",
    ]
    return "\n".join(lines)
