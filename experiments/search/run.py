"""``python train.py experiment=search``: hyperparameter search that reads weights, beside Optuna's own."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn

from experiments.search.plots import regret_by_budget
from experiments.search.table import SearchProblem, SearchTable
from experiments.shared.processes import cpu_seconds, seconds_since_start
from hypergen.evaluation.plots import save_figures
from hypergen.evaluation.properties.weight_statistics import weight_statistics
from hypergen.evaluation.results import Results, Row
from hypergen.metanets.hyperparameter_search.sampler import (
    WeightAwarePruner,
    WeightAwareSampler,
    earlier_step,
    report_weights,
)
from hypergen.metanets.hyperparameter_search.weight_features import WeightFeatures

# isort: split
import optuna  # After our own, which says what to install where it is missing.

Features = Callable[[nn.Module], Tensor]

METHODS = {
    "weight_aware": "weights, curve, settings",
    "without_weights": "curve, settings (DyHPO)",
    "tpe_median": "TPE, median pruning",
    "tpe_successive_halving": "TPE, successive halving",
    "tpe_hyperband": "TPE, Hyperband",
    "tpe": "TPE",
    "random": "random search",
    "statistics": "statistics instead of metanetwork",
    "without_resuming": "stopped trainings stay stopped",
    "tpe_median_twice": "TPE, median pruning, twice the budget",
}
_DRAWN = ("weight_aware", "without_weights", "tpe_median", "tpe_successive_halving", "random", "tpe", "tpe_hyperband")


def compare_searches(
    *,
    name: str,
    output: str,
    seed: int,
    problem: SearchProblem,
    features: Features | None = None,
    seeds: int = 10,
    budget: int = 100,
    aims: Mapping[str, float] | None = None,
) -> Results:
    """Search the same spaces with the same budget by every method.

    Each seed draws images and a search's randomness; all its settings are trained once, and every method looks up what
    it asks for. A block that a method has already paid for is free when it asks again. Regret is what the checkpoint
    with the best validation accuracy so far lacks to the table's best: in test accuracy, and in validation accuracy.

    Args:
        name: Name of the experiment.
        output: The folder that everything is written into.
        seed: Random seed of the first table; the others follow.
        problem: What is trained.
        features: Features of weights; a :class:`WeightFeatures` by default.
        seeds: How many tables.
        budget: Blocks of training.
        aims: By figure.

    Returns:
        The figures, which are also written to ``output`` and printed.
    """
    console = Console()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    features = features or WeightFeatures()
    found: dict[str, list[Tensor]] = {method: [] for method in METHODS}
    accuracies = []
    for number in range(seeds):
        begun = time.monotonic()
        table = problem.table(seed * seeds + number)
        accuracies.append(float(table.validation.max()))
        middle = time.monotonic()
        for method in METHODS:
            study, reads = _study(method, table.blocks, features, seed * seeds + number)
            found[method].append(search(table, study, budget * (2 if method.endswith("_twice") else 1), reads))
        console.print(
            f"Table {number + 1} of {seeds}: {len(table.validation)} settings trained in {middle - begun:.0f} s, "
            f"searched {len(METHODS)} times in {time.monotonic() - middle:.0f} s"
        )
    regrets = {method: torch.stack(values) for method, values in found.items()}  # [seeds, budget, split]
    rows = [*_rows(regrets), Row.from_values("best_validation_accuracy", accuracies)]
    rows.append(Row("run_seconds", seconds_since_start(), better="lower"))
    rows.append(Row("run_cpu_seconds", cpu_seconds(), better="lower"))
    rows = [Row(row.figure, row.value, row.std, row.n, (aims or {}).get(row.figure), row.better) for row in rows]
    details = {"budget": budget, "space": dict(table.space), "blocks": table.blocks, "methods": METHODS}
    results = Results(name, seed, tuple(sorted(rows, key=lambda row: row.aim is None)), details)
    results.write(output)
    labels = {method: METHODS[method] for method in _DRAWN}
    pictures = {
        f"regret_{split}": regret_by_budget(
            {method: regrets[method][..., index] for method in labels},
            labels,
            f"Regret in {split} accuracy, {seeds} searches of {len(table.validation)} settings: mean ± standard error",
        )
        for index, split in enumerate(("test", "validation"))
    }
    save_figures(pictures, Path(output))
    results.print_table(console)
    console.print(f"Results and plots are in {output}", soft_wrap=True)
    return results


def search(table: SearchTable, study: optuna.Study, budget: int, features: Features | None = None) -> Tensor:
    """Run a study whose objective looks trainings up.

    Args:
        table: Where.
        study: With the sampler and the pruner to try.
        budget: Blocks of training.
        features: Features of weights, to report them.

    Returns:
        [budget, 2]: the regret in test and in validation accuracy after each block.
    """
    paid: set[tuple[int, int]] = set()
    regrets: list[tuple[float, float]] = []
    best = -1.0
    resumes = isinstance(study.pruner, WeightAwarePruner)

    def objective(trial: optuna.Trial) -> float:
        nonlocal best
        levels = {
            name: trial.suggest_int(name, 0, size - 1) if number else trial.suggest_categorical(name, range(size))
            for number, (name, size) in enumerate(table.space.items())
        }
        row = table.row(levels)
        earlier = earlier_step(trial) if resumes else None
        value = 0.0
        for step in range(0 if earlier is None else earlier + 1, table.blocks):
            value = float(table.validation[row, step + 1])
            if (row, step) not in paid:
                if len(paid) == budget:
                    trial.study.stop()
                    raise optuna.TrialPruned
                paid.add((row, step))
                lacking = float(table.test.max() - table.test[row, step + 1]), float(table.validation.max()) - value
                regrets.append(lacking if value > best else regrets[-1])
                best = max(best, value)
            if features is not None:
                report_weights(trial, table.network(row, step + 1), step, features)
            trial.report(value, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return value

    # Trials of settings that are paid for cost nothing, so there may be more of them than blocks.
    study.optimize(objective, n_trials=3 * budget)
    return torch.tensor(regrets + [regrets[-1]] * (budget - len(regrets)), dtype=torch.float64)


def weight_summary(model: nn.Module) -> Tensor:
    """Statistics of a network's tensors, their means and deviations over tensors: what a metanetwork has to beat."""
    described = weight_statistics({name: value.detach()[None] for name, value in model.named_parameters()})[0]
    return torch.cat([described.mean(0), described.std(0)])


