"""Fitting a LightningModule, resumable and interruptible."""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from rich.console import Console
from torch.multiprocessing import ProcessRaisedException

from hypergen.errors import CheckpointError, HypergenError
from hypergen.functional.files import FolderLock
from hypergen.training.checkpoints import LAST, AtomicCheckpointIO, LastCheckpoint, check_resumable
from hypergen.training.loggers import ResumableCSVLogger

# Lightning's advice that does not apply here: the images are in memory, the endless loader starts at the global step,
# and a run of seconds logs seldom.
_KNOWN_WARNINGS = (
    ".*does not have many workers.*",
    ".*your dataloader is not resumable.*",
    ".*is smaller than the logging interval.*",
    ".*GPU available but not used.*",
    ".*find_unused_parameters=True was specified.*",
    ".*You have overridden `transfer_batch_to_device`.*",
    ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
)


def fit(
    module: pl.LightningModule,
    batches: dict[str, Any],
    make_trainer: Callable[..., pl.Trainer],
    logger: Logger | None,
    callbacks: Mapping[str, pl.Callback] | None,
    output: str,
    ckpt_path: str | None,
) -> pl.Trainer:
    """Fit, resumable and interruptible; returns the trainer, with the metrics that were logged.

    Raises:
        CheckpointError: ``ckpt_path`` cannot be resumed from, or another run writes into ``output``.
    """
    step = 0 if ckpt_path is None else check_resumable(ckpt_path, module)
    _take_folder(Path(output))
    if ckpt_path is not None:
        if isinstance(logger, ResumableCSVLogger):
            logger.first_step = step
        Console().print(f"Going on from step {step} of {ckpt_path}", soft_wrap=True)
    every = list((callbacks or {}).values())
    last = next((callback for callback in every if isinstance(callback, LastCheckpoint)), None)
    # What Lightning reports at this level, such as devices that are missing, is noise beside the progress bar.
    for library in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    # When a run is interrupted, the first process to leave makes it say that it stops the second.
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    trainer = make_trainer(
        **_strategy(make_trainer),
        logger=logger or False,
        callbacks=every,
        plugins=[AtomicCheckpointIO()],
        default_root_dir=output,
        enable_checkpointing=False,  # `LastCheckpoint` keeps the one that there is.
    )
    with last.listening() if last else nullcontext(), warnings.catch_warnings():
        for message in _KNOWN_WARNINGS:
            warnings.filterwarnings("ignore", message)
        if ckpt_path is not None:  # ResumableCSVLogger keeps them
            warnings.filterwarnings("ignore", ".*Previous log files in this directory will be deleted.*")
        try:
            trainer.fit(module, **batches, ckpt_path=ckpt_path)
        except ProcessRaisedException as error:
            # Errors come from another process as the text of its traceback; those raised on purpose need only the last.
            ours = re.search(r"^hypergen\.errors\.\w+: (.*)", str(error), re.MULTILINE | re.DOTALL)
            if ours is None:
                raise
            raise HypergenError(ours[1].strip()) from None
    return trainer


# Of folders that this process writes into, until it ends.
_held: dict[Path, FolderLock] = {}


def _take_folder(output: Path) -> None:
    """Keep other runs out of a folder, and remove what killed ones left half-written in it."""
    output = output.absolute()
    # Lightning may start further processes of the same run by the same command.
    if output in _held or "LOCAL_RANK" in os.environ:
        return
    lock = FolderLock(output, "run.lock")
    holder = lock.acquire()
    if holder is not None:
        raise CheckpointError(
            f"Another run is writing into {str(output)!r} already: {holder}. Wait for it, or set output=FOLDER to "
            "another folder."
        )
    _held[output] = lock
    for draft in (*output.glob(f".{LAST}.*"), *(output / "generator").glob(".saving-*")):
        if draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
        else:
            draft.unlink(missing_ok=True)


def _strategy(make_trainer: Callable[..., pl.Trainer]) -> dict[str, str]:
    """Spawned processes instead of forked ones where a forked one can't train."""
    strategy = getattr(make_trainer, "keywords", {}).get("strategy", "")
    if not str(strategy).startswith("ddp_fork") or _fork_can_train():
        return {}
    return {"strategy": strategy.replace("fork", "spawn")}


def _fork_can_train() -> bool:
    """Whether a forked process could train; found out by one that tries, because PyTorch does not tell.

    There is no fork on Windows, and one on macOS that system libraries don't survive. Where PyTorch knows of an
    accelerator, a process that has computed gradients, as for an earlier job of a sweep, has threads that forks lack.
    """
    if sys.platform != "linux":
        return False
    child = os.fork()
    if child == 0:
        try:
            torch.ones(1, requires_grad=True).sum().backward()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0
