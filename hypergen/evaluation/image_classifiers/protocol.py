"""The protocol of the main job: predict the networks of every held-out split of a space of image classifiers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor, nn

from hypergen.architectures import Architecture, load_split
from hypergen.errors import HypergenError
from hypergen.evaluation.image_classifiers.baselines import Baselines, load_baselines
from hypergen.evaluation.image_classifiers.figures import AIMS, EVALUATED_SPLITS, TEST, rows_of
from hypergen.evaluation.image_classifiers.one_architecture import (
    PredictionMeasures,
    PredictionTask,
    measure_prediction,
)
from hypergen.evaluation.image_classifiers.records import (
    ArchitectureRecord,
    StepsComparison,
    records_to_csv,
    steps_to_csv,
)
from hypergen.evaluation.image_data import HasTensors, ImageData
from hypergen.evaluation.parallel import map_tasks, one_thread, pack
from hypergen.evaluation.results import Results, write_atomically
from hypergen.evaluation.steps import StepsCount, StepsProtocol
from hypergen.functional import check_parameters
from hypergen.functional.batches import evaluation_mode


@dataclass(frozen=True)
class Evaluation:
    """What was found about a generator.

    Args:
        results: The figures.
        records: One per architecture, in the order of the splits.
        steps: One per architecture whose training was compared.
    """

    results: Results
    records: tuple[ArchitectureRecord, ...]
    steps: tuple[StepsComparison, ...]

    def write(self, folder: str | Path, *, plots: bool = True) -> list[Path]:
        """Write ``results.json``, ``results.md``, ``architectures.csv``, ``steps.csv`` and the plots.

        Args:
            folder: Made if it does not exist.
            plots: Whether to draw the plots, which takes a few seconds.

        Returns:
            The paths of the plots.
        """
        folder = Path(folder)
        self.results.write(folder)
        write_atomically(folder / "architectures.csv", records_to_csv(self.records))
        write_atomically(folder / "steps.csv", steps_to_csv(self.steps))
        if not plots:
            return []
        from hypergen.evaluation.plots import write_plots  # Importing matplotlib takes a second.

        return write_plots(self.records, self.steps, folder)


def evaluate_image_classifier_generator(
    generator: Any,
    data: HasTensors,
    *,
    splits: Sequence[str] | Mapping[str, Sequence[Architecture]] = EVALUATED_SPLITS,
    workers: int = 2,
    seed: int = 0,
    architectures_per_split: int | None = None,
    baselines: Baselines | None = None,
    aims: str | Mapping[str, float] = "five_minutes",
    name: str = "image_classifiers_digits",
    progress: bool = True,
) -> Evaluation:
    """Predict networks that the generator has never seen, measure them, and train some of them further.

    The figures do not depend on the number of workers.

    Args:
        generator: Has ``generate(target, example_inputs=...)``, as :class:`hypergen.generators.Generator` has. The
            target is on the meta device; the inputs are one blank image.
        data: Images that predicted networks are measured on, such as :class:`hypergen.data.DigitsDataModule`.
        splits: Names of splits, or architectures by split.
        workers: Processes with one thread each; 0 for none. Predictions are made in this process.
        seed: Random seed of the order of images in training, and of values that a generator leaves to the default
            initialisation.
        architectures_per_split: Only the first so many of each split.
        baselines: Baselines of these architectures on these images; None for those that come with hypergen.
        aims: ``"five_minutes"``, ``"release"``, or an aim by figure.
        name: Name of the results.
        progress: Show a progress bar.

    Returns:
        Figures and records. A prediction that cannot be used, because the generator raises an error of hypergen or the
        network's values blow up, counts with an accuracy of 0, and its record says why.

    Raises:
        ValueError: Images or architectures are not those of the baselines, or the name of the aims is unknown.
        FileNotFoundError: There are no baselines.
        RuntimeError: A worker died.
    """
    if isinstance(aims, str):
        if aims not in AIMS:
            raise ValueError(f"unknown aims {aims!r}; expected one of {list(AIMS)}, or an aim by figure")
        aims = AIMS[aims]
    images = ImageData.read(data)
    chosen = splits if isinstance(splits, Mapping) else {split: load_split(split) for split in splits}
    chosen = {split: list(architectures)[:architectures_per_split] for split, architectures in chosen.items()}
    baselines = load_baselines() if baselines is None else baselines
    baselines.require(images.fingerprint(), chosen)
    kept, excluded = baselines.comparable_steps([architecture.name for architecture in chosen.get(TEST, ())])
    pairs = [(split, architecture) for split, architectures in chosen.items() for architecture in architectures]
    one_image = torch.zeros_like(images.test[0][:1])
    tasks = _prediction_tasks(generator, one_image, pairs, kept, baselines.protocol.steps, seed)

    measures: dict[int, PredictionMeasures] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not progress) as bar:
        shown = bar.add_task("evaluating", total=len(pairs))
        for index, found in map_tasks(measure_prediction, images, tasks, workers=workers):
            measures[index] = found
            bar.advance(shown)

    records = []
    steps = []
    for index, (split, architecture) in enumerate(pairs):
        found = measures[index]
        records.append(_record(split, architecture, found, baselines))
        if found.steps is not None:
            cap = baselines.protocol.steps.cap
            steps.append(
                StepsComparison(architecture.name, architecture.family, cap, found.steps, kept[architecture.name])
            )
    details = {
        "splits": {split: len(architectures) for split, architectures in chosen.items()},
        "protocol": baselines.protocol.to_json(),
        "baselines_commit": baselines.commit,
    }
    rows = tuple(rows_of(records, steps, len(excluded), aims))
    return Evaluation(Results(name, seed, rows, details), tuple(records), tuple(steps))


def _prediction_tasks(
    generator: Any,
    example_inputs: Tensor,
    pairs: Sequence[tuple[str, Architecture]],
    kept: Mapping[str, StepsCount],
    protocol: StepsProtocol,
    seed: int,
) -> Iterator[PredictionTask]:
    for split, architecture in pairs:
        parameters, failure = predict_architecture(generator, architecture, example_inputs)
        with_steps = split == TEST and architecture.name in kept
        yield PredictionTask(architecture, pack(parameters), failure, protocol if with_steps else None, seed)


def predict_architecture(
    generator: Any, architecture: Architecture, example_inputs: Tensor
) -> tuple[dict[str, Tensor], str | None]:
    """The prediction, or why there is none that can be used."""
    return predict_network(generator, architecture.build, example_inputs)


def predict_network(
    generator: Any, build: Callable[[], nn.Module], example_inputs: Tensor
) -> tuple[dict[str, Tensor], str | None]:
    """The prediction for the network that ``build`` makes, or why there is none that can be used."""
    # A target without values: whatever is predicted cannot have been copied from it.
    with torch.device("meta"):
        target = build()
    try:
        with one_thread(), evaluation_mode(generator if isinstance(generator, nn.Module) else nn.Identity()):
            parameters = dict(generator.generate(target, example_inputs=example_inputs))
        check_parameters(target, parameters, partial=True)
    except HypergenError as error:
        return {}, f"{type(error).__name__}: {error}"
    return parameters, None


def _record(
    split: str, architecture: Architecture, found: PredictionMeasures, baselines: Baselines
) -> ArchitectureRecord:
    baseline = baselines.records[split, architecture.name]
    trained = {epochs: result.accuracy for epochs, result in baseline.trained.items()}
    return ArchitectureRecord(
        split=split,
        name=architecture.name,
        family=architecture.family,
        parameters=found.parameters,
        predicted=found.predicted,
        predicted_ridge_head=found.predicted_ridge_head,
        default=baseline.default,
        default_ridge_head=baseline.default_ridge_head,
        trained_1_epoch=trained.get(1),
        trained_5_epochs=trained.get(5),
        trained_20_epochs=trained.get(20),
        share_predicted=found.share_predicted,
        distinct_value_share=found.distinct_value_share,
        failure=found.failure,
    )
