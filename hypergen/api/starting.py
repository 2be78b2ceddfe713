"""What an ordinary training run starts from: its own initialisation, or generated parameters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from rich.console import Console
from torch import nn

from hypergen.api.predict import initialize
from hypergen.data.images import ImageDataModule
from hypergen.errors import HypergenError
from hypergen.functional import calibrate_batch_norm
from hypergen.functional.batches import evaluation_mode


def initialise_target(
    target: nn.Module,
    data: ImageDataModule,
    batches: Iterable[Any],
    *,
    init: str,
    name: str = "the target",
    calibration_batches: int = 16,
) -> float:
    """Initialise a network for the data, in place, with statistics of batch norms estimated on training images.

    Args:
        target: The network.
        data: The images that it is going to be trained on.
        batches: Batches of its training images.
        init: ``"default"`` for its own initialisation, or what :func:`hypergen.load_generator` takes.
        name: Name of the network in messages.
        calibration_batches: Training batches that the statistics are estimated from.

    Returns:
        The share of its parameters that were predicted.

    Raises:
        HypergenError: The network does not map the images to one logit per class, or the generator is unknown.
    """
    _refuse_misfit(target, name, data)
    if init == "default":
        calibrate_batch_norm(target, batches, max_batches=calibration_batches)
        Console().print(f"{name}: default initialisation")
        return 0.0
    report = initialize(target, init, calibrate=batches, calibration_batches=calibration_batches)
    Console().print(report)
    return report.share_of_parameters_predicted


def _refuse_misfit(network: nn.Module, name: str, data: ImageDataModule) -> None:
    images = data.tensors("train")[0][:2]
    expected = [len(images), data.num_classes]
    try:
        with evaluation_mode(network):
            output = network(images)
    except Exception as error:
        raise HypergenError(
            f"{name!r} does not take these images, {list(images.shape)}: {type(error).__name__}: {error}. Pass a "
            "target that was made for them, or other data."
        ) from error
    logits = output if isinstance(output, torch.Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, torch.Tensor) or list(logits.shape) != expected:
        shape = list(logits.shape) if isinstance(logits, torch.Tensor) else type(output).__name__
        raise HypergenError(f"{name!r} returns {shape} for {expected[0]} images; expected logits {expected}.")
