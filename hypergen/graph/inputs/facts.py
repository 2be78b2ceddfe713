"""What a Hugging Face model tells about its inputs' sizes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

_LENGTH = 16
_LONGEST_SOUND = 1500
_TOWERS = {
    "vision": "vision_config image_config backbone_config visual_config vision_encoder_config vision_model_config "
    "video_config",
    "audio": "audio_config audio_encoder_config encoder_config speech_config sound_config audio_tower_config "
    "semantic_model_config",
}


class Facts:
    """A model's configuration, the configurations of its towers, and its forward signature.

    Args:
        model: A ``transformers.PreTrainedModel``.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.config = model.config
        signature = inspect.signature(model.forward).parameters
        named = [p for p in signature.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        self.accepted = [p.name for p in named]
        self.required = [p.name for p in named if p.default is p.empty]
        main = model.main_input_name
        self.main = [main] if isinstance(main, str) else list(main)
        self.text = self.config.get_text_config()
        self.decoder = self.config.get_text_config(decoder=True)
        self.vision = self._tower("vision", bool({"pixel_values", "pixel_values_videos"} & set(self.main)))
        self.backbone = getattr(self.vision, "backbone_config", None)
        self.audio = self._tower("audio", bool({"input_features", "input_values"} & set(self.main)))
        nested = (getattr(self.audio, name, None) for name in ("asr_config", "audio_config"))
        self.audio = next(filter(None, nested), self.audio)
        self.codec = getattr(self.audio, "dac_config", None)

    def _tower(self, kind: str, itself: bool) -> Any:
        wrapped = (getattr(self.config, name, None) for name in ("thinker_config", "vlm_config", "audio_video_config"))
        for config in (self.config, *wrapped):
            for name in _TOWERS[kind].split():
                part = getattr(config, name, None)
                if part is not None and hasattr(part, "to_dict"):
                    return part
        return self.config if itself or (kind == "vision" and hasattr(self.config, "image_size")) else None

    def tell(self, *names: str, among: str = "config", default: Any = None) -> Any:
        """The first value that the configurations give to one of these names.

        Args:
            names: Names of attributes, the preferred one first.
            among: The configurations to ask, of ``config text vision backbone audio``, the preferred one first.
            default: What to answer where none tells.
        """
        for config in among.split():
            for name in names:
                value = getattr(getattr(self, config), name, None)
                if value is not None and not callable(value):
                    return value
        return default

    def number(self, *names: str, among: str = "config", default: int) -> int:
        """As :meth:`tell`, for what counts: of several numbers the first."""
        value = self.tell(*names, among=among, default=default)
        value = value[0] if isinstance(value, (tuple, list)) and value else value
        return value if type(value) is int and value > 0 else default

    def first(self, *kinds: type[nn.Module], of: str = "config") -> Any:
        """The first module of one of these classes, as registered, in the tower of this configuration."""
        config = getattr(self, of)
        towers = [module for module in self.model.modules() if getattr(module, "config", None) is config]
        tower = towers[0] if towers and config is not None else self.model
        return next((module for module in tower.modules() if isinstance(module, kinds)), None)

    # Text

    @cached_property
    def length(self) -> int:
        """Of a text."""
        names = ("max_position_embeddings", "n_positions", "max_target_positions", "max_sequence_length")
        longest = self.number(*names, among="text config", default=0)
        # Some count positions from behind the padding's index.
        return min(_LENGTH, longest - 2) if longest > 4 else _LENGTH

    @cached_property
    def vocabulary(self) -> int:
        """Number of tokens that every embedding has."""
        parts = (self.text, self.config, *(part for part in vars(self.config).values() if hasattr(part, "to_dict")))
        sizes = [getattr(part, "vocab_size", None) for part in parts]
        return min((size for size in sizes if type(size) is int and size > 1), default=1000)

    def tokens(self, length: int | None = None) -> Tensor:
        """Ordinary tokens, ``[1, length]``, with the one that ends a sequence at the end."""
        special = {v for c in (self.config, self.text) for k, v in vars(c).items() if k.endswith(("_id", "_index"))
                   and type(v) is int}  # fmt: skip
        plain = [i for i in range(min(self.vocabulary, 200)) if i not in special] or [0]
        chosen = [plain[(7 * i + 3) % len(plain)] for i in range(length or self.length)]
        end = self.tell("eos_token_id", among="text config")
        end = end[0] if isinstance(end, list) and end else end
        if isinstance(end, int) and 0 <= end < self.vocabulary:
            chosen[-1] = end
        return torch.tensor([chosen])

    # Images

    @cached_property
    def channels(self) -> int:
        """Of an image."""
        first = self.first(nn.Conv2d, nn.Conv3d, of="vision")
        told = self.number(
            "num_channels", "in_channels", "in_chans", "image_channels", among="vision config", default=0
        )
        return told or (first.in_channels if first else 3)

    @cached_property
    def image_size(self) -> tuple[int, int]:
        """Height and width."""
        built_for = next((m.img_size for m in self.model.modules() if getattr(m, "img_size", None)), 224)
        ratios = self.tell("scaled_images_ratios", default=None)
        if ratios:  # the smallest copy of the image has to hold a patch
            built_for = round(self.patch_size / min(ratios))
        maps = self.tell("backbone_feature_sizes", among="vision config")
        if maps:  # the first one's stride is four
            built_for = 4 * maps[0][0]
        names = ("image_size", "img_size", "input_size", "max_img_size")
        size = self.tell(*names, among="vision backbone config", default=built_for)
        if isinstance(size, Mapping):
            size = (size["height"], size["width"])
        if "target_sizes" in self.accepted:  # of any size, of which neighbours are merged, and these again
            size = 16 * self.patch_size
        height, width = size if isinstance(size, (tuple, list)) else (size, size)
        return height, width

    @cached_property
    def patch_size(self) -> int:
        """Side of a square patch."""
        return self.number("patch_size", "spatial_patch_size", among="vision config", default=14)

    @cached_property
    def grid(self) -> tuple[int, int, int]:
        """Frames, rows and columns of patches, where images come as lists of patches."""
        side = 2 * self.number("spatial_merge_size", "merge_size", among="vision config", default=2)
        return 1, side, side

    @cached_property
    def patches(self) -> Tensor:
        """An image as a list of patches: ``[patches, values]``."""
        frames = self.number("temporal_patch_size", "patch_temporal", among="vision config", default=1)
        values = self.channels * frames * self.patch_size**2
        return torch.empty(self.grid[1] * self.grid[2], values, device="meta")

    @cached_property
    def layouts(self) -> list[dict[str, Tensor | None]]:
        """The other ways in which models take images that were cut into patches or tiles; None leaves out."""
        if "pixel_values" not in self.accepted:
            return []
        frames, side = self.number("temporal_patch_size", among="vision config", default=0), self.patch_size
        merge = self.number("spatial_merge_size", "merge_size", among="vision config", default=1)
        count, channels = self.grid[1] * self.grid[2], self.channels
        shapes: list[tuple[int, ...]] = []
        if {"image_grid_thw", "grid_thw", "image_grid_hw"} & set(self.accepted):
            shapes = [
                (count, channels, side, side),
                (1, count, channels, side, side),
                (1, *self.patches.shape),
                (count, side * merge, side * merge, channels),
            ]
        elif frames and not self.first(nn.Conv2d, nn.Conv3d, of="vision"):
            shapes = [(count, frames, side, side, channels)]
        elif self.of_tiles:
            shapes = [(1, 1, channels, *self.image_size)]
        layouts: list[dict[str, Tensor | None]] = [{"pixel_values": torch.empty(s, device="meta")} for s in shapes]
        if "pixel_attention_mask" in self.accepted and "spatial_shapes" not in self.accepted:  # of tiles, not pixels
            layouts.append({"pixel_attention_mask": torch.ones(1, 1, dtype=torch.bool)})
        if "image_attention_mask" in self.accepted:  # of patches, not of the text that looks at the image
            whole = torch.empty((1, channels, *self.image_size), device="meta")
            layouts.append({"pixel_values": whole, "image_attention_mask": None})
        return layouts

    @cached_property
    def sound_layouts(self) -> list[dict[str, Tensor | None]]:
        """The other way in which models take a spectrogram: neighbouring frames side by side."""
        first = self.first(nn.Conv1d, nn.ConvTranspose1d, nn.Conv2d, nn.Linear, nn.LayerNorm, of="audio")
        width = first.in_features if isinstance(first, nn.Linear) else 0
        if "input_features" not in self.accepted or width <= self.mel_bins or width % self.mel_bins:
            return []
        return [{"input_features": torch.empty((1, self.sound_frames, width), device="meta")}]

    @cached_property
    def of_tiles(self) -> bool:
        """Whether a model within this one asks which pixels of an image's tiles are padding; this one does not."""
        methods = (getattr(module, "get_image_features", None) for module in self.model.modules())
        method = next(filter(None, methods), None)
        asks = method is not None and "pixel_attention_mask" in inspect.signature(method).parameters
        return asks and "pixel_attention_mask" not in self.accepted

    @cached_property
    def reads_patches(self) -> bool:
        """Whether the first layer reads patches that somebody else has cut out of the image."""
        if self.vision is None or self.first(nn.Conv2d, nn.Conv3d, nn.Unfold, of="vision"):
            return False
        widths = {module.in_features for module in self.model.modules() if isinstance(module, nn.Linear)}
        return self.channels * self.patch_size**2 in widths

    @cached_property
    def frames(self) -> int:
        """Of a clip; 1 where the model looks at images."""
        return self.number("num_frames", "frames_per_clip", "video_length", among="vision config", default=1)

    # Sounds

    @cached_property
    def mel_bins(self) -> int:
        """Of a spectrogram."""
        names = ("num_mel_bins", "feature_projection_input_dim", "input_feat_per_channel", "mel_bins", "n_mels",
                 "feature_size", "input_dim", "input_feat_size", "num_mel_filters",
                 "subsampling_conv_channels")  # fmt: skip
        return self.number(*names, among="audio config", default=80)

    def sequence(self, width: int, length: int) -> Tensor:
        """Vectors in time, along the axis where the first layer reads them."""
        first = self.first(nn.Conv1d, nn.ConvTranspose1d, nn.Conv2d, nn.Linear, nn.LayerNorm, of="audio")
        told = self.tell("num_mel_bins", among="audio config")
        by_chunks = told and self.tell("n_window", "n_window_infer", among="audio config")
        # The first may read several time steps at a time.
        if isinstance(first, nn.Linear) and not by_chunks and (not told or first.in_features % told):
            width = first.in_features
        along = isinstance(first, (nn.Conv1d, nn.ConvTranspose1d)) and first.in_channels == width
        along = along and self.tell("input_feat_per_channel") is None  # is turned round by the model
        along = along or bool(by_chunks) or "feature_attention_mask" in self.accepted
        return torch.empty((1, width, length) if along else (1, length, width), device="meta")

    @cached_property
    def sound_frames(self) -> int:
        """Of a spectrogram."""
        longest = self.number("max_source_positions", among="audio config", default=0)
        window = self.number("n_window", among="audio config", default=64)
        # Longer ones need not be filled.
        return 2 * (longest if 0 < longest <= _LONGEST_SOUND else window)
