"""Estimate the running statistics of batch norm from a few batches.

A network with new parameters still carries the running statistics of its old ones, and computes nonsense in evaluation
mode until they are estimated again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hypergen.errors import ParameterError
from hypergen.functional.batches import evaluation_mode, run_on_batch, samples_in
from hypergen.functional.check import expected_shapes


class BatchNormCalibration(NamedTuple):
    """What :func:`calibrate_batch_norm` did."""

    layers: int
    """Layers whose statistics were estimated."""
    samples: int
    """Samples that they were estimated from."""


class _PooledStatistics:
    """Mean and variance over all batches so far, combined exactly (Chan, Golub and LeVeque, 1979)."""

    def __init__(self, channels: int, device: torch.device) -> None:
        # Differences of large sums lose digits in single precision, which is all that some accelerators have.
        device = torch.device("cpu") if device.type == "mps" else device
        self.count = 0
        self.calls = 0
        self.mean = torch.zeros(channels, dtype=torch.float64, device=device)  # [channels]
        self.squares = torch.zeros_like(self.mean)  # [channels], sum of squared deviations

    def add(self, mean: Tensor, unbiased_variance: Tensor, count: int) -> None:
        mean = mean.to(self.mean)
        total = self.count + count
        difference = mean - self.mean
        self.mean = self.mean + difference * (count / total)
        self.squares = (
            self.squares
            + unbiased_variance.to(self.mean) * (count - 1)
            + difference.square() * (self.count * count / total)
        )
        self.count = total
        self.calls += 1

    def variance(self) -> Tensor:
        return self.squares / max(self.count - 1, 1)


def calibrate_batch_norm(
    model: nn.Module, batches: Iterable[Any], *, max_batches: int | None = None, leave_out: Collection[str] = ()
) -> BatchNormCalibration:
    """Estimate the running mean and variance of every batch norm in ``model`` that keeps them.

    Only the batch norms normalise by their batch while this runs; everything else, such as dropout, is in evaluation
    mode. The statistics are those of all batches taken together, also where batches differ in size. A batch of a single
    sample after the first batch is left out, because a batch norm cannot normalise by it.

    Args:
        model: The network; its running statistics change in place, and nothing else does.
        batches: A data loader, or any iterable of batches: inputs alone, a tuple or list that begins with them, or a
            dictionary of keyword arguments (without its labels).
        max_batches: Read at most this many batches.
        leave_out: Names of batch norms that keep their statistics and normalise by them.

    Returns:
        The number of layers calibrated, and of samples used; (0, 0) without reading a batch if no layer keeps
        statistics. A layer that the forward pass never calls keeps its statistics and is not counted.

    Raises:
        ParameterError: There are no batches, a module is lazy, or a layer sees values that are not finite. As after
            any other error in the forward pass, the model is unchanged.
    """
    expected_shapes(model)  # Refuses lazy modules.
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm)
        and module.track_running_stats
        and module.running_mean is not None
        and name not in leave_out
    }
    if not layers:
        return BatchNormCalibration(0, 0)
    statistics = {
        module: _PooledStatistics(module.num_features, _running(module)[0].device) for module in layers.values()
    }
    before = [
        (buffer, buffer.clone())
        for module in layers.values()
        for buffer in (module.running_mean, module.running_var, module.num_batches_tracked)
        if buffer is not None
    ]
    momenta = {module: module.momentum for module in layers.values()}

    def read(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        assert isinstance(module, _BatchNorm)
        count = output.numel() // module.num_features
        statistics[module].add(*_running(module), count)

    hooks = [module.register_forward_hook(read) for module in layers.values()]
    samples = 0
    try:
        with evaluation_mode(model):
            for module in layers.values():
                module.training = True
                module.momentum = 1.0  # The running statistics are then those of the last batch, for `read` to pool.
            for batch in islice(batches, max_batches):
                if samples == 0 or samples_in(batch) > 1:
                    samples += run_on_batch(model, batch)
        if samples == 0:
            raise ParameterError("There are no batches to estimate batch-norm statistics from. Pass at least one.")
        called = {name: module for name, module in layers.items() if statistics[module].count > 0}
        for name, module in called.items():
            if not torch.isfinite(statistics[module].mean + statistics[module].squares).all():
                raise ParameterError(
                    f"The inputs of batch norm '{name}' are not finite: the parameters before it blow up. Check the "
                    "parameters and the scale of the data."
                )
    except BaseException:
        for buffer, saved in before:
            buffer.copy_(saved)
        raise
    finally:
        for hook in hooks:
            hook.remove()
        for module, momentum in momenta.items():
            module.momentum = momentum
    for module in called.values():
        pooled = statistics[module]
        running_mean, running_variance = _running(module)
        running_mean.copy_(pooled.mean)
        running_variance.copy_(pooled.variance())
        if module.num_batches_tracked is not None:
            module.num_batches_tracked.fill_(pooled.calls)
    return BatchNormCalibration(len(called), samples)


def _running(module: _BatchNorm) -> tuple[Tensor, Tensor]:
    """The running mean and variance of a layer that keeps them: ``[channels]`` each."""
    assert module.running_mean is not None and module.running_var is not None
    return module.running_mean, module.running_var
