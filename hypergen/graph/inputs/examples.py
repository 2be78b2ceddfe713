"""An example for each argument that Hugging Face models call by the same name."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hypergen.graph.inputs.facts import Facts


def _floats(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


# Texts


def _input_ids(facts: Facts) -> Tensor:
    tokens = facts.tokens()
    if facts.tell("codebook_vocab_size") and facts.tell("num_codebooks"):  # of text, and of each codebook
        return tokens[..., None].expand(-1, -1, 1 + facts.config.num_codebooks)
    return torch.stack([tokens, tokens], 1) if type(facts.model).__name__.endswith("ForMultipleChoice") else tokens


def _decoder_input_ids(facts: Facts) -> Tensor:
    tokens = facts.tokens()
    channels = getattr(getattr(facts.config, "decoder_config", None), "num_channels", None)
    return tokens[..., None].expand(-1, -1, channels) if channels else tokens


def _bbox(facts: Facts) -> Tensor:
    box = torch.tensor([1, 1, 2, 2]).expand(1, facts.length, 4).clone()
    return box.float() / 10 if hasattr(facts.config, "dim_bbox") else box


def _entity_position_ids(facts: Facts) -> Tensor:
    positions = torch.full((1, 2, facts.number("max_mention_length", default=30)), -1)
    positions[..., :3] = torch.arange(3)
    return positions


# Images


def _pixel_values(facts: Facts) -> Tensor:
    if {"image_grid_thw", "grid_thw", "image_grid_hw"} & set(facts.accepted):
        return facts.patches
    if {"spatial_shapes", "pixel_position_ids", "image_position_ids"} & set(facts.accepted):
        return facts.patches[None]
    shape: tuple[int, ...] = (facts.channels, *facts.image_size)
    first = facts.first(nn.Conv2d, nn.Conv3d, of="vision")
    home = sys.modules[type(facts.model).__module__]
    if facts.reads_patches:
        rows, columns = (side // facts.patch_size for side in facts.image_size)
        return _floats(1, rows * columns, facts.channels * facts.patch_size**2)
    if "prompt_pixel_values" in facts.required:  # the prompt's half of the image comes from there
        shape = (facts.channels, facts.image_size[0] // 2, facts.image_size[1])
    elif any(name.endswith("ForKeypointMatching") for name in vars(home)):  # a pair of images
        shape = (2, *shape)
    elif hasattr(facts.config, "image_grid_pinpoints") and hasattr(home, "image_size_to_num_patches"):
        pinpoints = facts.config.image_grid_pinpoints
        count = home.image_size_to_num_patches(list(facts.image_size), pinpoints, facts.image_size[0])
        shape = (count, *shape)
    elif "aspect_ratio_ids" in facts.accepted:
        shape = (1, facts.number("max_num_tiles", among="vision config", default=4), *shape)
    elif {"pixel_attention_mask", "image_attention_mask"} & set(facts.accepted) or hasattr(
        facts.config, "image_grid_pinpoints"
    ):
        shape = (1, *shape)
    elif "pixel_values_videos" not in facts.accepted and hasattr(facts.config, "video_token_index"):
        shape = (4, *shape)
    elif isinstance(first, nn.Conv3d) or (facts.frames > 1 and "pixel_values_videos" not in facts.accepted):
        shape = (max(facts.frames, 2), *shape)
    return _floats(1, *shape)


def _pixel_values_videos(facts: Facts) -> Tensor:
    if "video_grid_thw" in facts.accepted:
        return facts.patches
    return _floats(1, max(facts.frames, 4), facts.channels, *facts.image_size)


def _image_grid_thw(facts: Facts) -> Tensor:
    # Where samples have several images, the last one's is what is to be generated.
    return torch.tensor([facts.grid] * (2 if "images_per_sample" in facts.accepted else 1))


def _grid_hw(facts: Facts) -> Tensor:
    return torch.tensor([facts.grid[1:]])


def _target_sizes(facts: Facts) -> Tensor:
    """Rows and columns of patches of an image that the model cuts itself."""
    return torch.tensor([[side // facts.patch_size for side in facts.image_size]])


def _merge_sizes(facts: Facts) -> Tensor:
    return torch.tensor([facts.grid[1] // 2])


def _image_sizes(facts: Facts) -> Tensor:
    return torch.tensor([facts.image_size])


def _positions_of_patches(facts: Facts) -> Tensor:
    rows, columns = facts.grid[1:]
    return torch.cartesian_prod(torch.arange(columns), torch.arange(rows))[None]


def _patch_mask(facts: Facts) -> Tensor:
    if "spatial_shapes" in facts.accepted:
        return torch.ones(1, len(facts.patches), dtype=torch.int64)
    return torch.ones(1, 1, *facts.image_size, dtype=torch.int64)


def _hidden_states(facts: Facts) -> Tensor:
    if "grid_thw" in facts.accepted:
        return facts.patches
    first = facts.first(nn.Conv1d, nn.Linear, nn.LayerNorm)
    if isinstance(first, nn.Conv1d) and first.in_channels == 1:
        return _floats(1, 1, 19200)
    return _floats(1, facts.length, facts.number("hidden_size", default=768))


def _flattened_patches(facts: Facts) -> Tensor:
    """A row and a column number before each patch's values."""
    values = facts.number("patch_embed_hidden_size", among="vision config", default=768)
    places = torch.cartesian_prod(torch.arange(1.0, 5), torch.arange(1.0, 5))
    return torch.cat([places, torch.zeros(16, values)], 1)[None]


