"""Diffusers' networks at the sizes of their configurations' defaults: Flux has twelve billion parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import diffusers
import torch

from benchmarks.trace_suites import Case

EXCLUDED: Mapping[str, str] = {}


def floats(*shape: int) -> torch.Tensor:
    """A tensor of which only the shape is of interest."""
    return torch.empty(shape, device="meta")


def _steps() -> torch.Tensor:
    return torch.tensor([3])


# Class → arguments of its constructor, and what it is called with.
MODELS: dict[str, tuple[dict[str, Any], Callable[[], dict[str, Any]]]] = {
    "UNet1DModel": ({"extra_in_channels": 64}, lambda: {"sample": floats(1, 2, 512), "timestep": _steps()}),
    "UNet2DModel": ({}, lambda: {"sample": floats(1, 3, 32, 32), "timestep": _steps()}),
    "UNet2DConditionModel": (
        {},
        lambda: {"sample": floats(1, 4, 32, 32), "timestep": 3, "encoder_hidden_states": floats(1, 7, 1280)},
    ),
    "UNet3DConditionModel": (
        {},
        lambda: {"sample": floats(1, 4, 2, 16, 16), "timestep": 3, "encoder_hidden_states": floats(1, 7, 1024)},
    ),
    "UNetSpatioTemporalConditionModel": (
        {},
        lambda: {
            "sample": floats(1, 2, 8, 16, 16), "timestep": 3, "encoder_hidden_states": floats(1, 1, 1024),
            "added_time_ids": floats(1, 3),
        },
    ),
    "ControlNetModel": (
        {},
        lambda: {
            "sample": floats(1, 4, 16, 16), "timestep": 3, "encoder_hidden_states": floats(1, 7, 1280),
            "controlnet_cond": floats(1, 3, 128, 128),
        },
    ),
    "DiTTransformer2DModel": (
        {},
        lambda: {"hidden_states": floats(1, 4, 32, 32), "timestep": _steps(), "class_labels": torch.tensor([5])},
    ),
    "PixArtTransformer2DModel": (
        {"sample_size": 32, "caption_channels": 64},
        lambda: {
            "hidden_states": floats(1, 4, 32, 32), "timestep": _steps(), "encoder_hidden_states": floats(1, 7, 64),
            "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
        },
    ),
    "SD3Transformer2DModel": (
        {},
        lambda: {
            "hidden_states": floats(1, 16, 32, 32), "encoder_hidden_states": floats(1, 7, 4096),
            "pooled_projections": floats(1, 2048), "timestep": _steps(),
        },
    ),
    "FluxTransformer2DModel": (
        {"guidance_embeds": True},
        lambda: {
            "hidden_states": floats(1, 64, 64), "encoder_hidden_states": floats(1, 7, 4096),
            "pooled_projections": floats(1, 768), "timestep": floats(1), "img_ids": torch.zeros(64, 3),
            "txt_ids": torch.zeros(7, 3), "guidance": floats(1),
        },
    ),
    "AuraFlowTransformer2DModel": (
        {},
        lambda: {
            "hidden_states": floats(1, 4, 32, 32), "encoder_hidden_states": floats(1, 7, 2048), "timestep": floats(1),
        },
    ),
    "SanaTransformer2DModel": (
        {},
        lambda: {
            "hidden_states": floats(1, 32, 32, 32), "encoder_hidden_states": floats(1, 7, 2304), "timestep": _steps(),
        },
    ),
    "QwenImageTransformer2DModel": (
        {},
        lambda: {
            "hidden_states": floats(1, 64, 64), "encoder_hidden_states": floats(1, 7, 3584),
            "encoder_hidden_states_mask": torch.ones(1, 7, dtype=torch.int64), "timestep": floats(1),
            "img_shapes": [[(1, 8, 8)]],
        },
    ),
    "Lumina2Transformer2DModel": (
        {},
        lambda: {
            "hidden_states": floats(1, 16, 32, 32), "timestep": floats(1), "encoder_hidden_states": floats(1, 7, 1024),
            "encoder_attention_mask": torch.ones(1, 7, dtype=torch.bool),
        },
    ),
    "CogVideoXTransformer3DModel": (
        {"sample_width": 16, "sample_height": 16, "sample_frames": 5},
        lambda: {
            "hidden_states": floats(1, 2, 16, 16, 16), "encoder_hidden_states": floats(1, 226, 4096),
            "timestep": _steps(),
        },
    ),
    "WanTransformer3DModel": (
        {},
        lambda: {
            "hidden_states": floats(1, 16, 2, 16, 16), "timestep": _steps(),
            "encoder_hidden_states": floats(1, 7, 4096),
        },
    ),
    "LTXVideoTransformer3DModel": (
        {},
        lambda: {
            "hidden_states": floats(1, 32, 128), "encoder_hidden_states": floats(1, 7, 4096), "timestep": _steps(),
            "encoder_attention_mask": torch.ones(1, 7, dtype=torch.int64), "num_frames": 2, "height": 4, "width": 4,
        },
    ),
    "StableAudioDiTModel": (
        {},
        lambda: {
            "hidden_states": floats(1, 64, 64), "timestep": floats(1), "encoder_hidden_states": floats(1, 7, 768),
            "global_hidden_states": floats(1, 1, 1536), "rotary_embedding": (floats(65, 32), floats(65, 32)),
        },
    ),
    "PriorTransformer": (
        {},
        lambda: {
            "hidden_states": floats(1, 768), "timestep": _steps(), "proj_embedding": floats(1, 768),
            "encoder_hidden_states": floats(1, 77, 768),
        },
    ),
    "UVit2DModel": (
        {},
        lambda: {
            "input_ids": torch.zeros(1, 16, 16, dtype=torch.int64), "encoder_hidden_states": floats(1, 7, 768),
            "pooled_text_emb": floats(1, 768), "micro_conds": floats(1, 5),
        },
    ),
    "AutoencoderKL": (
        {
            "block_out_channels": (128, 256), "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
        },
        lambda: {"sample": floats(1, 3, 64, 64)},
    ),
    "AutoencoderTiny": ({}, lambda: {"sample": floats(1, 3, 64, 64)}),
    "AutoencoderDC": ({}, lambda: {"sample": floats(1, 3, 64, 64)}),
    "AutoencoderKLWan": ({}, lambda: {"sample": floats(1, 3, 5, 32, 32)}),
    "VQModel": ({}, lambda: {"sample": floats(1, 3, 32, 32)}),
}  # fmt: skip


def cases() -> Iterator[Case]:
    """A case per class: U-Nets, diffusion transformers for images, video and audio, and autoencoders."""
    for name, (arguments, inputs) in MODELS.items():
        yield Case(name, partial(getattr(diffusers, name), **arguments), inputs)
