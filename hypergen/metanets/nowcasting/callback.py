"""Nowcasting in a Lightning run, whatever its optimiser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch import nn

from hypergen.metanets.nowcasting.nowcaster import NowcastNetwork
from hypergen.metanets.nowcasting.optimizer import Jumps


class NowcastingCallback(pl.Callback):
    """Jumps ahead after every ``period`` steps of training; resumes exactly from Lightning's checkpoints.

    Args:
        network: The nowcaster, or the path of a released NiNo checkpoint.
        model: What is trained; None for the LightningModule itself.
        **settings: Those of :class:`~hypergen.metanets.nowcasting.optimizer.Jumps`; where they are not passed,
            ``total_steps`` are the trainer's ``max_steps``.

    Attributes:
        ahead: What jumps, from the start of training on.
    """

    def __init__(self, network: NowcastNetwork | str | Path, model: nn.Module | None = None, **settings: Any) -> None:
        self.network, self.model, self.settings = network, model, settings
        self.ahead: Jumps | None = None
        self._saved: dict[str, Any] | None = None
        self._step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Bind the network to the model."""
        settings = dict(self.settings)
        if trainer.max_steps > 0:
            settings.setdefault("total_steps", trainer.max_steps)
        model = self.model or pl_module
        self.ahead = Jumps(model, self.network, **settings)
        if self._saved is not None:
            self.ahead.load_state_dict(self._saved)
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Count steps, which gradients may be accumulated for over several batches."""
        assert self.ahead is not None
        if trainer.global_step > self._step:
            self._step = trainer.global_step
            self.ahead.advance()

    def state_dict(self) -> dict[str, Any]:
        """What belongs into a checkpoint."""
        return self.ahead.state_dict() if self.ahead is not None else dict(self._saved or {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint when training starts."""
        self._saved = state_dict or None
