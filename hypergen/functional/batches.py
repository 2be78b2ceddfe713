"""How batches of data are read, and how a network is run on them without leaving traces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hypergen.errors import ParameterError

_LABEL_KEYS = ("labels", "label")


def run_on_batch(model: nn.Module, batch: Any) -> int:
    """Call ``model`` on the inputs in ``batch``, moved to the model's device.

    Args:
        model: The network.
        batch: Inputs alone, a tuple or list that begins with them, or a mapping of keyword arguments, whose labels are
            left out.

    Returns:
        The number of samples in the batch.

    Raises:
        ParameterError: The batch holds no input tensor.
    """
    inputs, keywords, samples = _split(batch)
    parameter = next(model.parameters(), None)
    device = None if parameter is None else parameter.device
    model(*(_moved(value, device) for value in inputs), **{k: _moved(v, device) for k, v in keywords.items()})
    return samples


def samples_in(batch: Any) -> int:
    """Count the samples in ``batch``, which is what :func:`run_on_batch` takes."""
    return _split(batch)[2]


def labels_of(batch: Any) -> Tensor:
    """Give the class indices in ``batch``: its second element, or its entry ``labels`` or ``label``.

    Returns:
        The labels, int64: ``[samples]``.

    Raises:
        ParameterError: The batch has no labels, or they are not class indices.
    """
    labels: Any = None
    if isinstance(batch, Mapping):
        labels = next((batch[key] for key in _LABEL_KEYS if key in batch), None)
    elif isinstance(batch, Sequence) and len(batch) > 1:
        labels = batch[1]
    if not isinstance(labels, Tensor):
        raise ParameterError(
            f"A batch of type {type(batch).__name__} holds no labels. Expected (inputs, labels), or a dictionary with "
            "an entry 'labels' or 'label'."
        )
    if labels.dim() != 1 or labels.dtype.is_floating_point or labels.dtype.is_complex or labels.dtype == torch.bool:
        raise ParameterError(
            f"Labels must be class indices, [samples] integers; got {labels.dtype} {list(labels.shape)}."
        )
    return labels.long()


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put every module of ``model`` into evaluation mode, without gradients, and restore each one's own mode after.

    The flags are set directly: a module may override ``train`` to keep parts of itself frozen.
    """
    flags = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in flags:
            module.training = False
        with torch.no_grad():
            yield
    finally:
        for module, flag in flags:
            module.training = flag


def _split(batch: Any) -> tuple[list[Any], dict[str, Any], int]:
    """Split a batch into positional inputs, keyword inputs, and the number of samples."""
    inputs = batch[0] if isinstance(batch, Sequence) and len(batch) > 0 else batch
    if isinstance(inputs, Tensor) and inputs.dim() > 0:
        return [inputs], {}, len(inputs)
    if isinstance(inputs, Mapping):
        keywords = {name: value for name, value in inputs.items() if name not in _LABEL_KEYS}
        for value in keywords.values():
            if isinstance(value, Tensor) and value.dim() > 0:
                return [], keywords, len(value)
    raise ParameterError(
        f"A batch of type {type(batch).__name__} holds no input tensor. Expected a tensor, a tuple that begins with "
        "one, or a dictionary of keyword arguments of the model."
    )


def _moved(value: Any, device: torch.device | None) -> Any:
    return value.to(device) if isinstance(value, Tensor) and device is not None else value
