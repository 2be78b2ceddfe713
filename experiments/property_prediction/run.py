"""``python train.py experiment=property_prediction``: how good networks are, read off their weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
from rich.console import Console
from torch import Tensor

from experiments.property_prediction.measured_zoo import PROPERTIES, MeasuredZoo, from_targets, measured_zoo
from experiments.shared.processes import cpu_seconds, seconds_since_start
from hypergen.data import ImageDataModule
from hypergen.evaluation.properties.baselines import baseline_predictions
from hypergen.evaluation.properties.figures import Predictions, property_rows
from hypergen.evaluation.properties.plots import write_property_plots
from hypergen.evaluation.results import Results, Row
from hypergen.metanets.probes import Probes
from hypergen.metanets.property_prediction.model import PropertyPredictor
from hypergen.metanets.property_prediction.training import PropertyPrediction
from hypergen.training.fit import fit
from hypergen.zoo.build.plan import ZooPlan

_RANDOM_PROBES = 64


def train_property_prediction(
    *,
    name: str,
    output: str,
    seed: int,
    data: ImageDataModule,
    data_name: str,
    zoos: Mapping[str, ZooPlan],
    predictors: Mapping[str, Callable[..., PropertyPredictor]],
    training: Callable[..., PropertyPrediction],
    trainer: Callable[..., pl.Trainer],
    folder: str | None = None,
    seeds: int = 3,
    validation_share: float = 0.1,
    test_share: float = 0.2,
    aims: Mapping[str, float] | None = None,
) -> Results:
    """Build zoos, train predictors of test accuracy and generalisation gap on them, and compare them with baselines.

    The test networks are runs that no predictor has seen. Baselines learn from the training and the validation networks
    together, predictors from the training networks alone.

    Args:
        name: Name of the experiment.
        output: The folder for results and pictures.
        seed: Random seed of the first training; further ones count up from it.
        data: What the zoos' networks are trained on.
        data_name: What the zoos call it.
        zoos: Plans, by the zoos' names.
        predictors: Make predictors, by the names of methods; the first is the one that is compared.
        training: Makes the LightningModule.
        trainer: Makes trainers.
        folder: Folder of the zoos, one below it each; those that are there are read, or completed. None for ``output``.
        seeds: Trainings of each predictor, which predict together.
        validation_share: Share of each architecture's networks in the validation split.
        test_share: Share of each architecture's networks in the test split.
        aims: By figure.

    Returns:
        The figures, which are also written to ``output`` and printed.

    Raises:
        HypergenError: There are too few networks, or a zoo cannot be read or written.
    """
    console = Console()
    rows: list[Row] = []
    details: dict[str, object] = {}
    for zoo_name, plan in zoos.items():
        path = Path(folder or output) / f"zoo_{zoo_name}"
        zoo = measured_zoo(path, plan, data, data_name, validation_share, test_share)
        console.print(
            f"Zoo {zoo_name}: {plan.networks} networks of {len(zoo.train)} architectures, {zoo.seconds:.0f} s"
        )
        methods: dict[str, list[Tensor]] = {}
        for method, make in predictors.items():
            begun = time.monotonic()
            methods[method] = [
                _trained(make, training, trainer, zoo, data, output, seed + number) for number in range(seeds)
            ]
            console.print(f"  {method}: {seeds} trainings in {time.monotonic() - begun:.0f} s")
        torch.manual_seed(seed)
        probes = Probes(_RANDOM_PROBES, [data.channels, data.image_size, data.image_size])
        simple = baseline_predictions((zoo.train, zoo.validation, zoo.test), probes)
        methods |= {method: [from_targets(found)] for method, found in simple.items()}
        methods["validation_images"] = [zoo.by_validation_images]
        measured = from_targets(torch.cat([each.properties for each in zoo.test]))
        groups = torch.tensor([number for number, each in enumerate(zoo.test) for _ in range(len(each))])
        found = Predictions(zoo_name, PROPERTIES, measured, methods, groups)
        rows += [*property_rows(found), Row(f"{zoo_name}_zoo_seconds", zoo.seconds, better="lower")]
        details[zoo_name] = {"architectures": [each.name for each in zoo.train], "plan": plan.to_json()}
        write_property_plots(found, output)
    rows += [
        Row("run_seconds", seconds_since_start(), better="lower"),
        Row("run_cpu_seconds", cpu_seconds(), better="lower"),
    ]
    rows = [Row(row.figure, row.value, row.std, row.n, (aims or {}).get(row.figure), row.better) for row in rows]
    results = Results(name, seed, tuple(sorted(rows, key=lambda row: row.aim is None)), details)
    results.write(output)
    results.print_table(console)
    console.print(f"Results and plots are in {output}", soft_wrap=True)
    return results


def _trained(
    make: Callable[..., PropertyPredictor],
    training: Callable[..., PropertyPrediction],
    trainer: Callable[..., pl.Trainer],
    zoo: MeasuredZoo,
    data: ImageDataModule,
    output: str,
    seed: int,
) -> Tensor:
    """What a predictor says of the test networks: ``[networks, properties]``."""
    torch.manual_seed(seed)
    shape = [data.channels, data.image_size, data.image_size]
    predictor = make(outputs=len(PROPERTIES), classes=data.num_classes, input_shape=shape)
    module = training(predictor=predictor, train=zoo.train, validation=zoo.validation, seed=seed)
    fit(module, {}, partial(trainer, enable_progress_bar=False), None, None, output, None)
    return from_targets(module.predict(zoo.test))
