"""Training a nowcaster on the trajectories of finished training runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from hypergen.metanets.nowcasting.nowcaster import NowcastNetwork, change_scale


@dataclass(frozen=True)
class Trajectory:
    """Runs of one architecture.

    Args:
        model: Module of that architecture.
        states: Per parameter [states, runs, …]: states an interval of training apart.
        example_inputs: What the model is called with, for nowcasters that need its graph.
    """

    model: nn.Module
    states: Mapping[str, Tensor]
    example_inputs: Any = None

    @property
    def length(self) -> int:
        """Number of states."""
        return len(next(iter(self.states.values())))

    @property
    def runs(self) -> int:
        """Number of runs."""
        return next(iter(self.states.values())).shape[1]


class NowcastingTraining(pl.LightningModule):
    """Lets a nowcaster predict later states from histories; what is predicted is a mean over neighbouring states.

    States at a constant learning rate jitter around the trajectory; means over a few of them are closer to it,
    and what a jump should reach. Errors count in units of their tensor's change over the history, and less for farther
    horizons, ``1/√horizon``, under Huber's loss.

    Args:
        network: The nowcaster.
        trajectories: Finished runs.
        steps: Number of steps of training.
        learning_rate: At the start; it decays to zero.
        weight_decay: Decoupled.
        runs_per_step: Runs, of one architecture, in a batch.
        smoothing: States on each side that a predicted one is averaged with.
        seed: Random seed of the batches.

    Attributes:
        curve: (step, loss, loss of predicting no change), means over a tenth of training each.

    Raises:
        ValueError: Trajectories are shorter than a history and one more state.
    """

    def __init__(
        self,
        network: NowcastNetwork,
        trajectories: Sequence[Trajectory],
        steps: int = 1500,
        learning_rate: float = 3e-3,
        weight_decay: float = 1e-2,
        runs_per_step: int = 4,
        smoothing: int = 2,
        seed: int = 0,
    ) -> None:
        super().__init__()
        short = [trajectory.length for trajectory in trajectories if trajectory.length <= network.context]
        if short or not trajectories:
            raise ValueError(
                f"trajectories need more than {network.context} states, the history; got {short or 'no trajectories'}"
            )
        self.network, self.trajectories, self.steps = network, list(trajectories), steps
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.runs_per_step, self.smoothing, self.seed = runs_per_step, smoothing, seed
        self.forecasts = [network.bind(trajectory.model, trajectory.example_inputs) for trajectory in trajectories]
        self.curve: list[tuple[int, float, float]] = []
        self._losses: list[tuple[float, float]] = []

    def train_dataloader(self) -> DataLoader[int]:
        """A seed per step."""
        seeds: Any = range(self.seed * self.steps, (self.seed + 1) * self.steps)
        return DataLoader(seeds, batch_size=None)

    def training_step(self, batch: int, batch_idx: int) -> Tensor:
        """Predict one trajectory at one horizon."""
        generator = torch.Generator().manual_seed(int(batch))

        def draw(low: int, high: int) -> int:
            return int(torch.randint(low, high, (), generator=generator))

        number = draw(0, len(self.trajectories))
        trajectory = self.trajectories[number]
        now = draw(self.network.context - 1, trajectory.length - 1)
        horizon = draw(1, min(self.network.horizons, trajectory.length - 1 - now) + 1)
        runs = torch.randperm(trajectory.runs, generator=generator)[: self.runs_per_step]
        begin, middle = now + 1 - self.network.context, now + horizon
        history = [{name: s[i, runs] for name, s in trajectory.states.items()} for i in range(begin, now + 1)]
        near = slice(max(now + 1, middle - self.smoothing), middle + self.smoothing + 1)
        future = {name: states[near, runs].mean(0) for name, states in trajectory.states.items()}
        predicted = self.forecasts[number](history, horizon)
        loss = self._error(predicted, future, history, horizon)
        still = self._error(history[-1], future, history, horizon)
        self._losses.append((float(loss.detach()), float(still)))
        if len(self._losses) == max(1, self.steps // 10):
            means = torch.tensor(self._losses).mean(0).tolist()
            self.curve.append((self.global_step + 1, means[0], means[1]))
            self._losses.clear()
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def _error(
        self,
        predicted: Mapping[str, Tensor],
        future: Mapping[str, Tensor],
        history: Sequence[Mapping[str, Tensor]],
        horizon: int,
    ) -> Tensor:
        scales = change_scale(history)
        weight = horizon**-0.5
        errors = [weight * ((predicted[name] - value) / scales[name]).flatten() for name, value in future.items()]
        together = torch.cat(errors)
        # A tensor that hardly moved has no trajectory to learn.
        together = together[together.isfinite()].clamp(-1e3, 1e3)
        return F.huber_loss(together, torch.zeros_like(together), delta=3.0)

    def configure_optimizers(self) -> Any:
        """AdamW and cosine decay."""
        optimizer = torch.optim.AdamW(self.network.parameters(), self.learning_rate, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
