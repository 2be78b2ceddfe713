"""Checkpoints of training runs: whole or not there, free of pickled objects, and kept when a run is interrupted."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import nn

from hypergen.errors import CheckpointError
from hypergen.functional.checkpoint_files import read_tensor_file

LAST = "last.ckpt"
INTERRUPTED = 130
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class TrainingInterrupted(KeyboardInterrupt):
    """A run was stopped by SIGINT or SIGTERM, after it had saved where it was.

    Args:
        checkpoint: What to pass as ``ckpt_path`` to go on.
    """

    def __init__(self, checkpoint: Path) -> None:
        super().__init__(f"Interrupted; the checkpoint is {checkpoint}")
        self.checkpoint = checkpoint


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside the old one and then replaces it, and reads tensors and plain values only.

    Lightning's own goes through the system's temporary folder, from where a file moves to another disk byte by byte.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint; the old file of that name stays until the new one is whole.

        Raises:
            CheckpointError: It could not be written; what was there before is still usable.
        """
        path = Path(path)
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(draft, "wb") as file:
                file.write(buffer.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
        except OSError as error:
            kept = f" The one that was there before (step {_step(path)}) is still usable." if path.exists() else ""
            raise CheckpointError(
                f"The checkpoint {str(path)!r} could not be saved: {error}.{kept} Make room, or set output=FOLDER on "
                "another disk."
            ) from error
        finally:
            with suppress(OSError):
                draft.unlink(missing_ok=True)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint without running any code that it may hold, whatever the caller asks for."""
        return read_checkpoint(path)


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint of a training run onto the CPU.

    Raises:
        CheckpointError: It is missing, truncated, or holds more than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint at {str(path)!r}. Pass the path of a {LAST} as ckpt_path.")
    try:
        return read_tensor_file(path)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error} To resume, pass another checkpoint, or start anew without ckpt_path."
        ) from error


def check_resumable(path: str | os.PathLike[str], module: nn.Module) -> int:
    """Make sure that ``module`` can go on from a checkpoint, before any process is started.

    Returns:
        The step that it was saved at.

    Raises:
        CheckpointError: It cannot be read, or belongs to another configuration.
    """
    checkpoint = read_checkpoint(path)
    saved = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(saved, dict) or "global_step" not in checkpoint:
        raise CheckpointError(
            f"{str(path)!r} is not the checkpoint of a training run. Runs resume from their {LAST}; a generator that "
            "was saved goes to `hypergen.load_generator` instead."
        )
    expected = module.state_dict()
    wrong = [name for name, value in expected.items() if name not in saved or _shape(value) != _shape(saved[name])]
    wrong += [name for name in saved if name not in expected]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise CheckpointError(
            f"{str(path)!r} was saved by a run with another configuration: {', '.join(wrong[:5])}{more} do not fit. "
            "Pass the options that it was started with (.hydra/overrides.yaml in its output folder)."
        )
    return int(checkpoint["global_step"])


class LastCheckpoint(pl.Callback):
    """Keeps ``last.ckpt``: every so many steps, at the end, and when SIGINT or SIGTERM stops the run.

    A signal sets a flag that all processes of the run share, whichever of them it reaches (Ctrl-C reaches all, ``kill``
    one). They agree on it after the next step, save, and leave together. Where a periodic save fails, for example
    because the disk is full, training goes on with a warning: the last good checkpoint is still there.

    Args:
        folder: Where ``last.ckpt`` goes.
        every_steps: Steps between two saves.
    """

    def __init__(self, folder: str | os.PathLike[str], every_steps: int = 200) -> None:
        if every_steps < 1:
            raise ValueError(f"every_steps must be positive; got {every_steps}")
        self.path = Path(folder).absolute() / LAST
        self.every_steps = every_steps
        # In shared memory: the processes of a run inherit it, forked or spawned.
        self._stop = torch.zeros(1, dtype=torch.uint8).share_memory_()

    @property
    def interrupted(self) -> bool:
        """Whether a signal has come."""
        return bool(self._stop.item())

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Catch signals in the process that starts the run; its own handlers come back afterwards.

        Raises:
            TrainingInterrupted: A signal stopped the run, and the checkpoint was saved.
        """
        before = self._listen()
        try:
            yield
            if self.interrupted:  # In the last step, or after it.
                raise TrainingInterrupted(self.path)
        except TrainingInterrupted:
            raise
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            # Processes leave by their exit code, so that what arrives here depends on how the run was launched.
            if not self.interrupted or _failed_by_itself(error):
                raise
            raise TrainingInterrupted(self.path) from None
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Catch signals in this process, before its loader workers start and inherit the handlers."""
        self._listen()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Catch signals again: in between, Lightning puts up a handler that talks to other processes from inside."""
        self._listen()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Save when it is time to, and stop when a signal has come."""
        # Every process has to leave after the same step: the others would wait for its gradients for ever.
        if trainer.strategy.reduce_boolean_decision(self.interrupted, all=False):
            failure = trainer.strategy.broadcast(self._save(trainer))
            if failure:
                raise CheckpointError(failure)
            for child in multiprocessing.active_children():  # loader workers, who outlive SIGTERM
                child.kill()
            raise SystemExit(INTERRUPTED)
        if trainer.global_step % self.every_steps == 0:
            self._save_or_warn(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the end, from which a run with more steps can go on."""
        self._save_or_warn(trainer)

    def _save_or_warn(self, trainer: pl.Trainer) -> None:
        failure = self._save(trainer)
        if failure:
            pl.utilities.rank_zero_warn(f"{failure} Training goes on.")

    def _save(self, trainer: pl.Trainer) -> str | None:
        """Save; return why it failed, in the process that writes."""
        try:
            trainer.save_checkpoint(self.path)
        except CheckpointError as error:
            # The other processes wait at the end of `save_checkpoint`, which this one did not reach.
            trainer.strategy.barrier("Trainer.save_checkpoint")
            return str(error)
        return None

    def _listen(self) -> dict[signal.Signals, Any]:
        before: dict[signal.Signals, Any] = {}
        with suppress(ValueError):  # Only the main thread of a process gets signals; in others there is nothing to do.
            for number in _SIGNALS:
                before[number] = signal.signal(number, self._handler())
        return before

    def _handler(self) -> Callable[[int, FrameType | None], None]:
        heard = False

        def handle(number: int, frame: FrameType | None) -> None:
            nonlocal heard
            if heard:
                # Asked twice: whoever waits for a step that never ends must be able to leave.
                raise KeyboardInterrupt
            heard = True
            self._stop.fill_(1)

        return handle


def _failed_by_itself(error: BaseException) -> bool:
    """Whether an error has a cause of its own, and is not just how an interrupted run ends."""
    from torch.multiprocessing import ProcessExitedException

    if isinstance(error, SystemExit):
        return error.code != INTERRUPTED
    if isinstance(error, ProcessExitedException):
        return error.exit_code != INTERRUPTED
    return True


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, torch.Tensor) else None


def _step(path: Path) -> str:
    try:
        return str(read_checkpoint(path)["global_step"])
    except (CheckpointError, KeyError):
        return "unknown"
