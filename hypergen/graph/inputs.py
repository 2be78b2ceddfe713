"""Example inputs, worked out where the model tells them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hypergen.errors import TraceError


def example_arguments(model: nn.Module, example_inputs: Any = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments for ``model(...)``.

    Args:
        model: The network.
        example_inputs: A tensor, a tuple or list of positional arguments, or a mapping of keyword arguments; where
            it is None, the model is asked: Lightning's ``example_input_array``, timm's ``default_cfg``,
            torchvision's model modules, Hugging Face's ``main_input_name`` and configuration.

    Returns:
        Positional and keyword arguments.

    Raises:
        TraceError: The model does not tell what it takes.
    """
    if example_inputs is None:
        example_inputs = _told_by(model)
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    return (tuple(example_inputs), {}) if isinstance(example_inputs, (tuple, list)) else ((example_inputs,), {})


def _told_by(model: nn.Module) -> Any:
    array = getattr(model, "example_input_array", None)
    if array is not None:
        return array
    config = getattr(model, "default_cfg", None)
    if isinstance(config, Mapping) and config.get("input_size"):
        return _image(*config["input_size"])
    if type(model).__module__.startswith("torchvision.models"):
        size = 299 if type(model).__name__ == "Inception3" else 224
        return _image(3, size, size)
    if isinstance(getattr(model, "main_input_name", None), str) and hasattr(model, "config"):
        return _hugging_face(model)
    raise TraceError(
        f"{type(model).__name__} does not tell what inputs it takes; pass `example_inputs=` (a tensor, a tuple of "
        "positional arguments or a dict of keyword arguments), for example `example_inputs=torch.zeros(1, 3, 224, "
        "224)`, or set `model.example_input_array`."
    )


def _image(*shape: int) -> Tensor:
    return torch.empty(1, *shape, device="meta")


def _hugging_face(model: Any) -> dict[str, Tensor]:
    name, config = model.main_input_name, model.config
    if name == "input_ids":
        length = min(16, getattr(config, "max_position_embeddings", 16) or 16)
        return {name: torch.zeros(1, length, dtype=torch.int64, device="meta")}
    if name == "pixel_values":
        size = getattr(config, "image_size", 224)
        height, width = size if isinstance(size, (tuple, list)) else (size, size)
        return {name: _image(getattr(config, "num_channels", 3), height, width)}
    raise TraceError(
        f"{type(model).__name__} takes {name!r}, for which hypergen knows no example; pass `example_inputs={{{name!r}: "
        "…}}`."
    )
