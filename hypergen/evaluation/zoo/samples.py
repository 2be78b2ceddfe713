"""Networks sampled for a wanted metric, complete: with statistics of batch norms, and measured."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hypergen.data.in_memory import SPLITS
from hypergen.data.zoo import ZooDataModule, architecture_of
from hypergen.errors import HypergenError
from hypergen.evaluation.results import write_atomically
from hypergen.evaluation.zoo.problem import StackedClassification
from hypergen.functional.files import replace_file
from hypergen.functional.stacked_outputs import StackedOutputs
from hypergen.generators.zoo_generator import ZooGenerator

_CALIBRATION_SAMPLES = 512


@dataclass(frozen=True)
class Samples:
    """Networks that a generator sampled.

    Args:
        states: A state dict of each, as the zoo's network loads it.
        condition: What they were sampled for.
        measured: Metrics by name, ``[networks]`` each; empty without data.
        metric: The column that ``condition["metric"]`` is a value of; empty where there is none.
    """

    states: list[dict[str, Tensor]]
    condition: Mapping[str, Any]
    measured: Mapping[str, Tensor]
    metric: str

    def write(self, folder: str | Path) -> None:
        """Write ``sample_000.pth``, … and ``samples.csv`` into a folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        lines = io.StringIO()
        table = csv.writer(lines, lineterminator="\n")
        table.writerow(["file", f"wanted {self.metric}".strip(), *self.measured])
        for number, state in enumerate(self.states):
            file = folder / f"sample_{number:03d}.pth"
            replace_file(file, partial(torch.save, state))
            values = [f"{float(values[number]):.6g}" for values in self.measured.values()]
            table.writerow([file.name, self.condition.get("metric", ""), *values])
        write_atomically(folder / "samples.csv", lines.getvalue())

    def in_words(self) -> str:
        """How many there are, what was wanted and what was obtained."""
        wanted = f" for {self.metric} {self.condition['metric']:g}" if "metric" in self.condition else ""
        found = [f"{name} {float(each.mean()):.3f} ± {float(each.std()):.3f}" for name, each in self.measured.items()]
        text = f"{len(self.states)} networks sampled{wanted}"
        return f"{text}: {', '.join(found)}." if found else f"{text}; give --data to measure them."


def sample_networks(
    generator: ZooGenerator,
    data: ZooDataModule,
    number: int,
    *,
    wanted: float | None = None,
    task: str | None = None,
    seed: int = 0,
) -> Samples:
    """Sample networks of a zoo's layout.

    Args:
        generator: A generator that was trained on the zoo.
        data: The zoo, with the data that networks are measured on and batch norms calibrated on.
        number: Number of networks.
        wanted: The metric to reach; by default the best of the zoo's training networks.
        task: Name of a task of the zoo.
        seed: Random seed.

    Raises:
        HypergenError: The generator needs a task that was not given, or batch norms have no data to be calibrated on.
    """
    data.check_task()
    part = data.part("train")
    part = part.select(layout=part.column("layout")[0])
    model = architecture_of(part).build().eval()
    condition: dict[str, Any] = {}
    if "metric" in generator.condition_kinds:
        known = [float(str(each["metric"])) for each in data.conditions_of(part, ("metric",))]
        best = min(known) if (data.metric or "").endswith("loss") else max(known)
        condition["metric"] = best if wanted is None else wanted
    elif wanted is not None:
        raise HypergenError("The generator was not trained for a metric, so none can be wanted. Leave --wanted out.")
    if "code" in generator.condition_kinds:
        if task is None or task not in data.zoo.tasks:
            raise HypergenError(f"The generator is conditioned on a task; give one of the zoo's, not {task!r}.")
        condition["code"] = data.zoo.tasks[task]["labels"]
    with torch.no_grad():
        stacked = generator.sample(model, [condition] * number, seed=seed)
    images = data.images
    splits = {} if images is None else {name: images.tensors(name) for name in SPLITS}
    calibration = splits["train"][0][:_CALIBRATION_SAMPLES] if splits else None
    # Batch norms without data raise here: their statistics would be those of an untrained network.
    statistics = StackedOutputs(model, calibration).statistics(stacked)
    measured: dict[str, Tensor] = {}
    if splits and not condition.get("code"):
        problem = StackedClassification(model, splits, score=data.score)
        nothing = torch.zeros(number, 1)
        for split in ("validation", "test"):
            measured[f"{split}.accuracy"] = problem.scores(stacked, nothing, split)
            measured[f"{split}.loss"] = problem.losses(stacked, nothing, split)
    own = model.state_dict()
    states = []
    for row in range(number):
        tensors = {name: value[row].clone() for name, value in {**stacked, **statistics}.items()}
        state = {name: tensors.get(name, value.clone()) for name, value in own.items()}
        states.append(state | {alias: state[key] for alias, key in part.layout.tied.items() if key in state})
    return Samples(states, condition, measured, (data.metric or "") if "metric" in condition else "")
