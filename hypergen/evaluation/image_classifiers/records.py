"""What the protocol keeps about each architecture; tables are made from these alone."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from hypergen.evaluation.steps import StepsCount


@dataclass(frozen=True)
class ArchitectureRecord:
    """One architecture; accuracies on test images, None where a baseline was not computed.

    Args:
        split: Split of architectures.
        name: Name of the architecture.
        family: Family of the architecture.
        parameters: How many values it has.
        predicted: With predicted parameters, batch norms calibrated; 0 if they cannot be used.
        predicted_ridge_head: The same with the last linear layer solved on training images.
        default: At default initialisation, batch norms calibrated.
        default_ridge_head: The same with the last linear layer solved on training images.
        trained_1_epoch: Trained from default initialisation.
        trained_5_epochs: The same after 5 epochs.
        trained_20_epochs: The same after 20 epochs.
        share_predicted: Share of the parameter values that were predicted.
        distinct_value_share: Distinct values over predicted values.
        failure: Why the prediction cannot be used; None if it can.
    """

    split: str
    name: str
    family: str
    parameters: int
    predicted: float
    predicted_ridge_head: float
    default: float
    default_ridge_head: float
    trained_1_epoch: float | None
    trained_5_epochs: float | None
    trained_20_epochs: float | None
    share_predicted: float
    distinct_value_share: float
    failure: str | None = None


@dataclass(frozen=True)
class StepsComparison:
    """Steps of one architecture to the threshold, from predicted parameters and from default initialisation.

    Args:
        name: Name of the architecture.
        family: Family of the architecture.
        cap: What a side counts that never reaches the threshold.
        predicted: From predicted parameters.
        default: From default initialisation.
    """

    name: str
    family: str
    cap: int
    predicted: StepsCount
    default: StepsCount

    @property
    def predicted_steps(self) -> int:
        """Steps, or the cap."""
        return self.cap if self.predicted.steps is None else self.predicted.steps

    @property
    def default_steps(self) -> int:
        """Steps, or the cap."""
        return self.cap if self.default.steps is None else self.default.steps

    @property
    def ratio(self) -> float:
        """Predicted over default; 0 where predicted parameters need no step."""
        # A default initialisation at the threshold before training would need no step either; it counts as one.
        return self.predicted_steps / max(self.default_steps, 1)

    def to_row(self) -> dict[str, Any]:
        """A line of a table; steps are empty where the threshold is never reached."""
        return {
            "name": self.name,
            "family": self.family,
            "predicted_steps": self.predicted.steps,
            "default_steps": self.default.steps,
            "ratio": round(self.ratio, 6),
            "predicted_learning_rate": self.predicted.learning_rate,
            "default_learning_rate": self.default.learning_rate,
        }


def records_to_csv(records: Sequence[ArchitectureRecord]) -> str:
    """A line per architecture."""
    rows = [
        {key: round(value, 6) if isinstance(value, float) else value for key, value in asdict(record).items()}
        for record in records
    ]
    return _csv([entry.name for entry in fields(ArchitectureRecord)], rows)


def steps_to_csv(comparisons: Sequence[StepsComparison]) -> str:
    """A line per architecture."""
    names = ["name", "family", "predicted_steps", "default_steps", "ratio"]
    names += ["predicted_learning_rate", "default_learning_rate"]
    return _csv(names, [comparison.to_row() for comparison in comparisons])


def _csv(names: list[str], rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
