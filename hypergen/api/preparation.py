"""What follows any start of a network: statistics of batch norms, a solved head, and a measurement."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hypergen.api.comparison import Start, largest_activation, mean_loss
from hypergen.api.probe import Arguments
from hypergen.errors import GeneratorError, ParameterError
from hypergen.functional import BatchNormCalibration, RidgeHead, calibrate_batch_norm, fit_ridge_head


class Preparation:
    """What follows any start: statistics of batch norms, the head, and a measurement."""

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[Any] | None,
        calibration_batches: int | None,
        head: str,
        head_layer: str | None,
        num_classes: int | None,
        frozen: Collection[str],
    ) -> None:
        self.model, self.batches, self.calibration_batches = model, batches, calibration_batches
        self.readout, self.head_layer, self.num_classes = head, head_layer, num_classes
        self.frozen = frozenset(frozen)
        self.left_out = _frozen_batch_norms(model, self.frozen)
        self.calibration: BatchNormCalibration | None = None
        self.head: RidgeHead | None = None
        self.unsolved = ""
        self.defaulted: tuple[str, ...] = tuple(_running_statistics(model))

    def run(self) -> None:
        """Calibrate, then solve the head, on the data.

        Raises:
            ParameterError: The head is to be solved (``"ridge"``, not ``"ridge_where_labelled"``) and can't be.
            GeneratorError: The head is frozen.
        """
        self.head, self.unsolved = None, ""
        if self.batches is None:
            return
        statistics = _running_statistics(self.model)
        before = {buffer: tensor.clone() for buffer, tensor in statistics.items() if not tensor.is_meta}
        self.calibration = calibrate_batch_norm(
            self.model, self.batches, max_batches=self.calibration_batches, leave_out=self.left_out
        )
        self.defaulted = tuple(buffer for buffer, tensor in statistics.items() if torch.equal(tensor, before[buffer]))
        if self.readout == "predicted":
            return
        try:
            self.head = _solve_head(self.model, self.batches, self.head_layer, self.num_classes)
        except ParameterError as error:
            if self.readout == "ridge":
                raise
            self.unsolved = str(error)
        else:
            written = [n for n in (f"{self.head.name}.weight", f"{self.head.name}.bias") if n in self.frozen]
            if written:
                raise GeneratorError(
                    f'head="ridge" solves {self.head.name!r}, and {", ".join(written)} is frozen: set requires_grad on '
                    'it, name another layer by `head_layer=`, or pass `overwrite_frozen=True` or `head="predicted"`.'
                )

    def measure(self, arguments: Arguments | None) -> Start:
        """Prepare, then measure the loss on the data where it has labels, else the scale of the activations."""
        self.run()
        loss = None
        if self.head is not None and not math.isnan(self.head.left_out_error):
            # Its loss on the samples that it was solved on says little where they are few.
            return Start(loss=self.head.left_out_error, measure="squared error on samples left out")
        if self.batches is not None and arguments is not None:
            loss = mean_loss(self.model, self.batches, self.calibration_batches)
        if arguments is None or loss is not None:
            return Start(loss=loss)
        return Start(scale=largest_activation(self.model, arguments))

    def attempt(self, arguments: Arguments | None) -> tuple[Start, ParameterError | None]:
        """The measurement, or what is measured where the data or the values do not allow it, with the error."""
        try:
            return self.measure(arguments), None
        except ParameterError as error:
            return Start(error=str(error)), error


def _frozen_batch_norms(model: nn.Module, frozen: Collection[str]) -> frozenset[str]:
    """Batch norms with parameters that are all frozen: their statistics belong to them."""
    found = set()
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            own = [f"{name}.{key}" if name else key for key, _ in module.named_parameters(recurse=False)]
            if own and all(key in frozen for key in own):
                found.add(name)
    return frozenset(found)


def _running_statistics(model: nn.Module) -> dict[str, Tensor]:
    return {
        f"{name}.{kind}" if name else kind: tensor
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm)
        for kind, tensor in (("running_mean", module.running_mean), ("running_var", module.running_var))
        if tensor is not None
    }


def _solve_head(model: nn.Module, batches: Iterable[Any], head_layer: str | None, num_classes: int | None) -> RidgeHead:
    try:
        return fit_ridge_head(model, batches, head=head_layer, num_classes=num_classes)
    except ParameterError as error:
        # The function's own `head=` is not this API's.
        raise ParameterError(str(error).replace("`head=`", "`head_layer=`")) from error
