"""Which of two starts of a network is better: its own values, or those that were predicted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from hypergen.api.probe import Arguments, activation_scales, running
from hypergen.errors import ParameterError
from hypergen.functional.batches import run_on_batch, samples_in

FALLBACKS = ("default", "never", "error")
_EXPLODED = 1e3  # activations that many times as large as the network's own train worse, whatever was predicted
_TOLERANCE = 1e-3  # relative difference of two losses that are called equal
_LABELS = ("labels", "label")


@dataclass(frozen=True)
class Start:
    """What was measured of one start.

    Attributes:
        loss: Mean loss on labelled data, after calibration, or the error of a solved head on samples left out; None
            without labels, infinite where it is not finite.
        scale: Root mean square of the largest activation on example inputs; None where they were not run.
        error: Why it cannot be used; empty where it can.
        measure: What the loss is.
    """

    loss: float | None = None
    scale: float | None = None
    error: str = ""
    measure: str = "loss"

    @property
    def usable(self) -> bool:
        """Whether everything that was measured is finite."""
        return not self.error and all(math.isfinite(value) for value in (self.loss, self.scale) if value is not None)


@dataclass(frozen=True)
class Comparison:
    """The network's own start beside the predicted one.

    Attributes:
        default: The network's own values.
        predicted: The predicted ones; kept is whichever is better, unless ``fallback="never"``.
        better: ``"predicted"`` or ``"default"``; empty where they were not compared.
        reason: One sentence with the numbers, or why they were not compared.
    """

    default: Start
    predicted: Start
    better: str
    reason: str


def compare_starts(default: Start, predicted: Start) -> Comparison:
    """Say which start is better, by the loss where there is one, else by the scale of the activations.

    Raises:
        ParameterError: Neither start gives finite values.
    """
    if not default.usable and not predicted.usable:
        raise ParameterError(
            "The network gives values that are not finite at both starts, its own"
            f"{f' ({default.error})' if default.error else ''} and the predicted one"
            f"{f' ({predicted.error})' if predicted.error else ''}: check its forward pass and the scale of its inputs."
        )
    if not predicted.usable:
        reason = f"the predicted start gives values that are not finite{_colon(predicted.error)}"
        return Comparison(default, predicted, "default", reason)
    if not default.usable:
        reason = f"the network's own start gives values that are not finite{_colon(default.error)}"
        return Comparison(default, predicted, "predicted", reason)
    if default.loss is not None and predicted.loss is not None:
        better = "default" if predicted.loss > default.loss * (1 + _TOLERANCE) else "predicted"
        return Comparison(
            default,
            predicted,
            better,
            f"{predicted.measure} {predicted.loss:.3g} predicted, {default.loss:.3g} by default",
        )
    if default.scale is None or predicted.scale is None:
        return Comparison(default, predicted, "", "neither start was run")
    exploded = _exploded(predicted.scale, default.scale)
    reason = f"largest activation {predicted.scale:.3g} predicted, {default.scale:.3g} by default"
    return Comparison(default, predicted, "default" if exploded else "predicted", reason)


def _exploded(predicted: float, default: float) -> bool:
    return predicted > _EXPLODED * max(default, 1e-3)


def is_worse(predicted: Start, default: Start) -> bool:
    """Whether the predicted start is worse by its loss, by the size of its activations, or not usable."""
    if not predicted.usable:
        return True
    if default.scale is not None and predicted.scale is not None:
        return _exploded(predicted.scale, default.scale)
    return default.loss is not None and predicted.loss is not None and predicted.loss > default.loss * (1 + _TOLERANCE)


def largest_activation(model: nn.Module, arguments: Arguments) -> float:
    """Root mean square of the largest activation, in evaluation mode; infinite if any is not finite."""
    scales, _ = activation_scales(model, arguments)
    return max((value if math.isfinite(value) else math.inf for value in scales.values()), default=0.0)


def mean_loss(model: nn.Module, batches: Iterable[Any], max_batches: int | None = None) -> float | None:
    """Mean loss of ``model`` on labelled batches, in evaluation mode.

    The loss is the network's own where it returns one, cross-entropy where labels are class indices, else the mean
    squared error where they have the shape of the outputs.

    Returns:
        The loss; infinite where it is not finite; None where the batches have no labels that fit the outputs.
    """
    total, samples = 0.0, 0
    with running(model):
        for batch in islice(batches, max_batches):
            labels = _labels(batch)
            if labels is None:
                return None
            outputs: list[Any] = []
            own = model.register_forward_hook(lambda *arguments, kept=outputs: kept.append(arguments[2]))
            try:
                if isinstance(batch, Mapping) and "labels" in batch and hasattr(model, "config"):
                    device = next(model.parameters()).device
                    moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
                    model(**moved)  # networks of Hugging Face's libraries have their own loss
                else:
                    run_on_batch(model, batch)
            finally:
                own.remove()
            loss = _loss(outputs[-1], labels)
            if loss is None:
                return None
            count = samples_in(batch)
            total, samples = total + loss * count, samples + count
    if not samples:
        return None
    return total / samples if math.isfinite(total) else math.inf


def _loss(output: Any, labels: Tensor) -> float | None:
    own = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if isinstance(own, Tensor) and own.numel() == 1:
        return float(own)
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", output)
    logits = logits[0] if isinstance(logits, (tuple, list)) and logits else logits
    if not isinstance(logits, Tensor):
        return None
    labels = labels.to(logits.device)
    if not labels.is_floating_point() and labels.dim() == logits.dim() - 1:
        # Classes lie behind the samples in images of classes, and last in sequences.
        last = logits.shape[:-1] == labels.shape
        logits = (logits if last else logits.movedim(1, -1)).float()
        if logits.shape[:-1] != labels.shape or int(labels.max()) >= logits.shape[-1]:
            return None
        return float(F.cross_entropy(logits.flatten(0, -2), labels.flatten().long()))
    return float(F.mse_loss(logits.float(), labels.float())) if labels.shape == logits.shape else None


def _labels(batch: Any) -> Tensor | None:
    if isinstance(batch, Mapping):
        labels = next((batch[key] for key in _LABELS if key in batch), None)
    else:
        labels = batch[1] if isinstance(batch, (tuple, list)) and len(batch) > 1 else None
    return labels if isinstance(labels, Tensor) else None


def _colon(text: str) -> str:
    return f": {text}" if text else ""
