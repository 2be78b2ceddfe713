"""Collects the checkpoints of a run of the Hugging Face Trainer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from hypergen.zoo.callbacks.collector import Collector

_HYPERPARAMETERS = (
    "learning_rate",
    "weight_decay",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "lr_scheduler_type",
    "warmup_steps",
    "optim",
)


class ZooTrainerCallback(TrainerCallback):
    """Adds checkpoints of a training run to a zoo, with its metrics and hyperparameters.

    ``Trainer(…, callbacks=[ZooTrainerCallback("zoo")])``. Of a PEFT model, the adapter is what is collected. The first
    process writes.

    Args:
        folder: Folder of the zoo; made if there is none, and shared by any number of runs.
        run: Name of the run; by default the ``run_name`` of the arguments, or else the name of their output folder.
        every_steps: Steps between two checkpoints; None for one after each evaluation, which has its metrics.
        save_first: Whether the initialisation is a checkpoint, too.
        task: What it is trained for.
        keep_frozen: Whether parameters that are not trained are kept, once; else they are left out.
        write_every: Checkpoints that are gathered before they are written.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        run: str | None = None,
        every_steps: int | None = None,
        save_first: bool = True,
        task: str | None = None,
        keep_frozen: bool = False,
        write_every: int = 10,
    ) -> None:
        if every_steps is not None and every_steps < 1:
            raise ValueError(f"every_steps must be positive; got {every_steps}")
        self.run, self.every_steps, self.save_first = run, every_steps, save_first
        self._collector = Collector(folder, task, keep_frozen, write_every)

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Name the run, and keep its initialisation."""
        self.run = self.run or args.run_name or Path(args.output_dir).name
        values = {name: getattr(args, name, None) for name in _HYPERPARAMETERS}
        plain = {name: getattr(value, "value", value) for name, value in values.items()}
        data_seed = args.seed if args.data_seed is None else args.data_seed
        self._collector.describe(plain, init_seed=args.seed, data_seed=data_seed)
        if self.save_first and state.global_step == 0:
            self._collect(state, model, {})

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Keep a checkpoint where it is time to."""
        if self.every_steps is not None and state.global_step % self.every_steps == 0:
            self._collect(state, model, {})

    def on_evaluate(
        self, args: Any, state: Any, control: Any, model: Any = None, metrics: Any = None, **_: Any
    ) -> None:
        """Keep a checkpoint with its metrics."""
        if self.every_steps is None and self.run is not None:
            self._collect(state, model, metrics or {})

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write what is gathered."""
        self._collector.close()

    def _collect(self, state: Any, model: Any, metrics: dict[str, Any]) -> None:
        if state.is_world_process_zero:
            assert self.run is not None
            self._collector.collect(model, self.run, state.global_step, metrics)
