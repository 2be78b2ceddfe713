"""What training one ordinary network came to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from hypergen.data.images import ImageDataModule
from hypergen.evaluation.plots import save_figures
from hypergen.evaluation.results import Results, Row
from hypergen.training.target import TargetTraining


@dataclass(frozen=True)
class TargetEvaluation:
    """Rows and the curve of a training run.

    Attributes:
        results: Accuracies before and after training, and how soon the threshold was reached.
        curve: (step, validation accuracy, test accuracy) of each measurement.
    """

    results: Results
    curve: list[tuple[int, float, float]]

    def write(self, folder: str | Path) -> None:
        """Write ``results.json``, ``results.md`` and ``accuracy.png``."""
        self.results.write(folder)
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        steps, validation, test = zip(*self.curve, strict=True)
        axes.plot(steps, validation, label="validation")
        axes.plot(steps, test, label="test")
        axes.set(xlabel="training steps", ylabel="accuracy", ylim=(0, 1), title=self.results.name)
        axes.legend(loc="lower right")
        save_figures({"accuracy": figure}, folder)


def evaluate_target(
    trained: TargetTraining, data: ImageDataModule, *, name: str = "target", seed: int = 0
) -> TargetEvaluation:
    """Report a training run; test accuracies were measured as it went, and nothing was selected by them.

    Args:
        trained: The LightningModule after training.
        data: The images.
        name: Name of the results.
        seed: Random seed of the run.
    """
    _, validation, test = trained.curve[-1]
    soonest = trained.steps_to_threshold
    rows = (
        Row("accuracy_before_training", trained.curve[0][2]),
        Row("validation_accuracy", validation),
        Row("test_accuracy", test),
        Row(f"steps_to_{round(100 * trained.threshold)}", math.nan if soonest is None else soonest, better="lower"),
        Row("steps", trained.curve[-1][0], better="lower"),
        Row("share_of_parameters_predicted", trained.share_of_parameters_predicted),
    )
    details = {"curve": [list(point) for point in trained.curve], "test_images": len(data.tensors("test")[1])}
    return TargetEvaluation(Results(name, seed, rows, details), trained.curve)
