"""The protocol of language models: perplexity of unseen GPTs at predicted parameters, and training on from there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hypergen.architectures import Architecture, language_model_split
from hypergen.data.task import LANGUAGE_MODELLING
from hypergen.evaluation.image_classifiers.protocol import predict_architecture
from hypergen.evaluation.image_data import HasTensors, ImageData
from hypergen.evaluation.parallel import map_tasks, pack, unpack
from hypergen.evaluation.results import Results, Row
from hypergen.evaluation.short_training import build_default, derived_seed, training_steps
from hypergen.functional import apply_parameters, distinct_value_share
from hypergen.functional.batches import evaluation_mode

SPLITS = ("test", "wide", "deep")
AIMS = {"steps_ratio": 0.5, "share_of_parameters_predicted": 1.0, "distinct_value_share": 0.99}


@dataclass(frozen=True)
class PerplexityProtocol:
    """The settings of :func:`evaluate_language_model_generator` that training is compared with."""

    steps: int
    learning_rates: tuple[float, ...]
    batch_size: int


@dataclass(frozen=True)
class LanguageModelTask:
    """A network, what was predicted for it, and the protocol where training is compared."""

    split: str
    architecture: Architecture
    parameters: dict[str, np.ndarray]
    failure: str | None
    protocol: PerplexityProtocol | None
    seed: int


@dataclass(frozen=True)
class LanguageModelRecord:
    """What was measured about a network; perplexities on test windows.

    Args:
        split: That the architecture is from.
        name: Name of the architecture.
        config: Its arguments.
        parameters: Their number.
        share_predicted: Predicted share of the parameters.
        distinct_value_share: Among what was predicted.
        predicted: Perplexity at predicted parameters; infinite where there are none that can be used.
        default: Perplexity at default initialisation.
        trained: Perplexity after the steps of the protocol from default initialisation.
        steps: Steps to that perplexity from predicted parameters; None if never.
        learning_rate: That the default initialisation was trained with.
        predicted_learning_rate: That the predicted parameters were trained with; None where they need no training.
        failure: Why there is no prediction.
    """

    split: str
    name: str
    config: dict[str, Any]
    parameters: int
    share_predicted: float
    distinct_value_share: float
    predicted: float
    default: float
    trained: float | None = None
    steps: int | None = None
    learning_rate: float | None = None
    predicted_learning_rate: float | None = None
    failure: str | None = None


@dataclass(frozen=True)
class LanguageModelEvaluation:
    """What was found about a generator.

    Args:
        results: The figures; the records are among their details.
        records: One per architecture, in the order of the splits.
    """

    results: Results
    records: tuple[LanguageModelRecord, ...]

    def write(self, folder: str | Path) -> None:
        """Write ``results.json`` and ``results.md``."""
        self.results.write(folder)


def evaluate_language_model_generator(
    generator: Any,
    data: HasTensors,
    *,
    steps: int = 500,
    learning_rates: Sequence[float] = (5e-4, 1.5e-3, 5e-3),
    batch_size: int = 8,
    architectures_per_split: int | None = None,
    workers: int = 2,
    seed: int = 0,
    name: str = "logah_text",
) -> LanguageModelEvaluation:
    """Predict language models that the generator has never seen, measure them, and train those of the test split.

    Args:
        generator: Has ``generate(target, example_inputs=...)``, as :class:`hypergen.generators.Generator` has.
        data: Windows of tokens, such as :class:`hypergen.data.TextDataModule`.
        steps: Steps of training from default initialisation; the perplexity after them is what the predicted
            parameters have to reach, and after as many they give up.
        learning_rates: Learning rates of Adam; each side has the one that serves it best on validation windows.
        batch_size: Windows per step.
        architectures_per_split: Only the first so many of each split.
        workers: Processes with one thread each; 0 for none.
        seed: Random seed of default initialisations and of the order of windows in training.
        name: Name of the results.

    Raises:
        RuntimeError: A worker died.
    """
    protocol = PerplexityProtocol(steps, tuple(learning_rates), batch_size)
    windows = ImageData.read(data)
    tasks = (
        LanguageModelTask(
            split,
            architecture,
            *_packed(*predict_architecture(generator, architecture, windows.test[0][:1])),
            protocol if split == "test" else None,
            seed,
        )
        for split in SPLITS
        for architecture in language_model_split(split)[:architectures_per_split]
    )
    found = dict(map_tasks(measure_language_model, windows, tasks, workers=workers))
    records = tuple(found[index] for index in range(len(found)))
    details = {"protocol": asdict(protocol), "records": [_json(asdict(record)) for record in records]}
    rows = rows_of(records, count_perplexities(windows), protocol.steps)
    return LanguageModelEvaluation(Results(name, seed, rows, details), records)


def measure_language_model(data: ImageData, task: LanguageModelTask) -> LanguageModelRecord:
    """Measure a prediction, and compare training from it where the task says so."""
    values = unpack(task.parameters)
    network = build_default(task.architecture, task.seed)
    total = sum(parameter.numel() for parameter in network.parameters())
    default = perplexity(network, *data.test)
    predicted = math.inf
    if task.failure is None:
        apply_parameters(network, values, partial=True)
        predicted = perplexity(network, *data.test)
    record = LanguageModelRecord(
        split=task.split,
        name=task.architecture.name,
        config=dict(task.architecture.config),
        parameters=total,
        share_predicted=sum(value.numel() for value in values.values()) / total,
        distinct_value_share=distinct_value_share(values) if values else 0.0,
        predicted=predicted,
        default=default,
        failure=task.failure,
    )
    return record if task.protocol is None else _compared(record, values, data, task, task.protocol)


def _compared(
    record: LanguageModelRecord,
    values: dict[str, Tensor],
    data: ImageData,
    task: LanguageModelTask,
    protocol: PerplexityProtocol,
) -> LanguageModelRecord:
    """The record with what training shows from both sides, which see the same windows in the same order."""
    order = derived_seed(task.seed, task.architecture.name, "order")

    def curve(rate: float, checks: Sequence[int], predicted: bool) -> Iterator[tuple[int, float, float]]:
        network = build_default(task.architecture, task.seed)
        if predicted:
            apply_parameters(network, values, partial=True)
        return perplexities_while_training(network, data, checks, rate, order, protocol.batch_size)

    ends = {rate: next(curve(rate, [protocol.steps], False), None) for rate in protocol.learning_rates}
    trained = {rate: end for rate, end in ends.items() if end is not None}
    if not trained:
        return record
    rate = min(trained, key=lambda rate: trained[rate][1])
    _, validation_aim, test_aim = trained[rate]
    reached: dict[float, tuple[float, int | None]] = {}
    if record.failure is None and record.predicted > test_aim:
        for own in protocol.learning_rates:
            on_validation, on_test = math.inf, None
            for step, validation, test in curve(own, check_points(protocol.steps), True):
                on_validation = min(on_validation, step if validation <= validation_aim else math.inf)
                on_test = step if on_test is None and test <= test_aim else on_test
                best = min((steps for steps, _ in reached.values()), default=math.inf)
                if (on_test is not None and on_validation < math.inf) or (step > best and on_validation > best):
                    break  # It is there, or has lost.
            reached[own] = on_validation, on_test
    chosen = min(reached, key=lambda own: reached[own][0], default=None)
    steps = (0 if record.failure is None else None) if chosen is None else reached[chosen][1]
    return replace(record, trained=test_aim, steps=steps, learning_rate=rate, predicted_learning_rate=chosen)


def check_points(cap: int) -> list[int]:
    """When perplexity is measured: after each of the first 5 steps, then at a quarter more each time."""
    steps = [0]
    while steps[-1] < cap:
        steps.append(min(cap, max(steps[-1] + 1, math.ceil(1.25 * steps[-1]))))
    return steps


def perplexities_while_training(
    model: nn.Module, data: ImageData, checks: Sequence[int], learning_rate: float, seed: int, batch_size: int
) -> Iterator[tuple[int, float, float]]:
    """Train in place; (step, validation perplexity, test perplexity), until the loss stops being finite."""
    training = training_steps(
        model, *data.train, learning_rate=learning_rate, seed=seed, batch_size=batch_size, task=LANGUAGE_MODELLING
    )
    done = 0
    for check in checks:
        while done < check:
            if next(training, None) is None:
                return
            done += 1
        yield check, perplexity(model, *data.validation), perplexity(model, *data.test)


def perplexity(model: nn.Module, tokens: Tensor, following: Tensor, *, batch_size: int = 64) -> float:
    """Exponential of the mean loss over all positions of all windows; infinite where it is not finite.

    Args:
        model: Maps tokens [batch, length] to logits [batch, length, vocabulary].
        tokens: [N, length], int64.
        following: The token after each, [N, length].
        batch_size: Windows at a time.
    """
    total = 0.0
    with evaluation_mode(model):
        for inputs, expected in zip(tokens.split(batch_size), following.split(batch_size), strict=True):
            total += LANGUAGE_MODELLING.loss(model(inputs), expected).item() * len(inputs)
    mean = total / len(tokens)
    return math.exp(mean) if mean < 700 else math.inf  # NaN is not below anything.


def count_perplexities(data: ImageData) -> dict[str, float]:
    """Test perplexity of counting single tokens, and pairs of them, in the training windows."""
    tokens, following = (part.flatten() for part in data.train)
    size = int(max(part.max() for split in data for part in split)) + 1
    unigram = torch.bincount(following, minlength=size).double() + 1  # What never occurs is not impossible.
    unigram /= unigram.sum()
    pairs = torch.bincount(tokens * size + following, minlength=size**2).double().view(size, size) + unigram
    bigram = pairs / pairs.sum(1, keepdim=True)
    before, after = (part.flatten() for part in data.test)
    return {
        "unigram_perplexity": math.exp(-unigram[after].log().mean().item()),
        "bigram_perplexity": math.exp(-bigram[before, after].log().mean().item()),
    }


def rows_of(records: Sequence[LanguageModelRecord], counted: dict[str, float], steps: int) -> tuple[Row, ...]:
    """Summarise the records; means over architectures, medians where it says so."""
    test = [record for record in records if record.split == "test"]
    compared = [record for record in test if record.trained is not None]
    usable = [record for record in records if record.failure is None]
    needed = [steps if record.steps is None else record.steps for record in compared]
    rows = [
        Row.from_values("steps_ratio", [n / steps for n in needed], better="lower", statistic="median"),
        Row.from_values("share_of_parameters_predicted", [record.share_predicted for record in records]),
        Row.from_values("distinct_value_share", [record.distinct_value_share for record in records]),
        *(
            Row.from_values(
                f"predicted_perplexity_{split}", [r.predicted for r in usable if r.split == split], better="lower"
            )
            for split in SPLITS
        ),
        Row("predicted_below_bigram", sum(r.predicted < counted["bigram_perplexity"] for r in test), 0.0, len(test)),
        *(Row(figure, value, better="lower") for figure, value in counted.items()),
        Row.from_values("default_perplexity_test", [record.default for record in test], better="lower"),
        Row.from_values(
            f"default_perplexity_after_{steps}_steps", [r.trained for r in compared if r.trained], better="lower"
        ),
        Row.from_values("steps_to_it_from_predicted", needed, better="lower", statistic="median"),
        Row("never_reached_from_predicted", sum(r.steps is None for r in compared), 0.0, len(compared), better="lower"),
        Row("predictions_failed", len(records) - len(usable), 0.0, len(records), better="lower"),
    ]
    return tuple(Row(r.figure, r.value, r.std, r.n, AIMS.get(r.figure), r.better) for r in rows)


def _packed(parameters: dict[str, Tensor], failure: str | None) -> tuple[dict[str, np.ndarray], str | None]:
    return pack(parameters), failure


def _json(record: dict[str, Any]) -> dict[str, Any]:
    """Without the infinite, which JSON lacks."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
