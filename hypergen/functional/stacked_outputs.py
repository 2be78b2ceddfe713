"""What many networks of one architecture compute, from stacked parameters alone."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from hypergen.errors import ParameterError

# Samples that run at once, over all networks: activations of more would not fit into a small machine's memory.
_SAMPLES_AT_ONCE = 400_000
_NETWORKS_AT_ONCE = 512
# Convolutions of many networks become one in groups, which on a processor is several times slower than one after
# another as soon as each has a batch to itself.
_MANY_SAMPLES = 128


class StackedOutputs:
    """Runs networks of one architecture, ``outputs(parameters, inputs)``, in evaluation mode.

    Running statistics of batch norms belong to one network's values, and generators do not write them. They are
    estimated anew for each network, from the same calibration inputs; without any, batch norms normalise by the batch.

    Args:
        model: A network of the architecture; it is only read.
        calibration: Inputs ``[samples, …]`` that statistics of batch norms are estimated from.
    """

    def __init__(self, model: nn.Module, calibration: Tensor | None = None) -> None:
        self.model = copy.deepcopy(model).eval()
        self.calibration = calibration
        self._one_by_one = any(isinstance(module, _ConvNd) for module in self.model.modules())
        self._norms = {name: module for name, module in self.model.named_modules() if keeps_statistics(module)}
        self._by_batch = _by_batch(self.model) if self._norms else self.model
        self._calibrating = _calibrating(self.model) if self._norms else self.model

    def __call__(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Outputs of all networks.

        Args:
            parameters: ``[networks, *shape]`` by name.
            inputs: The same for all networks, ``[samples, …]``.

        Returns:
            ``[networks, samples, …]``.
        """
        if not self._norms or self.calibration is None:
            return self.by_batch(parameters, inputs)
        return self._run(self.model, {**parameters, **self.statistics(parameters)}, inputs)

    def by_batch(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """The same, with batch norms that normalise by the inputs, as in training."""
        return self._run(self._by_batch, parameters, inputs)

    @torch.no_grad()
    def statistics(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Running statistics of every batch norm on the calibration inputs, ``[networks, channels]`` by name.

        Raises:
            ParameterError: There are batch norms, but no calibration inputs.
        """
        if not self._norms:
            return {}
        if self.calibration is None:
            raise ParameterError("Batch norms need inputs to estimate their statistics from; pass calibration=.")
        count = len(next(iter(parameters.values())))
        names = [f"{name}.{kind}" for name in self._norms for kind in ("running_mean", "running_var")]
        own = dict(self.model.named_buffers())
        buffers = {name: own[name].expand(count, *own[name].shape).clone() for name in names}
        self._run(self._calibrating, {**{n: v.detach() for n, v in parameters.items()}, **buffers}, self.calibration)
        return buffers

    def _run(self, model: nn.Module, tensors: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        def one(own: dict[str, Tensor]) -> Tensor:
            return logits_of(functional_call(model, own, (inputs,)))

        if self._one_by_one and len(inputs) >= _MANY_SAMPLES:
            count = len(next(iter(tensors.values())))
            return torch.stack([one({name: value[row] for name, value in tensors.items()}) for row in range(count)])
        chunk = max(1, min(_NETWORKS_AT_ONCE, _SAMPLES_AT_ONCE // max(1, len(inputs))))
        return vmap(one, chunk_size=chunk)(dict(tensors))


def logits_of(output: Any) -> Tensor:
    """The tensor that counts in what a network returns: itself, its entry ``logits``, or the first of several.

    Raises:
        ParameterError: There is none.
    """
    if isinstance(output, Tensor):
        return output
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if found is None and isinstance(output, (tuple, list)) and output:
        found = output[0]
    if not isinstance(found, Tensor):
        raise ParameterError(f"The network returns a {type(output).__name__}; expected a tensor, or one named logits.")
    return found


def keeps_statistics(module: nn.Module) -> bool:
    """Whether a module is a batch norm that normalises by running statistics in evaluation mode."""
    return isinstance(module, _BatchNorm) and module.track_running_stats and module.running_mean is not None


def _by_batch(model: nn.Module) -> nn.Module:
    changed = copy.deepcopy(model)
    for module in changed.modules():
        if keeps_statistics(module):
            module.track_running_stats = False  # type: ignore[assignment]
            module.running_mean = module.running_var = module.num_batches_tracked = None  # type: ignore[assignment]
    return changed


def _calibrating(model: nn.Module) -> nn.Module:
    """A copy whose batch norms normalise by the batch and keep its statistics, without any average over batches."""
    changed = copy.deepcopy(model)
    for module in changed.modules():
        if keeps_statistics(module):
            module.training = True
            module.momentum = 1.0  # type: ignore[assignment]
            module.num_batches_tracked = None  # type: ignore[assignment]
    return changed
