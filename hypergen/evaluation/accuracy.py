"""Accuracy of a network with given parameters, as it is and with a head solved in closed form."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hypergen.evaluation.image_data import ImageData
from hypergen.functional import calibrate_batch_norm, fit_ridge_head
from hypergen.functional.batches import evaluation_mode


def accuracy(model: nn.Module, images: Tensor, labels: Tensor, *, batch_size: int = 512) -> float:
    """Share of images whose class has the greatest logit, in evaluation mode.

    An image with a logit that is not finite counts as wrong: argmax would call it some class.

    Args:
        model: Maps images to logits [batch, classes].
        images: [N, channels, height, width].
        labels: [N], int64.
        batch_size: Images at a time.
    """
    correct = 0
    with evaluation_mode(model):
        for inputs, expected in zip(images.split(batch_size), labels.split(batch_size), strict=True):
            logits = model(inputs)
            right = (logits.argmax(1) == expected) & torch.isfinite(logits).all(1)
            correct += int(right.sum())
    return correct / len(labels)


def calibrate(model: nn.Module, data: ImageData) -> None:
    """Estimate batch-norm statistics from all training images, in place.

    Raises:
        ParameterError: The network's values blow up.
    """
    calibrate_batch_norm(model, [images for images, _ in data.train_batches()])


def ridge_head_accuracy(model: nn.Module, data: ImageData) -> float:
    """Test accuracy with the last linear layer solved on the training images; changes that layer in place.

    Raises:
        ParameterError: The features are not finite, or nothing can be solved on them.
    """
    fit_ridge_head(model, data.train_batches(), num_classes=data.num_classes)
    return accuracy(model, *data.test)
