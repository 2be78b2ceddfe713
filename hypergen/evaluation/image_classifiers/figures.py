"""The figures of the main job, from what was recorded about each architecture."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from hypergen.evaluation.image_classifiers.records import ArchitectureRecord, StepsComparison
from hypergen.evaluation.results import Row

TEST = "test"
OUT_OF_DISTRIBUTION = ("wide", "deep", "no_norm", "new_family")
EVALUATED_SPLITS = (TEST, *OUT_OF_DISTRIBUTION)

_LOWER_IS_BETTER = frozenset({"steps_ratio_to_95"})
AIMS: dict[str, dict[str, float]] = {
    "five_minutes": {
        "predicted_accuracy_mean": 0.90,
        "predicted_accuracy_worst_decile": 0.70,
        **{f"predicted_accuracy_{split}": 0.70 for split in OUT_OF_DISTRIBUTION},
        "steps_ratio_to_95": 0.3,
        "share_of_parameters_predicted": 1.0,
        "distinct_value_share": 0.99,
    },
    "release": {
        "predicted_accuracy_mean": 0.95,
        "predicted_accuracy_worst_decile": 0.85,
        **{f"predicted_accuracy_{split}": 0.80 for split in OUT_OF_DISTRIBUTION},
        "steps_ratio_to_95": 0.2,
        "share_of_parameters_predicted": 1.0,
        "distinct_value_share": 0.99,
    },
}
"""What each figure should reach: a run of five minutes, and the generator that comes with the package."""

_BASELINES = (
    "default",
    "default_ridge_head",
    "predicted_ridge_head",
    "trained_1_epoch",
    "trained_5_epochs",
    "trained_20_epochs",
)


def worst_decile(values: Sequence[float]) -> list[float]:
    """The lowest tenth of the values, at least one."""
    return sorted(values)[: math.ceil(len(values) / 10)]


def rows_of(
    records: Sequence[ArchitectureRecord],
    steps: Sequence[StepsComparison],
    steps_excluded: int,
    aims: Mapping[str, float],
) -> list[Row]:
    """Summarise the records; figures of a split that was not evaluated are left out.

    Args:
        records: Records of every architecture.
        steps: Number of steps of those architectures that the comparison of steps is about.
        steps_excluded: How many were left out of it because default initialisation never gets there.
        aims: By figure.
    """
    rows = [*_prediction_rows(records), *_baseline_rows(records)]
    if steps:
        rows += _steps_rows(steps, steps_excluded)
    return [
        Row(row.figure, row.value, row.std, row.n, aims.get(row.figure), row.better)
        for row in sorted(rows, key=lambda row: row.figure not in aims)  # Stable: figures with an aim come first.
    ]


def _prediction_rows(records: Sequence[ArchitectureRecord]) -> Iterator[Row]:
    test = [record for record in records if record.split == TEST]
    if test:
        accuracies = [record.predicted for record in test]
        yield Row.from_values("predicted_accuracy_mean", accuracies)
        yield Row.from_values("predicted_accuracy_worst_decile", worst_decile(accuracies))
    for split in OUT_OF_DISTRIBUTION:
        accuracies = [record.predicted for record in records if record.split == split]
        if accuracies:
            yield Row.from_values(f"predicted_accuracy_{split}", accuracies)
    yield Row.from_values("share_of_parameters_predicted", [record.share_predicted for record in records])
    yield Row.from_values("distinct_value_share", [record.distinct_value_share for record in test or records])
    failed = sum(record.failure is not None for record in records)
    yield Row("predictions_failed", failed, 0.0, len(records), better="lower")


def _baseline_rows(records: Sequence[ArchitectureRecord]) -> Iterator[Row]:
    splits = [split for split in EVALUATED_SPLITS if any(record.split == split for record in records)]
    for split in splits:
        for baseline in _BASELINES:
            values = [getattr(record, baseline) for record in records if record.split == split]
            known = [value for value in values if value is not None]
            if known:
                name = "default_accuracy" if baseline == "default" else baseline
                yield Row.from_values(f"{name}_{'mean' if split == TEST else split}", known)


def _steps_rows(steps: Sequence[StepsComparison], excluded: int) -> Iterator[Row]:
    yield Row.from_values("steps_ratio_to_95", [entry.ratio for entry in steps], better="lower", statistic="median")
    for side in ("predicted", "default"):
        counts = [getattr(entry, f"{side}_steps") for entry in steps]
        yield Row.from_values(f"steps_to_95_{side}_median", counts, better="lower", statistic="median")
        never = sum(getattr(entry, side).steps is None for entry in steps)
        yield Row(f"steps_to_95_{side}_never", never, 0.0, len(steps), better="lower")
    yield Row("steps_ratio_excluded", excluded, 0.0, len(steps) + excluded, better="lower")


def mean_accuracy(records: Sequence[ArchitectureRecord], split: str, column: str) -> float:
    """Mean of a column over a split; NaN if it was not computed."""
    values = [getattr(record, column) for record in records if record.split == split]
    known = [value for value in values if value is not None]
    return fmean(known) if known else math.nan
