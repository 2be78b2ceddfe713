"""``python train.py experiment=zoo_digits``: a zoo, with its figures and pictures."""

from __future__ import annotations

from rich.console import Console

from hypergen.data import ImageDataModule
from hypergen.data.in_memory import SPLITS
from hypergen.evaluation import Results, Row
from hypergen.zoo import Zoo
from hypergen.zoo.build.build import build_zoo
from hypergen.zoo.build.engines import Engine
from hypergen.zoo.build.plan import ZooPlan
from hypergen.zoo.pictures import write_pictures
from hypergen.zoo.statistics import print_statistics


def train_zoo(
    *,
    name: str,
    output: str,
    seed: int,
    folder: str,
    data: ImageDataModule,
    data_name: str,
    zoo: ZooPlan,
    engine: Engine,
    device: str = "cpu",
) -> Results:
    """Build a zoo, or the part of it that is missing; describe and draw it.

    Args:
        name: Name of the experiment.
        output: The folder for results and pictures.
        seed: Random seed of this run.
        folder: Folder of the zoo; one that a stopped build left is completed.
        data: What its networks are trained on.
        data_name: What the zoo calls it.
        zoo: The plan.
        engine: Where to train.
        device: What to train on.

    Returns:
        The figures, which are also written to ``output`` and printed.

    Raises:
        CheckpointError: The folder holds something else, or cannot be written.
    """
    splits = {split: data.tensors(split) for split in SPLITS}
    try:
        report = build_zoo(folder, zoo, splits, data_name=data_name, engine=engine, device=device)
    except KeyboardInterrupt:
        Console().print(f"What was built is in {folder}; to go on, pass folder={folder}", soft_wrap=True)
        raise
    built = Zoo(folder)
    print_statistics(built)
    accuracies = built.last().column("test.accuracy")
    rows = (
        Row("networks", report.networks),
        Row("checkpoints", report.checkpoints),
        Row("diverged", len(report.diverged), better="lower"),
        Row("seconds", report.seconds, n=report.networks, better="lower"),
        Row.from_values("test_accuracy", [value for value in accuracies if value is not None]),
    )
    results = Results(name, seed, rows, {"folder": folder, "plan": zoo.to_json()})
    results.write(output)
    results.print_table()
    write_pictures(built, output)
    Console().print(f"The zoo is in {folder}, figures and pictures in {output}", soft_wrap=True)
    return results
