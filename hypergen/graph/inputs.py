"""Example inputs, worked out where the model tells them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hypergen.errors import TraceError


def example_arguments(model: nn.Module, example_inputs: Any = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments for ``model(...)``.

    Args:
        model: The network.
        example_inputs: A tensor, a tuple or list of positional arguments, or a mapping of keyword arguments; where
            it is None, the model is asked: Lightning's ``example_input_array``, timm's ``pretrained_cfg``,
            torchvision's model modules, Hugging Face's ``main_input_name`` and configuration, a linear or an embedding
            layer that comes first.

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
    for name in ("pretrained_cfg", "default_cfg"):
        config = getattr(model, name, None)
        if isinstance(config, Mapping) and config.get("input_size"):
            return _image(model, *_timm_size(model, config["input_size"]))
    if type(model).__module__.startswith("torchvision.models"):
        return _torchvision(model)
    if isinstance(getattr(model, "main_input_name", None), str) and hasattr(model, "config"):
        return _hugging_face(model)
    first = _first_layer(model)
    if isinstance(first, nn.Linear):
        return torch.empty(1, first.in_features, device="meta")
    if isinstance(first, nn.Embedding):
        return _tokens()
    example = "torch.zeros(1, 3, 224, 224)"
    if isinstance(first, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        sides = ("length", "height, width", "frames, height, width")[len(first.kernel_size) - 1]
        example = f"torch.zeros(1, {first.in_channels}, {sides})"
    raise TraceError(
        f"{type(model).__name__} does not tell what inputs it takes; pass `example_inputs=` (a tensor, a tuple of "
        f"positional arguments or a dict of keyword arguments), for example `example_inputs={example}`, or set "
        "`model.example_input_array`."
    )


def _first_layer(model: nn.Module) -> nn.Module | None:
    """What certainly, or by all custom, runs first: the first child, through Sequentials."""
    if any(True for _ in model.parameters(recurse=False)):
        return model
    for child in model.children():
        if isinstance(child, nn.Sequential):
            return _first_layer(child)
        if any(True for _ in child.parameters()):
            return child
    return None


def _image(model: nn.Module, channels: int, *size: int) -> Tensor:
    """A batch of one image, or of one clip."""
    first = next((m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Conv3d))), None)
    # Fewer channels where the first layer was built or replaced for grey images; more are made by rearranging pixels.
    return torch.empty(1, min(channels, first.in_channels) if first else channels, *size, device="meta")


def _tokens(length: int = 16) -> Tensor:
    return torch.zeros(1, length, dtype=torch.int64, device="meta")


def _timm_size(model: Any, told: Sequence[int]) -> tuple[int, ...]:
    """What timm tells, unless the model was built for images of another size."""
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    return (told[0], *size) if isinstance(size, (tuple, list)) and len(size) == 2 else tuple(told)


def _torchvision(model: nn.Module) -> Tensor:
    if type(model).__module__.startswith("torchvision.models.video"):
        return _image(model, 3, 16, 224, 224)
    size = getattr(model, "image_size", 299 if type(model).__name__ == "Inception3" else 224)
    return _image(model, 3, size, size)


def _hugging_face(model: Any) -> dict[str, Tensor]:
    name, config = model.main_input_name, model.config
    longest = getattr(config, "max_position_embeddings", None)
    length = min(16, longest) if isinstance(longest, int) and longest > 0 else 16
    inputs: dict[str, Tensor]
    if name == "input_ids":
        inputs = {name: _tokens(length)}
    elif name == "pixel_values":
        size = getattr(config, "image_size", 224)
        height, width = size if isinstance(size, (tuple, list)) else (size, size)
        inputs = {name: torch.empty(1, getattr(config, "num_channels", 3), height, width, device="meta")}
    elif name == "input_values":  # a waveform
        inputs = {name: torch.empty(1, 16000, device="meta")}
    elif name == "input_features" and hasattr(config, "num_mel_bins") and hasattr(config, "max_source_positions"):
        inputs = {name: torch.empty(1, config.num_mel_bins, 2 * config.max_source_positions, device="meta")}
    else:
        raise TraceError(
            f"{type(model).__name__} takes {name!r}, for which hypergen knows no example; pass "
            f"`example_inputs={{{name!r}: …}}`."
        )
    if "decoder_input_ids" in inspect.signature(model.forward).parameters:
        inputs["decoder_input_ids"] = _tokens(length)
    return inputs
