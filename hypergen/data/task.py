"""What networks are trained for: a loss, and a metric in the terms of the field."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Task:
    """Choosing one of several classes: of an image, or of each next token.

    Args:
        metric: ``"accuracy"``, or ``"perplexity"``, the exponential of the mean loss.
    """

    metric: str

    def own(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """What of the logits the labels choose among, and the labels counted from its first; everything here."""
        return logits, labels

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean cross entropy; logits [..., classes], labels [...], int64."""
        return F.cross_entropy(logits.flatten(0, -2), labels.flatten())

    def measure(self, logits: Tensor, labels: Tensor) -> float:
        """The metric."""
        if self.metric == "accuracy":
            return (logits.argmax(-1) == labels).float().mean().item()
        return math.exp(min(self.loss(logits, labels).item(), 700.0))


CLASSIFICATION = Task("accuracy")
LANGUAGE_MODELLING = Task("perplexity")
