"""Ordinary training of small networks, a step at a time: what predicted parameters are compared with."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from hypergen.architectures import Architecture
from hypergen.data.task import CLASSIFICATION, Task

BATCH_SIZE = 64


def derived_seed(seed: int, *words: str) -> int:
    """A seed of its own for each use, the same on every machine and in whatever order they are asked for."""
    text = ":".join(("hypergen.evaluation", str(seed), *words))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def build_default(architecture: Architecture, seed: int) -> nn.Module:
    """Build a network at its default initialisation; the global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, architecture.name, "initialisation"))
        return architecture.build()


def steps_per_epoch(samples: int, batch_size: int = BATCH_SIZE) -> int:
    """Steps that :func:`training_steps` makes before it shuffles again."""
    # A batch norm cannot normalise by a batch of one, so such a rest is dropped.
    return samples // batch_size + (samples % batch_size > 1)


def training_steps(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    learning_rate: float,
    seed: int,
    batch_size: int = BATCH_SIZE,
    task: Task = CLASSIFICATION,
) -> Iterator[int]:
    """Train in place with Adam on the loss of a task, a step per item.

    Args:
        model: Left in training mode; whoever evaluates it in between puts back each module's mode.
        inputs: Images [N, channels, height, width], or tokens [N, length].
        labels: [N], or [N, length], int64.
        learning_rate: Constant.
        seed: Random seed of the order of the samples.
        batch_size: Samples per step.
        task: What gives the loss.

    Yields:
        The number of steps made so far, from 1 and without end, unless the loss stops being finite.
    """
    shuffle = torch.Generator().manual_seed(seed)
    # Of networks this small, the fused step takes half the time of the default one.
    optimizer = torch.optim.Adam(model.parameters(), learning_rate, fused=True)
    model.train()
    done = 0
    while True:
        order = torch.randperm(len(inputs), generator=shuffle)
        for batch in order.split(batch_size)[: steps_per_epoch(len(inputs), batch_size)]:
            loss = task.loss(model(inputs[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if not math.isfinite(loss.item()):
                return
            done += 1
            yield done
