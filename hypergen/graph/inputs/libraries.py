"""Arguments for the networks of diffusers and PyTorch Geometric that tell their sizes."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from hypergen.errors import TraceError


def diffusers_inputs(model: Any) -> dict[str, Any]:
    """Keyword arguments for a ``diffusers.ModelMixin``: a sample of the size that its configuration tells.

    Args:
        model: A denoiser or an autoencoder.

    Returns:
        Argument name → tensor, for every required argument and the condition.

    Raises:
        TraceError: It requires an argument of which its configuration does not tell the shape.
    """
    config = model.config
    size = config.get("sample_size") or 32
    sides = list(size) if isinstance(size, (tuple, list)) else [size, size]
    axes = next((len(m.kernel_size) for m in model.modules() if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Conv3d))), 2)
    # Clips have frames before height and width; sequences have a length only.
    shape = (1, config.get("in_channels", 3), *([4, *sides] if axes == 3 else sides[:axes]))
    width = next((config[k] for k in ("cross_attention_dim", "joint_attention_dim") if config.get(k)), 0)
    told: dict[str, Tensor] = {
        "sample": torch.empty(shape, device="meta"),
        "hidden_states": torch.empty(shape, device="meta"),
        "timestep": torch.tensor([1]),
    }
    if isinstance(width, int) and width:
        told["encoder_hidden_states"] = torch.empty(1, 8, width, device="meta")
    if config.get("pooled_projection_dim"):
        told["pooled_projections"] = torch.empty(1, config["pooled_projection_dim"], device="meta")
    if config.get("num_embeds_ada_norm"):
        told["class_labels"] = torch.tensor([1])
    takes = inspect.signature(model.forward).parameters.values()
    for parameter in takes:
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            if parameter.name not in told:
                raise TraceError(
                    f"{type(model).__name__} takes {parameter.name!r}, of which its configuration does not tell the "
                    f"shape; pass `example_inputs=` as a dict with every argument, {parameter.name!r} among them."
                )
    return {parameter.name: told[parameter.name] for parameter in takes if parameter.name in told}


def geometric_inputs(model: Any) -> tuple[Tensor, Tensor]:
    """A ring of four nodes for a network of ``torch_geometric.nn``: their features and the edges."""
    ring = torch.tensor([[0, 1, 2, 3, 1, 2, 3, 0], [1, 2, 3, 0, 0, 1, 2, 3]])
    return torch.empty(4, model.in_channels, device="meta"), ring
