"""Judge a generator on networks of public libraries that its training never imported.

``python -m experiments.held_out_libraries.run`` predicts every network of ``datasets/held_out_libraries.json`` on
scikit-learn's digits, prints a table and, as its last line, the same figures as JSON. ``--steps 50`` also trains from
both starts.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import nn

from experiments.held_out_libraries.networks import HeldOutNetwork, installed_versions, load_list
from hypergen.architectures import Architecture, IdiomSpace
from hypergen.data import DigitsDataModule
from hypergen.errors import HypergenError, ParameterError
from hypergen.evaluation.accuracy import accuracy, calibrate
from hypergen.evaluation.image_data import ImageData
from hypergen.evaluation.parallel import map_tasks, pack, unpack
from hypergen.evaluation.results import Results, Row
from hypergen.evaluation.short_training import derived_seed, training_steps
from hypergen.functional import apply_parameters, fit_ridge_head
from hypergen.generators.factory import load_generator

_OWN = 2_000_000_000  # First seed of networks of the training space; training counts its own from 0.
_RATES = (1e-4, 1e-3, 3e-3, 1e-2)
_UNUSABLE = (0.0, float("inf"))
_AIMS = {
    "held_out_libraries_mean": 0.85,
    "held_out_libraries_worst_decile": 0.45,
    "held_out_libraries_ridge_mean": 0.93,
    "held_out_libraries_ridge_margin": 0.08,
    "held_out_libraries_50_steps_margin": 0.05,
    "idioms_mean": 0.95,
    "idioms_worst_decile": 0.85,
}


@dataclass(frozen=True)
class SpaceNetwork:
    """A network of the training space, as if it were of a library.

    Args:
        architecture: The network.
    """

    architecture: Architecture
    source: str = "space"

    @property
    def name(self) -> str:
        """The architecture's name."""
        return self.architecture.name

    @property
    def kind(self) -> str:
        """The architecture's family."""
        return self.architecture.family

    def build(self) -> nn.Module:
        """Build the network."""
        return self.architecture.build()


@dataclass(frozen=True)
class Task:
    """A network and what was predicted for it.

    Args:
        network: The network.
        parameters: The predictions.
        failure: Why there are none; None if there are.
        steps: Steps of Adam from both starts; 0 for none.
        seed: Random seed of default initialisation and of the order of images.
    """

    network: HeldOutNetwork | SpaceNetwork
    parameters: dict[str, np.ndarray]
    failure: str | None
    steps: int
    seed: int


@dataclass(frozen=True)
class Measured:
    """Test accuracies of one network; 0 where its values blow up.

    None where training was not asked for, and of ridge readouts where a network ends in no linear layer. Chosen is the
    start that :func:`hypergen.initialize` would keep, with the less error on training images left out.
    """

    name: str
    source: str
    kind: str
    predicted: float
    predicted_ridge: float | None
    default_ridge: float | None
    chosen_ridge: float | None
    predicted_trained: float | None
    default_trained: float | None
    failure: str | None