# Sounds


def _input_values(facts: Facts) -> Tensor:
    """A waveform, or a spectrogram where the configuration counts its bins and frames."""
    if _reads_vectors(facts):
        return _floats(1, facts.length, facts.number("hidden_size", default=768))
    bins, frames = (facts.tell(name, among="audio config") for name in ("num_mel_bins", "max_length"))
    if bins and frames:
        return _floats(1, frames, bins)
    channels = facts.tell("audio_channels", "channels", among="audio config")
    channels = channels or (
        1 if facts.tell("codebook_size", "quantization_levels", among="audio config codec") else None
    )
    ratios = facts.tell("downsampling_ratios")
    beside_features = ratios and "input_features" in facts.accepted  # of which each is about so many samples
    samples = facts.sound_frames * math.prod(ratios) if beside_features else 19200
    return _floats(1, *((channels,) if channels else ()), samples)


def _reads_vectors(facts: Facts) -> bool:
    """Whether the first layer normalises what a network before this one has computed."""
    first = facts.first(nn.Conv1d, nn.Conv2d, nn.Linear, nn.LayerNorm, of="audio")
    return isinstance(first, nn.LayerNorm) and not {"input_features", "input_ids"} & set(facts.accepted)


def _decoder_input_values(facts: Facts) -> Tensor:
    return _floats(1, facts.length, facts.number(*["hidden_size"] * _reads_vectors(facts), "num_mel_bins", default=80))


def _input_features(facts: Facts) -> Tensor:
    """A spectrogram, with the bins where the first layer reads them."""
    if facts.tell("spec_size", among="audio"):
        return _floats(1, 1, 128, facts.mel_bins)
    return facts.sequence(facts.mel_bins, facts.sound_frames)


def _latents(facts: Facts) -> Tensor:
    first = facts.first(nn.Conv1d, nn.ConvTranspose1d, nn.Linear)
    width = first.in_features if isinstance(first, nn.Linear) else first.in_channels
    return facts.sequence(width, 32)


def _inputs(facts: Facts) -> Any:
    """What the encoder of a pair takes; else vectors."""
    encoder: Any = getattr(facts.model, "encoder", None)
    if hasattr(encoder, "main_input_name"):
        return EXAMPLES[encoder.main_input_name](Facts(encoder))
    return _floats(1, facts.length, facts.number("d_model", "hidden_size", default=768))


def _sound_mask(facts: Facts) -> Tensor:
    return torch.ones(1, facts.sound_frames, dtype=torch.bool)


def _padding_mask(facts: Facts) -> Tensor:
    """Marks the samples of a waveform that are no padding."""
    waveform = _input_values(facts) if "input_values" in facts.accepted else _floats(1, 160 * facts.sound_frames)
    return torch.ones(1, waveform.shape[-1], dtype=torch.int64)


# Time series


def _past_values(facts: Facts) -> Tensor:
    context = facts.number("context_length", "prediction_length", default=32)
    lags = max(facts.tell("lags_sequence", default=None) or [0])
    channels = facts.number("num_input_channels", "input_size", default=1)
    several = channels > 1 or hasattr(facts.config, "num_input_channels")
    return _floats(1, context + lags, *((channels,) if several else ()))


def _past_time_features(facts: Facts) -> Tensor:
    return _floats(1, _past_values(facts).shape[1], facts.tell("num_time_features", default=0))


def _past_observed_mask(facts: Facts) -> Tensor:
    return torch.ones(_past_values(facts).shape)


def _steps(facts: Facts, *names: str) -> Tensor:
    """What is given at each step of an episode."""
    return _floats(1, 8, facts.number(*names, default=1))


