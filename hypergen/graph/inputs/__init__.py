"""Example inputs, worked out where the model tells them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from hypergen.errors import TraceError
from hypergen.graph.inputs.hugging_face import hugging_face_inputs
from hypergen.graph.inputs.images import timm_image, torchvision_inputs
from hypergen.graph.inputs.libraries import diffusers_inputs, geometric_inputs


def example_arguments(model: nn.Module, example_inputs: Any = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments for ``model(...)``.

    Args:
        model: The network.
        example_inputs: A tensor, a tuple or list of positional arguments, or a mapping of keyword arguments; where
            it is None, the model is asked: Lightning's ``example_input_array``, timm's ``pretrained_cfg``,
            torchvision's model modules, Hugging Face's signature and configuration, diffusers' configuration, PyTorch
            Geometric's ``in_channels``, a linear or an embedding layer that comes first.

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
    inner = _forwarded_to(model)
    if inner is not None:
        return _told_by(inner)
    told = timm_image(model)
    if told is not None:
        return told
    if type(model).__module__.startswith("torchvision.models"):
        return torchvision_inputs(model)
    if hasattr(model, "main_input_name") and hasattr(model, "config"):
        return hugging_face_inputs(model)
    library = type(model).__module__.split(".")[0]
    if library == "diffusers" and hasattr(model, "config"):
        return diffusers_inputs(model)
    if library == "torch_geometric" and type(getattr(model, "in_channels", None)) is int:
        return geometric_inputs(model)
    first = _first_layer(model)
    if isinstance(first, nn.Linear):
        return torch.empty(1, first.in_features, device="meta")
    if isinstance(first, nn.Embedding):
        return torch.zeros(1, 16, dtype=torch.int64)
    example = "torch.zeros(1, 3, 224, 224)"
    if isinstance(first, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        sides = ("length", "height, width", "frames, height, width")[len(first.kernel_size) - 1]
        example = f"torch.zeros(1, {first.in_channels}, {sides})"
    raise TraceError(
        f"{type(model).__name__} does not tell what inputs it takes; pass `example_inputs=` (a tensor, a tuple of "
        f"positional arguments or a dict of keyword arguments), for example `example_inputs={example}`, or set "
        "`model.example_input_array`."
    )


def _forwarded_to(model: nn.Module) -> nn.Module | None:
    """The network that a wrapper passes whatever it is given to: an adapter's base, a compiled or parallel module's."""
    takes = inspect.signature(model.forward).parameters.values()
    if not takes or any(each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD) for each in takes):
        return None
    base = getattr(model, "get_base_model", None)
    if callable(base) and isinstance(inner := base(), nn.Module) and inner is not model:
        return inner
    children = [child for child in model.children() if any(True for _ in child.parameters())]
    return children[0] if len(children) == 1 else None


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