def exact_p_value(differences: Tensor) -> float:
    """How often differences [N] with random signs have a mean as far below zero, over all 2^N signs."""
    signs = torch.tensor(list(itertools.product((1.0, -1.0), repeat=len(differences))), dtype=torch.float64)
    means = signs @ differences.double()
    return float((means <= means[0] + 1e-12).double().mean())


def _study(method: str, blocks: int, features: Features, seed: int) -> tuple[optuna.Study, Features | None]:
    """A study by one method, and the features to report to it."""
    samplers, pruners = optuna.samplers, optuna.pruners
    reads: Features | None = None
    sampler: optuna.samplers.BaseSampler
    pruner: optuna.pruners.BasePruner
    if method == "random":
        sampler, pruner = samplers.RandomSampler(seed), pruners.NopPruner()
    elif method.startswith("tpe"):
        sampler = samplers.TPESampler(seed=seed)
        pruner = {
            "tpe": pruners.NopPruner(),
            "tpe_median": pruners.MedianPruner(),
            "tpe_median_twice": pruners.MedianPruner(),
            "tpe_successive_halving": pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3),
            "tpe_hyperband": pruners.HyperbandPruner(min_resource=1, max_resource=blocks, reduction_factor=3),
        }[method]
    else:
        sampler = WeightAwareSampler(blocks, seed=seed, resume=method != "without_resuming")
        pruner = WeightAwarePruner(sampler)
        reads = {"weight_aware": features, "without_resuming": features, "statistics": weight_summary}.get(method)
    # Hyperband draws its brackets by the study's name.
    return optuna.create_study(study_name=method, direction="maximize", sampler=sampler, pruner=pruner), reads


def _rows(regrets: Mapping[str, Tensor]) -> list[Row]:
    """Regrets [seeds, budget, split] at the end, and the paired differences of the first method to others."""
    rows = []
    for index, figure in enumerate(("search_regret", "validation_regret")):
        last = {method: values[:, -1, index] for method, values in regrets.items()}
        for method, values in last.items():
            suffix = "" if method == "weight_aware" else f"_{method}"
            rows.append(Row.from_values(f"{figure}{suffix}", values.tolist(), better="lower"))
        for method in ("tpe_median", "without_weights"):
            change = last["weight_aware"] - last[method]
            compared = f"{figure}_minus_{method}"
            rows.append(Row.from_values(compared, change.tolist(), better="lower"))
            rows.append(Row(f"{compared}_p_value", exact_p_value(change), better="lower"))
    return rows