EXAMPLES: dict[str, Callable[[Facts], Any]] = {
    "input_ids": _input_ids,
    "decoder_input_ids": _decoder_input_ids,
    "qformer_input_ids": lambda facts: facts.tokens(),
    "attention_mask": lambda facts: torch.ones(1, facts.length, dtype=torch.int64),
    "global_attention_mask": lambda facts: torch.tensor([[1] + [0] * (facts.length - 1)]),
    "image_attention_mask": lambda facts: torch.ones(1, facts.length, 1, dtype=torch.int64),
    "bbox": _bbox,
    "entity_ids": lambda facts: torch.tensor([[1, 2]]),
    "entity_position_ids": _entity_position_ids,
    "task_inputs": lambda facts: facts.tokens(facts.number("task_seq_len", default=77)),
    "protein_input_ids": lambda facts: facts.tokens()[:, :-1] % 20 + 4,
    "protein_attention_mask": lambda facts: torch.ones(1, facts.length - 1, dtype=torch.int64),
    "inputs_embeds": lambda facts: _floats(1, facts.length, facts.number("hidden_size", default=768)),
    "query_embeds": lambda facts: _floats(1, 4, facts.number("hidden_size", default=768)),
    "lang_ids": lambda facts: torch.zeros(1, dtype=torch.int64),
    "noise_embeds": lambda facts: _floats(
        1, facts.number("block_size", default=4), facts.number("hidden_size", default=768)
    ),
    "context_hidden_states": lambda facts: _floats(
        1, 8, facts.number("hidden_size", default=768) * len(facts.tell("target_layer_ids", default=[0]))
    ),
    "action_embeds": lambda facts: _floats(1, 4, getattr(facts.tell("dit_config"), "hidden_size", 768)),
    "marks": lambda facts: torch.tensor([[2, 5]]),
    "num_options": lambda facts: torch.tensor([[2, 2]]),
    "question_type_ids": lambda facts: torch.tensor([[0, 0]]),
    "classes_input_ids": lambda facts: facts.tokens().expand(2, -1),
    "classes_attention_mask": lambda facts: torch.ones(2, facts.length, dtype=torch.int64),
    "classes_structure": lambda facts: torch.tensor([2]),
    "tasks_input_ids": lambda facts: facts.tokens(),
    "tasks_attention_mask": lambda facts: torch.ones(1, facts.length, dtype=torch.int64),
    "hidden_states": _hidden_states,
    "encoder_hidden_states": lambda facts: _floats(
        1, 8, facts.number("encoder_hidden_size", "hidden_size", default=768)
    ),
    "visual_feats": lambda facts: _floats(1, 4, facts.number("visual_feat_dim", default=2048)),
    "visual_pos": lambda facts: _floats(1, 4, facts.number("visual_pos_dim", default=4)),
    "states": lambda facts: _steps(facts, "state_dim"),
    "actions": lambda facts: _steps(facts, "act_dim"),
    "rewards": lambda facts: _steps(facts),
    "returns_to_go": lambda facts: _steps(facts),
    "timesteps": lambda facts: torch.arange(8)[None],
    "pixel_values": _pixel_values,
    "prompt_pixel_values": _pixel_values,
    "prompt_masks": _pixel_values,
    "image": _pixel_values,
    "high_res_pixel_values": lambda facts: _floats(1, facts.channels, 1024, 1024),
    "pixel_values_videos": _pixel_values_videos,
    "image_grid_thw": _image_grid_thw,
    "grid_thw": _image_grid_thw,
    "video_grid_thw": _image_grid_thw,
    "image_grid_hw": _grid_hw,
    "spatial_shapes": _grid_hw,
    "images_per_sample": lambda facts: torch.tensor([2]),
    "image_token_pooling": lambda facts: torch.arange(16).view(4, 4),  # patches per token
    "image_grids": lambda facts: torch.tensor([[2, 2, 0, 0]]),
    "image_sizes": _image_sizes,
    "merge_sizes": _merge_sizes,
    "image_merge_sizes": _merge_sizes,
    "target_sizes": _target_sizes,
    "aspect_ratio_ids": lambda facts: torch.ones(1, 1, dtype=torch.int64),
    "aspect_ratio_mask": lambda facts: torch.ones(
        1, 1, facts.number("max_num_tiles", among="vision config", default=4)
    ),
    "pixel_position_ids": _positions_of_patches,
    "image_position_ids": _positions_of_patches,
    "pixel_attention_mask": _patch_mask,
    "flattened_patches": _flattened_patches,
    "input_values": _input_values,
    "decoder_input_values": _decoder_input_values,
    "input_features": _input_features,
    "input_features_mask": _sound_mask,
    "feature_attention_mask": _sound_mask,
    "padding_mask": _padding_mask,
    "chunk_sample_lengths": lambda facts: torch.tensor([160 * facts.sound_frames]),
    "audio_mel": _input_features,
    "audio_mel_mask": lambda facts: torch.zeros(1, facts.sound_frames, dtype=torch.bool),  # what is to be left out
    "latents": _latents,
    "inputs": _inputs,
    "spectrogram": _latents,
    "past_values": _past_values,
    "past_values_padding": lambda facts: torch.zeros(_past_values(facts).shape, dtype=torch.int64),
    "freq": lambda facts: torch.zeros(1, 1, dtype=torch.int64),
    "past_time_features": _past_time_features,
    "past_observed_mask": _past_observed_mask,
}
