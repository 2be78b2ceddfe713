"""What runs of Lightning need: optimisers that go with the precision, loader workers that outlive signals."""

from __future__ import annotations

import signal

import pytorch_lightning as pl

_GRACE_SECONDS = 10


def can_fuse(module: pl.LightningModule) -> bool:
    """Whether the fused step of an optimiser, the fastest for small networks, goes with the module's trainer.

    In mixed precision Lightning does not clip gradients for an optimiser that unscales them by itself.
    """
    trainer = module._trainer  # `trainer` raises an error where there is none.
    return trainer is None or not str(trainer.precision).endswith("mixed")


def outlive_signals(worker: int) -> None:
    """Let a loader worker outlive the signals that its process stops on by some seconds; for ``worker_init_fn``.

    Ctrl-C and ``timeout`` reach every process of a run, and a loader that loses a worker fails before it can be saved.
    SIGTERM still ends the worker in the end: its process sends it on leaving, and waits.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):  # Windows has neither it nor process groups that share a signal
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE_SECONDS))
