"""Collects the checkpoints of a Lightning run."""

from __future__ import annotations

import os
import uuid
from typing import Any

import pytorch_lightning as pl
from torch import nn

from hypergen.zoo.callbacks.collector import Collector


class ZooCallback(pl.Callback):
    """Adds checkpoints of a training run to a zoo, with its metrics and hyperparameters.

    Metrics are those whose names begin with ``train``, ``val`` or ``test`` and that were logged for the step itself.
    The first process writes. Strategies that divide the parameters between processes (FSDP) are not supported.

    Args:
        folder: Folder of the zoo; made if there is none, and shared by any number of runs.
        run: Name of the run; by default the module's class and random digits, kept when the run is resumed.
        every_steps: Steps between two checkpoints; None for one after each validation, which has its metrics.
        save_first: Whether the initialisation is a checkpoint, too.
        attribute: The network in the LightningModule, ``"model"`` for example; empty for the whole module.
        task: What it is trained for.
        keep_frozen: Whether parameters that are not trained are kept, once.
        write_every: Checkpoints that are gathered before they are written.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        run: str | None = None,
        every_steps: int | None = None,
        save_first: bool = True,
        attribute: str = "",
        task: str | None = None,
        keep_frozen: bool = False,
        write_every: int = 10,
    ) -> None:
        if every_steps is not None and every_steps < 1:
            raise ValueError(f"every_steps must be positive; got {every_steps}")
        self.run, self.every_steps, self.save_first, self.attribute = run, every_steps, save_first, attribute
        self._collector = Collector(folder, task, keep_frozen, write_every)

    def state_dict(self) -> dict[str, Any]:
        """The name of the run."""
        return {"run": self.run}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the run that is resumed, unless another one was named."""
        self.run = self.run or state_dict["run"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Name the run, and keep its initialisation."""
        self.run = self.run or f"{type(pl_module).__name__}-{uuid.uuid4().hex[:8]}"
        self._collector.describe(dict(pl_module.hparams))
        if self.save_first and trainer.global_step == 0:
            self._collect(trainer, pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Keep a checkpoint where it is time to."""
        if self.every_steps is not None and trainer.global_step % self.every_steps == 0:
            self._collect(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep a checkpoint with its metrics."""
        if self.every_steps is None and trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._collect(trainer, pl_module, dict(trainer.callback_metrics))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write what is gathered."""
        self._collector.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Write what is gathered."""
        self._collector.close()

    def _collect(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, metrics: dict[str, Any] | None = None
    ) -> None:
        if not trainer.is_global_zero:
            return
        module: nn.Module = pl_module.get_submodule(self.attribute)
        assert self.run is not None
        self._collector.collect(module, self.run, trainer.global_step, metrics or {})
