"""Arguments for Hugging Face models, from their ``main_input_name``, forward signature and configuration.

The library calls the same thing by the same name in all its models, so that an argument's name tells what it is and the
configuration tells its sizes. Numbers that count or choose (tokens, masks, positions, grids) have values; images and
sounds have shapes only.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from hypergen.errors import TraceError

_LENGTH = 16
# Given wherever the forward pass takes them: what the model reads the world by.
_SENSES = ("input_ids", "pixel_values", "pixel_values_videos", "input_features", "input_values", "decoder_input_ids")
# Given beside another argument, where the forward pass takes both.
_COMPANIONS = {
    "pixel_values": (
        "image_grid_thw", "image_grid_hw", "image_sizes", "aspect_ratio_ids", "aspect_ratio_mask", "spatial_shapes",
        "pixel_position_ids", "image_position_ids", "target_sizes", "num_patches", "pixel_attention_mask",
        "image_attention_mask",
    ),
    "pixel_values_videos": ("video_grid_thw",),
    "input_features": ("input_features_mask", "feature_attention_mask"),
    "input_ids": ("bbox", "mm_token_type_ids"),
}  # fmt: skip


def hugging_face_inputs(model: Any) -> dict[str, Any]:
    """Keyword arguments for a ``transformers.PreTrainedModel``.

    Args:
        model: The model; it may live on the meta device.

    Returns:
        Argument name → tensor.

    Raises:
        TraceError: The model takes an argument of which its configuration does not tell the shape.
    """
    return _Arguments(model).all()


class _Arguments:
    def __init__(self, model: Any) -> None:
        self.model = model
        self.config = model.config
        signature = inspect.signature(model.forward).parameters
        named = [p for p in signature.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        self.accepted = [p.name for p in named]
        self.required = [p.name for p in named if p.default is p.empty]
        main = model.main_input_name
        self.main = [main] if isinstance(main, str) else list(main)

    def all(self) -> dict[str, Any]:
        """Every argument that is required, is the main one, or goes with these."""
        names = [*self.required, *(name for name in self.main if name in self.accepted)]
        names += [name for name in _SENSES if name in self.accepted and self._has_sense(name)]
        if "pixel_values" in names and "pixel_values_videos" not in self.required:
            names = [name for name in names if name != "pixel_values_videos"]
        for name in tuple(names):
            names += [companion for companion in _COMPANIONS.get(name, ()) if companion in self.accepted]
        arguments: dict[str, Any] = {}
        for name in dict.fromkeys(names):
            arguments[name] = self.argument(name)
        return arguments

    def argument(self, name: str) -> Any:
        """An example of the argument of this name."""
        build: Callable[[], Any] | None = getattr(self, f"_{name}", None)
        if build is None:
            raise TraceError(
                f"{type(self.model).__name__} takes {name!r}, for which hypergen knows no example; pass "
                f"`example_inputs=` as a dict with every argument, {name!r} among them."
            )
        return build()

    # What the configuration tells

    def _has_sense(self, name: str) -> bool:
        if name in ("input_ids", "decoder_input_ids"):
            return True
        if name in ("pixel_values", "pixel_values_videos"):
            return self.vision is not None or "pixel_values" in self.main
        return self.audio is not None or name in self.main

    def tell(self, *names: str, default: Any = None, among: tuple[Any, ...] = ()) -> Any:
        """The first of these that a configuration tells."""
        for config in among or (self.config,):
            for name in names:
                value = getattr(config, name, None)
                if value is not None and not callable(value):
                    return value
        return default

    def _part(self, *names: str) -> Any:
        for name in names:
            part = getattr(self.config, name, None)
            if part is not None and hasattr(part, "to_dict"):
                return part
        return None

    @cached_property
    def text(self) -> Any:
        return self.config.get_text_config()

    @cached_property
    def vision(self) -> Any:
        part = self._part("vision_config", "image_config", "backbone_config", "visual_config", "vision_encoder_config")
        return part or (self.config if hasattr(self.config, "image_size") or "pixel_values" in self.main else None)

    @cached_property
    def audio(self) -> Any:
        part = self._part("audio_config", "audio_encoder_config", "encoder_config", "speech_config", "sound_config")
        return part or (self.config if {"input_features", "input_values"} & set(self.main) else None)

    # Text

    @cached_property
    def length(self) -> int:
        longest = self.tell(
            "max_position_embeddings", "n_positions", "max_target_positions", "max_sequence_length",
            among=(self.text, self.config), default=0,
        )  # fmt: skip
        if not isinstance(longest, int) or longest <= 4:
            return _LENGTH
        return min(_LENGTH, longest - 2)  # Some count positions from behind the padding's index.

    def _tokens(self, length: int | None = None) -> Tensor:
        """Ordinary tokens with the one that ends a sequence at the end."""
        size = self.tell("vocab_size", among=(self.text, self.config), default=1000)
        size = size if isinstance(size, int) else 1000
        special = set(self._special_tokens())
        plain = [i for i in range(min(size, 200)) if i not in special] or [0]
        length = length or self.length
        tokens = [plain[(7 * i + 3) % len(plain)] for i in range(length)]
        end = self.tell("eos_token_id", among=(self.text, self.config))
        end = end[0] if isinstance(end, list) and end else end
        if isinstance(end, int) and 0 <= end < size:
            tokens[-1] = end
        return torch.tensor([tokens])

    def _special_tokens(self) -> list[int]:
        configs = (self.config, self.text)
        values = [v for c in configs for k, v in vars(c).items() if k.endswith(("_token_id", "_token_index", "_id"))]
        return [v for v in values if type(v) is int]

    def _input_ids(self) -> Tensor:
        tokens = self._tokens()
        return torch.stack([tokens, tokens], 1) if type(self.model).__name__.endswith("ForMultipleChoice") else tokens

    def _decoder_input_ids(self) -> Tensor:
        return self._tokens()

    def _attention_mask(self) -> Tensor:
        return torch.ones(1, self.length, dtype=torch.int64)

    def _bbox(self) -> Tensor:
        return torch.tensor([0, 0, 1, 1]).expand(1, self.length, 4).clone()

    # Images

    @cached_property
    def channels(self) -> int:
        first = next((m for m in self.model.modules() if isinstance(m, (nn.Conv2d, nn.Conv3d))), None)
        told = self.tell("num_channels", "in_channels", "in_chans", "image_channels", among=(self.vision, self.config))
        return told if type(told) is int and told > 0 else first.in_channels if first else 3

    @cached_property
    def image_size(self) -> tuple[int, int]:
        size = self.tell("image_size", "img_size", "input_size", among=(self.vision, self.config), default=224)
        if isinstance(size, Mapping):
            size = (size["height"], size["width"])
        return tuple(size) if isinstance(size, (tuple, list)) else (size, size)  # type: ignore[return-value]

    def _pixel_values(self) -> Tensor:
        if "image_grid_thw" in self.accepted or "grid_thw" in self.accepted:
            return torch.empty(self._patches, self._patch_values, device="meta")
        frames = self.tell("num_frames", among=(self.vision, self.config))
        shape = (self.channels, *self.image_size)
        first = next((m for m in self.model.modules() if isinstance(m, (nn.Conv2d, nn.Conv3d))), None)
        if type(frames) is int and frames > 1 and "pixel_values_videos" not in self.accepted:
            shape = (frames, *shape)
        elif isinstance(first, nn.Conv3d):
            shape = (first.kernel_size[0], *shape)
        return torch.empty(1, *shape, device="meta")

    def _pixel_values_videos(self) -> Tensor:
        if "video_grid_thw" in self.accepted:
            return torch.empty(self._patches, self._patch_values, device="meta")
        frames = self.tell("num_frames", "frames_per_clip", among=(self.vision, self.config), default=8)
        return torch.empty(1, frames, self.channels, *self.image_size, device="meta")

    @cached_property
    def grid(self) -> tuple[int, int, int]:
        side = 2 * self.tell("spatial_merge_size", "merge_size", among=(self.vision, self.config), default=2)
        return (1, side, side)

    @property
    def _patches(self) -> int:
        return self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def _patch_values(self) -> int:
        side = self.tell("patch_size", "spatial_patch_size", among=(self.vision, self.config), default=14)
        frames = self.tell("temporal_patch_size", among=(self.vision, self.config), default=1)
        return self.channels * frames * side * side

    def _image_grid_thw(self) -> Tensor:
        return torch.tensor([self.grid])

    _grid_thw = _video_grid_thw = _image_grid_thw

    def _image_sizes(self) -> Tensor:
        return torch.tensor([self.image_size])

    # Sounds

    def _input_values(self) -> Tensor:
        """A waveform, or a spectrogram where the configuration counts its bins."""
        bins, frames = (self.tell(name, among=(self.audio,)) for name in ("num_mel_bins", "max_length"))
        if bins and frames:
            return torch.empty(1, frames, bins, device="meta")
        channels = self.tell("audio_channels", among=(self.audio,))
        return torch.empty(1, *((channels,) if channels else ()), 16000, device="meta")

    def _input_features(self) -> Tensor:
        """A spectrogram, with the bins where the first layer reads them."""
        bins = self.tell(
            "num_mel_bins", "feature_projection_input_dim", "input_feat_per_channel", "input_dim", "mel_bins",
            among=(self.audio, self.config), default=80,
        )  # fmt: skip
        frames = self.tell("max_source_positions", among=(self.audio, self.config))
        frames = 2 * frames if frames else 128
        layer = next(
            (m for m in self.model.modules() if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Linear, nn.LayerNorm))), None
        )
        if isinstance(layer, nn.Conv1d) and layer.in_channels == bins:
            return torch.empty(1, bins, frames, device="meta")
        return torch.empty(1, frames, bins, device="meta")

    # Time series

    def _past_values(self) -> Tensor:
        context = self.tell("context_length", "prediction_length", default=32)
        lags = max(self.tell("lags_sequence", default=[0]) or [0])
        channels = self.tell("num_input_channels", "input_size", default=1)
        variables = (channels,) if channels > 1 or hasattr(self.config, "num_input_channels") else ()
        return torch.empty(1, context + lags, *variables, device="meta")

    def _past_time_features(self) -> Tensor:
        return torch.empty(1, self._past_values().shape[1], self.tell("num_time_features", default=0), device="meta")

    def _past_observed_mask(self) -> Tensor:
        return torch.ones(self._past_values().shape)
