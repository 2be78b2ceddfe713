"""Training a checkpoint transformer on pairs of checkpoints of a run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from hypergen.data.zoo import ZooDataModule, generated
from hypergen.errors import ParameterError
from hypergen.functional.moving_average import MovingAverage
from hypergen.generators.checkpoint_transformer.model import CheckpointTransformer
from hypergen.generators.tokens.unit_tokens import apply_orders, permute_units

_MEASURED_PAIRS = 4096


@dataclass(frozen=True)
class Trajectories:
    """Runs of one layout with checkpoints after the same steps.

    Args:
        parameters: By name, ``[runs, checkpoints, *shape]``; the first checkpoint is before training.
        metrics: The loss of each, ``[runs, checkpoints]``.

    Raises:
        ParameterError: There are too few checkpoints, or losses that are no positive numbers.
    """

    parameters: dict[str, Tensor]
    metrics: Tensor

    def __post_init__(self) -> None:
        if self.metrics.dim() != 2 or self.metrics.shape[1] < 2 or len(self.metrics) == 0:
            raise ParameterError(
                "Pairs of checkpoints are drawn from runs with at least two of them; got losses "
                f"{list(self.metrics.shape)}, expected [runs, checkpoints]."
            )
        wrong = (~(self.metrics.isfinite() & (self.metrics > 0)).all(1)).nonzero().flatten().tolist()
        if wrong:
            raise ParameterError(f"The runs {wrong[:10]} have losses that are no positive numbers. Leave them out.")

    def __len__(self) -> int:
        return len(self.metrics)

    def at(self, runs: Tensor, checkpoints: Tensor) -> dict[str, Tensor]:
        """Stacked networks, one for each pair of indices."""
        return {name: value[runs, checkpoints] for name, value in self.parameters.items()}


class CheckpointTransformerTraining(pl.LightningModule):
    """Minimises the error of θ' as predicted from its noised values and an earlier or later checkpoint θ.

    Of each tensor the error is measured in units of the zoo's mean change of it. The hidden units of both networks are
    permuted alike, at random.

    Args:
        generator: The checkpoint transformer; its scales are set from the zoo.
        zoo: What it is trained on; of a zoo's data module the training runs, with the metric that it names.
        steps: Length of the learning rate schedule: linear warm-up, then cosine to zero.
        batch_size: Pairs per step.
        learning_rate: Peak learning rate of AdamW.
        weight_decay: Weight decay of matrices.
        warmup_steps: Steps of warm-up.
        from_start: Share of pairs that begin before training, which is where networks are prompted from most.
        average_decay: Decay of the moving average of the weights, which is kept.
        seed: Random seed of pairs, noise and permutations; with the step it determines all of them.
    """

    def __init__(
        self,
        generator: CheckpointTransformer,
        zoo: Trajectories | ZooDataModule,
        steps: int,
        batch_size: int = 64,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.01,
        warmup_steps: int = 50,
        from_start: float = 0.5,
        average_decay: float = 0.995,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if isinstance(zoo, ZooDataModule):
            zoo = trajectories_of(zoo)
        self.generator, self.zoo, self.steps, self.batch_size = generator, zoo, steps, batch_size
        self.learning_rate, self.weight_decay, self.warmup_steps = learning_rate, weight_decay, warmup_steps
        self.from_start, self.average_decay, self.seed = from_start, average_decay, seed
        runs, starts, ends = self._draw(_MEASURED_PAIRS, torch.Generator().manual_seed(seed))
        initial = float(zoo.metrics[:, 0].mean())
        generator.measure_zoo(zoo.at(runs, starts), zoo.at(runs, ends), zoo.metrics.flatten(), initial)

    def train_dataloader(self) -> DataLoader[int]:
        """Batches are drawn in the step, from its number, so that a resumed run sees what it would have seen."""
        return DataLoader(range(self.steps), batch_size=None)  # type: ignore[arg-type]

    def training_step(self, batch: int, batch_idx: int) -> Tensor:
        """One batch of pairs; returns its loss."""
        generator, device = self.generator, self.device
        random = torch.Generator().manual_seed(self.seed * 1_000_003 + self.global_step)
        runs, starts, ends = self._draw(self.batch_size, random)
        groups = self._layout.groups
        start, orders = permute_units(self.zoo.at(runs, starts), groups, random)
        end = apply_orders(self.zoo.at(runs, ends), groups, orders)
        scales = {name: float(scale) for name, scale in generator.value_scales(self._number).items()}
        origin = {name: (value / scales[name]).to(device) for name, value in start.items()}
        clean = {name: (value / scales[name]).to(device) for name, value in end.items()}
        times = torch.randint(generator.scheduler.config.num_train_timesteps, (len(runs),), generator=random)
        noised = {
            name: generator.scheduler.add_noise(
                value, torch.randn(value.shape, generator=random).to(device), times.to(device)
            )
            for name, value in clean.items()
        }
        now, wanted = self.zoo.metrics[runs, starts].to(device), self.zoo.metrics[runs, ends].to(device)
        predicted = generator(noised, origin, times.to(device), now, wanted)
        units = generator.change_scales(self._number)
        errors = [
            ((predicted[name] - value) * (scales[name] / units[name])).square().flatten(1)
            for name, value in clean.items()
        ]
        loss = torch.cat(errors, 1).mean()
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW, warm-up and cosine decay."""
        matrices = [p for p in self.generator.parameters() if p.dim() > 1]
        vectors = [p for p in self.generator.parameters() if p.dim() <= 1]
        optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": self.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=self.learning_rate,
            betas=(0.9, 0.98),
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: (
                min(1.0, (step + 1) / self.warmup_steps) * (0.5 + 0.5 * math.cos(math.pi * min(1.0, step / self.steps)))
            ),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_callbacks(self) -> list[pl.Callback]:
        """What is kept in the end is the moving average."""
        return [MovingAverage(list(self.generator.parameters()), self.average_decay)]

    @property
    def _number(self) -> int:
        return self.generator.layout_number({name: value.shape[2:] for name, value in self.zoo.parameters.items()})

    @property
    def _layout(self) -> Any:
        return self.generator.layouts[self._number]

    def _draw(self, count: int, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Runs and two checkpoints of each: where to start and where to arrive."""
        runs = torch.randint(len(self.zoo), (count,), generator=random)
        checkpoints = self.zoo.metrics.shape[1]
        starts = torch.randint(checkpoints, (count,), generator=random)
        starts = torch.where(torch.rand(count, generator=random) < self.from_start, 0, starts)
        return runs, starts, torch.randint(checkpoints, (count,), generator=random)


def trajectories_of(data: ZooDataModule) -> Trajectories:
    """All checkpoints of the training runs of a zoo of one layout.

    Raises:
        ParameterError: Runs have one checkpoint, or some have more than others.
    """
    zoo = data.zoo.split("train", by="run")
    if max(Counter(zoo.column("run")).values()) < 2:
        raise ParameterError(
            f"A checkpoint transformer learns from several checkpoints of a run; the runs of {str(data.folder)!r} have "
            "one each. Import checkpoints of several steps, or take another generator."
        )
    metrics = torch.tensor([float(str(each["metric"])) for each in data.conditions_of(zoo, ("metric",))])
    return read_trajectories(zoo.stack(keys=generated(zoo.layout)), metrics, zoo.column("run"), zoo.column("step"))


def read_trajectories(
    parameters: Mapping[str, Tensor], metrics: Tensor, runs: list[str], steps: list[int]
) -> Trajectories:
    """Sort stacked checkpoints into runs.

    Args:
        parameters: ``[checkpoints, *shape]`` by name.
        metrics: The loss of each, ``[checkpoints]``.
        runs: The run of each.
        steps: The step of each.

    Raises:
        ParameterError: Some runs have more checkpoints than others.
    """
    order = torch.tensor(sorted(range(len(runs)), key=lambda index: (runs[index], steps[index])))
    lengths = set(Counter(runs).values())
    if len(lengths) != 1:
        raise ParameterError(
            f"Runs need checkpoints after the same steps; they have {sorted(lengths)}. Leave out shorter ones."
        )
    shape = (-1, lengths.pop())
    return Trajectories(
        {name: value[order].unflatten(0, shape) for name, value in parameters.items()},
        metrics[order].unflatten(0, shape),
    )
