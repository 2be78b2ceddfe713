"""Compute the baselines: each function here is one task of a worker, or draws those tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from hypergen.architectures import Architecture
from hypergen.errors import ParameterError
from hypergen.evaluation.accuracy import accuracy, calibrate, ridge_head_accuracy
from hypergen.evaluation.image_classifiers.baselines import Baseline, BaselineProtocol, Baselines, DefaultSteps, Trained
from hypergen.evaluation.image_data import ImageData
from hypergen.evaluation.parallel import map_tasks
from hypergen.evaluation.short_training import build_default, derived_seed, steps_per_epoch, training_steps
from hypergen.evaluation.steps import count_steps, ever_reaches

TEST = "test"


@dataclass(frozen=True)
class BaselineTask:
    """An architecture of a split, and how its baselines are computed."""

    split: str
    architecture: Architecture
    protocol: BaselineProtocol


def compute_baselines(
    data: ImageData,
    splits: Mapping[str, Sequence[Architecture]],
    protocol: BaselineProtocol | None = None,
    *,
    workers: int = 2,
    resume: Baselines | None = None,
    on_progress: Callable[[Baselines, int, int], None] | None = None,
) -> Baselines:
    """Compute the baselines of every architecture.

    Args:
        data: The images.
        splits: Architectures by split; steps are counted on the one named ``"test"``.
        protocol: The settings; None for the usual ones.
        workers: Processes; 0 for none.
        resume: What there is already; it is added to.
        on_progress: Called with the baselines so far, tasks done and tasks in all.

    Returns:
        All baselines, in the order of the splits.

    Raises:
        ValueError: ``resume`` was computed on other images or with other settings.
    """
    protocol = protocol or BaselineProtocol()
    baselines = resume or Baselines(data.fingerprint(), protocol)
    if (baselines.data, baselines.protocol) != (data.fingerprint(), protocol):
        raise ValueError("baselines computed on other images or with other settings cannot be resumed")
    report = on_progress or (lambda *_: None)
    pairs = [(split, architecture) for split, architectures in splits.items() for architecture in architectures]
    tasks = [
        BaselineTask(split, architecture, protocol)
        for split, architecture in pairs
        if (split, architecture.name) not in baselines.records
    ]
    total = len(pairs) + min(protocol.step_architectures, len(splits.get(TEST, ())))
    done = len(pairs) - len(tasks)
    report(baselines, done, total)
    for _, record in map_tasks(train_baseline, data, tasks, workers=workers):
        baselines.records[record.split, record.name] = record
        done += 1
        report(baselines, done, total)
    candidates = [BaselineTask(TEST, architecture, protocol) for architecture in splits.get(TEST, ())]
    kept = 0
    while candidates and kept < protocol.step_architectures:
        # As many as are missing, if all of them reach the accuracy; those that do not are replaced in the next round.
        chunk = candidates[: protocol.step_architectures - kept]
        candidates = candidates[len(chunk) :]
        new = [task for task in chunk if task.architecture.name not in baselines.steps]
        for _, entry in map_tasks(count_default_steps, data, new, workers=workers):
            baselines.steps[entry.name] = entry
            report(baselines, done + kept + sum(_reaches(baselines, task) for task in chunk), total)
        kept += sum(_reaches(baselines, task) for task in chunk)
    # In the order of the splits, whichever was finished first.
    baselines.records = {
        (split, architecture.name): baselines.records[split, architecture.name] for split, architecture in pairs
    }
    names = [architecture.name for architecture in splits.get(TEST, ())]
    baselines.steps = {name: baselines.steps[name] for name in names if name in baselines.steps}
    report(baselines, total, total)
    return baselines


def train_baseline(data: ImageData, task: BaselineTask) -> Baseline:
    """Measure a network at default initialisation and train it at every learning rate."""
    architecture, protocol = task.architecture, task.protocol
    model = build_default(architecture, protocol.seed)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    calibrate(model, data)
    default = accuracy(model, *data.test)
    ridge = ridge_head_accuracy(model, data)
    lengths, kept = protocol.epochs, len(protocol.learning_rates)
    if task.split != TEST:
        lengths, kept = protocol.other_epochs, protocol.other_learning_rates_kept
    trained = train_with_tuned_rate(architecture, data, protocol, sorted(lengths), rates_kept=kept)
    return Baseline(task.split, architecture.name, parameters, default, ridge, trained)


def train_with_tuned_rate(
    architecture: Architecture, data: ImageData, protocol: BaselineProtocol, lengths: Sequence[int], *, rates_kept: int
) -> dict[int, Trained]:
    """Train at every learning rate, and select one by validation accuracy for each length of training.

    Args:
        architecture: The network.
        data: The images.
        protocol: Learning rates and seed.
        lengths: Epochs, ascending.
        rates_kept: How many learning rates go on beyond the first length: those with the best validation accuracy.
    """
    order = derived_seed(protocol.seed, architecture.name, "order")
    runs = {
        rate: measured_training(build_default(architecture, protocol.seed), data, rate, lengths, seed=order)
        for rate in protocol.learning_rates
    }
    trained = {}
    for epochs in lengths:
        measured = {rate: next(run, (0.0, 0.0)) for rate, run in runs.items()}  # (0, 0): training has blown up.
        ranking = sorted(runs, key=lambda rate: -measured[rate][0])
        trained[epochs] = Trained(measured[ranking[0]][1], ranking[0])
        runs = {rate: runs[rate] for rate in ranking[:rates_kept]}
    return trained


def measured_training(
    model: nn.Module, data: ImageData, learning_rate: float, lengths: Sequence[int], *, seed: int
) -> Iterator[tuple[float, float]]:
    """Train in place and measure after each of several numbers of epochs.

    Batch norms are calibrated for each measurement, as those of a predicted network are: running averages lag behind
    in an epoch of a few steps, which would make training look worse than it is.

    Yields:
        (validation accuracy, test accuracy) for each length; fewer where training blows up.
    """
    per_epoch = steps_per_epoch(len(data.train[0]))
    marks = [epochs * per_epoch for epochs in lengths]
    for step in training_steps(model, *data.train, learning_rate=learning_rate, seed=seed):
        if step in marks:
            try:
                calibrate(model, data)
            except ParameterError:
                return
            yield accuracy(model, *data.validation), accuracy(model, *data.test)
            model.train()
        if step >= marks[-1]:
            return


def count_default_steps(data: ImageData, task: BaselineTask) -> DefaultSteps:
    """Count the steps of a network from default initialisation, if it reaches the accuracy at all."""
    architecture, protocol = task.architecture, task.protocol
    order = derived_seed(protocol.seed, architecture.name, "order")

    def make_model() -> nn.Module:
        return build_default(architecture, protocol.seed)

    count = count_steps(make_model, data, protocol.steps, seed=order)
    if count.steps is not None:
        return DefaultSteps(architecture.name, True, count)
    others = [rate for rate in protocol.steps.learning_rates if rate != count.learning_rate]
    reaches = ever_reaches(make_model, data, protocol.steps, seed=order, learning_rates=others)
    return DefaultSteps(architecture.name, reaches, count if reaches else None)


def _reaches(baselines: Baselines, task: BaselineTask) -> bool:
    entry = baselines.steps.get(task.architecture.name)
    return entry is not None and entry.reaches
