"""What the precision of a trainer asks of an optimiser."""

from __future__ import annotations

import pytorch_lightning as pl


def can_fuse(module: pl.LightningModule) -> bool:
    """Whether the fused step of an optimiser, the fastest for small networks, goes with the module's trainer.

    In mixed precision Lightning does not clip gradients for an optimiser that unscales them by itself.
    """
    trainer = module._trainer  # `trainer` raises an error where there is none.
    return trainer is None or not str(trainer.precision).endswith("mixed")
