"""Keeping an exponential moving average of a generator's weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
from diffusers.training_utils import EMAModel
from torch import nn


class MovingAverage(pl.Callback):
    """Averages parameters over training, and puts the average in their place when it ends; resumes exactly.

    Args:
        parameters: What is averaged.
        decay: Decay of the average; it starts lower.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float = 0.995) -> None:
        self.parameters = list(parameters)
        self.average = EMAModel(self.parameters, decay=decay)

    def on_train_batch_end(self, *_: Any) -> None:
        """Move on by a step."""
        self.average.to(self.parameters[0].device)
        self.average.step(self.parameters)

    def on_fit_end(self, *_: Any) -> None:
        """Keep the average."""
        self.average.copy_to(self.parameters)

    def state_dict(self) -> dict[str, Any]:
        """What belongs into a checkpoint."""
        return self.average.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.average.load_state_dict(state_dict)