def main(arguments: Sequence[str] | None = None) -> Results:
    """Run the evaluation, print its table and, last, its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--generator", default="digits-ghn", help="name or path")
    add("--steps", type=int, default=0, help="steps of Adam from both starts, at rates tuned on validation images")
    add(
        "--own", type=int, default=0, help="judge it instead on so many draws of its own space that training never sees"
    )
    add("--only", default="", help="only networks whose name or source contains this")
    add("--workers", type=int, default=0, help="processes with one thread each")
    add("--seed", type=int, default=0, help="of default initialisation and of the order of images")
    add("--output", help="folder of results.json and results.md")
    options = parser.parse_args(arguments)
    networks: list[Any] = [one for one in load_list() if options.only in one.name or options.only in one.source]
    if options.own:
        networks = [SpaceNetwork(IdiomSpace().sample(_OWN + number)) for number in range(options.own)]
    results = evaluate_held_out(
        load_generator(options.generator),
        ImageData.read(DigitsDataModule()),
        networks,
        steps=options.steps,
        workers=options.workers,
        seed=options.seed,
        prefix="idioms" if options.own else "held_out_libraries",
    )
    if options.output:
        results.write(options.output)
    results.print_table(Console(width=max(Console().width, 100)))
    print(results.to_json())
    return results


def evaluate_held_out(
    generator: Any,
    images: ImageData,
    networks: Sequence[HeldOutNetwork | SpaceNetwork],
    *,
    steps: int = 0,
    workers: int = 0,
    seed: int = 0,
    prefix: str = "held_out_libraries",
) -> Results:
    """Predict networks and measure them on test images.

    Args:
        generator: Has ``generate(target, example_inputs=...)``.
        images: Training, validation and test images.
        networks: The networks.
        steps: Steps of Adam from both starts; 0 for none.
        workers: Processes; 0 for this one.
        seed: Random seed of default initialisation and of the order of images.
        prefix: Beginning of the rows' names.

    Returns:
        Mean and worst decile at predicted parameters; means with ridge readouts on top of predicted and of default
        parameters and their difference, the same after training; means of each source and kind.
    """
    tasks = (_predicted(generator, network, images, steps, seed) for network in networks)
    measured = map_tasks(measure, images, tasks, workers=workers)
    shown = track(measured, "evaluating", len(networks), console=Console(stderr=True), transient=True)
    found = [one for _, one in sorted(shown, key=lambda pair: pair[0])]
    predicted = [one.predicted for one in found]
    worst = sorted(predicted)[: max(1, len(predicted) // 10)]
    rows = [
        Row.from_values(f"{prefix}_mean", predicted),
        Row.from_values(f"{prefix}_worst_decile", worst),
        Row.from_values(f"{prefix}_median", predicted, statistic="median"),
        *_compared(f"{prefix}_ridge", _known((one.predicted_ridge, one.default_ridge) for one in found)),
        Row.from_values(
            f"{prefix}_ridge_chosen_mean", [one.chosen_ridge for one in found if one.chosen_ridge is not None]
        ),
    ]
    if steps:
        pairs = _known((one.predicted_trained, one.default_trained) for one in found)
        rows += _compared(f"{prefix}_{steps}_steps", pairs)
    for part in ("kind", "source"):
        for value in sorted({getattr(one, part) for one in found}):
            name = "".join(letter if letter.isalnum() else "_" for letter in value.lower())
            rows.append(
                Row.from_values(
                    f"{prefix}_{part}_{name}", [one.predicted for one in found if getattr(one, part) == value]
                )
            )
    rows.append(Row(f"{prefix}_failed", sum(one.failure is not None for one in found), n=len(found), better="lower"))
    rows = [Row(row.figure, row.value, row.std, row.n, _AIMS.get(row.figure), row.better) for row in rows]
    details = {"versions": installed_versions(networks), "networks": [asdict(one) for one in found]}
    return Results(prefix, seed, tuple(rows), details)


def measure(images: ImageData, task: Task) -> Measured:
    """Measure one network at its predicted and at its own default parameters."""

    def make(predicted: bool) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(task.seed, task.network.name, "initialisation"))
            model = task.network.build()
        if predicted:
            apply_parameters(model, unpack(task.parameters), partial=True)
        return model

    failure = task.failure
    score = 0.0
    ridge: tuple[float, float] | None = _UNUSABLE
    if failure is None:
        try:
            model = make(True)
            calibrate(model, images)
            score = accuracy(model, *images.test)
            ridge = _ridge(model, images)
        except ParameterError as error:
            failure = str(error)
    default = make(False)
    calibrate(default, images)
    default_ridge = _ridge(default, images)
    chosen = ridge
    if default_ridge is None or ridge is None:
        ridge = chosen = None if default_ridge is None else _UNUSABLE
    elif default_ridge[1] < ridge[1]:
        chosen = default_ridge
    trained = {start: _trained(make, start, images, task) if task.steps else None for start in (True, False)}
    network = task.network
    return Measured(
        network.name,
        network.source,
        network.kind,
        score,
        _first(ridge),
        _first(default_ridge),
        _first(chosen),
        trained[True],
        trained[False],
        failure,
    )


def _first(pair: tuple[float, float] | None) -> float | None:
    return None if pair is None else pair[0]


def _predicted(
    generator: Any, network: HeldOutNetwork | SpaceNetwork, images: ImageData, steps: int, seed: int
) -> Task:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        target = network.build().eval()
        try:
            parameters = generator.generate(target, example_inputs=torch.zeros_like(images.test[0][:1]))
        except HypergenError as error:
            return Task(network, {}, f"{type(error).__name__}: {error}", steps, seed)
    return Task(network, pack(parameters), None, steps, seed)


def _ridge(model: nn.Module, images: ImageData) -> tuple[float, float] | None:
    """Accuracy with a ridge readout, and its error on training images left out, by which a start is chosen.

    Accuracy 0 where features are not finite; None where no linear layer gives the logits.
    """
    try:
        head = fit_ridge_head(model, images.train_batches(), num_classes=images.num_classes)
        return accuracy(model, *images.test), head.left_out_error
    except ParameterError as error:
        return _UNUSABLE if "finite" in str(error) else None


def _known(pairs: Iterable[tuple[float | None, float | None]]) -> list[tuple[float, float]]:
    return [(left or 0.0, right) for left, right in pairs if right is not None]


def _trained(make: Any, predicted: bool, images: ImageData, task: Task) -> float:
    """Test accuracy after the steps, at the rate that validation images choose."""
    if predicted and task.failure is not None:
        return 0.0
    scores = []
    for rate in _RATES:
        model = make(predicted)
        try:
            calibrate(model, images)
            order = derived_seed(task.seed, task.network.name, "order")
            for done in training_steps(model, *images.train, learning_rate=rate, seed=order):
                if done == task.steps:
                    break
            calibrate(model, images)
            scores.append((accuracy(model, *images.validation), accuracy(model, *images.test)))
        except ParameterError:
            scores.append((0.0, 0.0))
    return max(scores, key=lambda score: score[0])[1]


def _compared(name: str, pairs: Sequence[tuple[float, float]]) -> list[Row]:
    predicted, default = zip(*pairs, strict=True)
    margins = [left - right for left, right in pairs]
    return [
        Row.from_values(f"{name}_mean", predicted),
        Row.from_values(f"{name}_default_mean", default),
        Row(f"{name}_margin", statistics.fmean(margins), statistics.pstdev(margins), len(margins)),
    ]


if __name__ == "__main__":
    main()
