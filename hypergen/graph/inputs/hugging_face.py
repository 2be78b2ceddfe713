"""Arguments for Hugging Face models, from their ``main_input_name``, forward signature and configuration.

The library calls the same thing by the same name in all its models, so that an argument's name tells what it is and the
configuration tells its sizes. Numbers that count or choose (tokens, masks, positions, grids) have values; images and
sounds have shapes only.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch

from hypergen.errors import TraceError
from hypergen.graph.inputs.examples import EXAMPLES
from hypergen.graph.inputs.facts import Facts
from hypergen.graph.inputs.features import count_features

# Given wherever the forward pass takes them and the model has a tower for them.
_SENSES = {
    "input_ids": "", "pixel_values": "vision", "pixel_values_videos": "vision", "input_features": "audio",
    "input_values": "audio", "decoder_input_ids": "",
}  # fmt: skip
# Given beside another argument, where the forward pass takes both.
_COMPANIONS = {
    "pixel_values": """image_grid_thw image_grid_hw image_sizes aspect_ratio_ids aspect_ratio_mask spatial_shapes
        pixel_position_ids image_position_ids pixel_attention_mask image_attention_mask target_sizes
        high_res_pixel_values images_per_sample image_merge_sizes""".split(),
    "pixel_values_videos": ["video_grid_thw"],
    "input_features": ["input_features_mask", "feature_attention_mask", "attention_mask"],
    "input_ids": """bbox visual_feats visual_pos global_attention_mask entity_ids entity_position_ids protein_input_ids
        protein_attention_mask lang_ids""".split(),
    "input_values": ["decoder_input_values"],
    "states": ["actions", "rewards", "returns_to_go", "timesteps"],
    "query_embeds": ["encoder_hidden_states"],
}
# What stands in a prompt for an image, a clip or a sound: the tower's method, its input, the token's names and type.
_PLACEHOLDERS = (
    ("get_image_features", "pixel_values", ("image_token_id", "image_token_index", "media_token_id"), 1),
    ("get_video_features", "pixel_values_videos", ("video_token_id", "video_token_index"), 2),
    ("get_audio_features", "input_features", ("audio_token_id", "audio_token_index"), 3),
    ("get_audio_features", "input_values", ("audio_token_id", "audio_token_index"), 3),
)


def hugging_face_inputs(model: Any) -> dict[str, Any]:
    """Keyword arguments for a ``transformers.PreTrainedModel``.

    Args:
        model: The model; it may live on the meta device.

    Returns:
        Argument name → tensor.

    Raises:
        TraceError: The model takes an argument of which its configuration does not tell the shape.
    """
    facts = Facts(model)
    arguments = {name: _example(facts, name) for name in _chosen(facts)}
    if "use_cache" in facts.accepted and not hasattr(facts.decoder, "num_hidden_layers"):
        arguments["use_cache"] = False  # There is one per layer, and nothing tells how many there are.
    _lay_out(facts, arguments, "pixel_values", "get_image_features", facts.layouts)
    _lay_out(facts, arguments, "input_features", "get_audio_features", facts.sound_layouts)
    if "input_ids" in arguments:
        _add_placeholders(facts, arguments)
    return arguments


def _chosen(facts: Facts) -> list[str]:
    """The required arguments, the main one, what the model reads the world by, and what goes with these."""
    names = [*facts.required, *(name for name in facts.main if name in facts.accepted)]
    names += [
        name for name, tower in _SENSES.items() if name in facts.accepted and (not tower or getattr(facts, tower))
    ]
    if "pixel_values" in names and "pixel_values_videos" not in facts.required:  # the same tower reads both
        names = [name for name in names if name != "pixel_values_videos"]
    companions = [companion for name in names for companion in _COMPANIONS.get(name, ())]
    if "input_ids" not in names:
        companions = [name for name in companions if name != "attention_mask"]
    names = list(dict.fromkeys([*names, *(name for name in companions if name in facts.accepted)]))
    names = _as_towers_ask(facts, names)
    # Most towers that could take images of several sizes do not.
    return [name for name in names if name != "image_sizes" or _asks_for_sizes(facts)]


def _as_towers_ask(facts: Facts, names: list[str]) -> list[str]:
    """With what the towers that are shown something need beside it, and without masks that are not about it."""
    for method, sense, _, _ in _PLACEHOLDERS:
        owner = _owner(facts, method)
        if sense not in names or owner is None:
            continue
        takes = inspect.signature(getattr(owner, method)).parameters
        needed = [name for name, parameter in takes.items() if parameter.default is parameter.empty]
        names = [name for name in names if name != f"{sense}_mask" or name in takes or name in facts.required]
        names += [name for name in needed if name in facts.accepted and name in EXAMPLES and name not in names]
    return names


def _owner(facts: Facts, method: str) -> Any:
    return next((module for module in facts.model.modules() if hasattr(module, method)), None)


def _asks_for_sizes(facts: Facts) -> bool:
    method = getattr(facts.model, "get_image_features", None)
    sizes = inspect.signature(method).parameters.get("image_sizes") if method else None
    needed = sizes is not None and sizes.default is sizes.empty
    return needed or hasattr(facts.config, "image_grid_pinpoints") or "image_sizes" in facts.required


def _example(facts: Facts, name: str) -> Any:
    if name not in EXAMPLES:
        raise TraceError(
            f"{type(facts.model).__name__} takes {name!r}, for which hypergen knows no example; pass "
            f"`example_inputs=` as a dict with every argument, {name!r} among them."
        )
    return EXAMPLES[name](facts)


def _wrapped(facts: Facts, names: tuple[str, ...]) -> Any:
    """What the configuration of a wrapped model tells."""
    config = getattr(facts.config, "vlm_config", None)
    return next((value for value in (getattr(config, name, None) for name in names) if value is not None), None)


def _lay_out(facts: Facts, arguments: dict[str, Any], sense: str, method: str, layouts: Sequence[Any]) -> None:
    """Hand over what is seen or heard as its tower reads it, which nothing but running it tells."""
    if sense not in arguments or not layouts:
        return
    method = method if hasattr(facts.model, method) else "forward"
    takes = inspect.signature(getattr(facts.model, method)).parameters
    for layout in ({}, *layouts):
        laid_out = {name: value for name, value in (arguments | layout).items() if value is not None}
        if count_features(facts.model, method, {name: value for name, value in laid_out.items() if name in takes}):
            arguments.clear()
            arguments.update(laid_out)
            return


def _add_placeholders(facts: Facts, arguments: dict[str, Any]) -> None:
    """Put as many tokens into the prompt as the towers make vectors of what is shown beside it."""
    prompt, kinds = arguments["input_ids"], torch.zeros_like(arguments["input_ids"])
    for method, sense, token_names, kind in _PLACEHOLDERS:
        token = facts.tell(*token_names, among="config text") or _wrapped(facts, token_names)
        owner = _owner(facts, method)
        if sense not in arguments or type(token) is not int or prompt.dim() != 2:
            continue
        count = 1  # where the model itself makes room
        if owner is not None:
            takes = inspect.signature(getattr(owner, method)).parameters
            count = count_features(owner, method, {k: v for k, v in arguments.items() if k in takes})
        if sense == "input_features":  # some fill up to a number
            count = facts.tell("audio_soft_tokens_per_image", default=count)
        before, after = prompt[:, :4], prompt[:, 4:]
        prompt = torch.cat([before, torch.full((1, count), token), after], 1)
        kinds = torch.cat([kinds[:, :4], torch.full((1, count), kind), kinds[:, 4:]], 1)
    if "pixel_values" in arguments and "image_embeds_position_mask" in facts.accepted:
        count = facts.number("latent_query_num", default=64)
        prompt = torch.cat([prompt[:, :1], prompt[:, 1:2].expand(-1, count), prompt[:, 1:]], 1)
        places = torch.arange(prompt.shape[1])
        arguments["image_embeds_position_mask"] = ((places > 0) & (places <= count))[None]
    arguments["input_ids"] = prompt
    if "attention_mask" in arguments:
        arguments["attention_mask"] = torch.ones_like(prompt)
    if "mm_token_type_ids" in facts.accepted:
        arguments["mm_token_type_ids"] = kinds
