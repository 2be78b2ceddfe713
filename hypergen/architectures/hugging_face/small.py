"""Hugging Face model types: the classes of a type, and small configurations of any of them.

A small configuration has the structure of the type's default one with about two layers of each kind and narrow widths.
Every width is divided by one number, in the heads' number where it can and in the heads' size for the rest, so that
what had to be equal, a product or a multiple stays so, within one tower and between several.
"""

from __future__ import annotations

import copy
import importlib
import itertools
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from hypergen.architectures.hugging_face.repair import Attempt, attempt, repaired
from hypergen.errors import HypergenError

_SCALES = (32, 8, 4, 1)
_DIVISORS = (32, 16, 8, 4, 2, 1)
_LAYERS = 2
_EXPERTS = 4
_VOCABULARY = 1024
_NARROWEST = 8
_MOST_PATCHES = 64  # on a side of an image
# What a default configuration leaves open, but a model cannot be built or run without.
_OPEN = {
    "prediction_length": 4,
    "attn_layer_indices": [1],
    "image_token_id": 511,
    "image_token_index": 511,
    "audio_token_id": 510,
    "audio_token_index": 510,
    "video_token_id": 509,
    "video_token_index": 509,
    "vocab_size": 64,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "vocabulary_map": {"<image>": 511},
}
# What layers of hybrids without attention are called, and the ones with it.
_ATTENTION = {"mamba": "attention", "linear_attention": "full_attention"}
# Widths that a tower hands on to the text model.
_TOWER_OUTPUTS = ("out_hidden_size", "text_hidden_size", "llm_hidden_size", "output_dim")

# Sizes by the names that configurations give them; the first pattern that matches decides.
_KINDS = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in {
        "kept": r"kernel|stride|padding|ratio|dropout|num_channels|image_channels|audio_channels|model_in_dim|_std$|"
        r"position|type_vocab|mel|freq|num_patches|hop|window|image_size|patch|embedding_size_.*|temperature|max_|"
        r"image_embedding_size|keypoint_decoder_dim|feat_per_channel|num_pos|downsample_rate|num_register|"
        r"num_codebooks|num_quantizers|^index_",
        "period": r"_period$|_interval$",
        "offset": r"_layer_offset$",
        "token": r"(token_id|token_ids|token_index|_id|_index)$",
        "vocabulary": r"vocab_size|vocabulary_size|(^|_)vocab$",
        "experts_used": r"experts_per_tok|num_experts_per_token|moe_topk|moe_k$|top_k$|topk$|num_selected_experts",
        "groups_used": r"topk_group",
        "expert_groups": r"^n_group$|num_expert_group",
        "experts": r"(^|_)(num|n)_.*experts$|^num_experts|^moe_num_experts|^expert_num",
        "head_width": r"head_dim|d_kv|dim_head|head_size|d_head|rotary_dim|mrope_section|hidden_size_per_head|"
        r"attention_head_width",
        "heads": r"heads?(_per_stage)?$|heads_k$|heads_kv$",
        "depths": r"^depths$|blocks_per_stage|layers_per_stage|num_block_repeats|stage_numb_of_layers|stage_num_blocks",
        "layers": r"(^|_)(num|n)_(hidden_|encoder_|decoder_|text_|vision_)?(layers?|blocks)$|(encoder|decoder)_layers$|"
        r"^depth$|_depth$|^layers$|_num_layers$|^num_.*_layers$|^n_layers?$",
        "width": r"hidden|embed|embd|emb_|d_model|d_ff|d_inner|n_inner|ffn|intermediate|dim$|dims$|dimension|proj|"
        r"channel|rank$|filters|units|width|inner|latent_size|conv_dim|state_size|upsample_groups",
    }.items()
)
_NOT_LAYERS = re.compile(r"num_(feat_extract|kv_shared|upsampl|nextn|adapter|residual|lstm|mtp)")
_LAYER_INDICES = re.compile(r"(indexes|indices|idx|idxs|index|_layers?|layers?_ids?|_blocks|_list)$")


def small_configs(model_type: str) -> Iterator[Any]:
    """Configurations of a type, from the narrowest on; the last has the default widths and few layers.

    Which is the first that can be built, the type's own code says: it may ask for multiples that no name tells.

    Args:
        model_type: A key of ``transformers.CONFIG_MAPPING``.

    Returns:
        ``transformers.PretrainedConfig``s.
    """
    from transformers import CONFIG_MAPPING

    default = CONFIG_MAPPING[model_type]()
    told = default.to_dict()
    seen: list[Any] = []
    # One layer of each kind will do, but where the layers of a kind share something.
    for each, scale in itertools.product((1, 2), _SCALES):
        try:
            values = _consistent(_shrunk(told, scale, each))
            if values in seen:
                continue
            seen.append(values)
            yield type(default).from_dict(copy.deepcopy(values))
        except Exception:  # a configuration says in its own words that sizes do not fit
            continue


def model_class_names() -> dict[str, list[str]]:
    """Model type → names of the classes that transformers' auto classes make for it, the headless one first."""
    from transformers.models.auto import modeling_auto

    names: dict[str, dict[str, None]] = {model_type: {} for model_type in modeling_auto.CONFIG_MAPPING_NAMES}
    mappings = sorted(name for name in vars(modeling_auto) if name.endswith("_MAPPING_NAMES"))
    for mapping in sorted(mappings, key=lambda name: name != "MODEL_MAPPING_NAMES"):
        for model_type, told in getattr(modeling_auto, mapping).items() if mapping != "CONFIG_MAPPING_NAMES" else ():
            names.setdefault(model_type, {}).update(dict.fromkeys([told] if isinstance(told, str) else told))
    return {model_type: list(classes) for model_type, classes in names.items()}


def model_class(model_type: str, class_name: str) -> Any:
    """The class of this name; some stand in the module of their type only."""
    import transformers
    from transformers import CONFIG_MAPPING

    home = CONFIG_MAPPING[model_type].__module__.replace(".configuration_", ".modeling_")
    return getattr(transformers, class_name, None) or getattr(importlib.import_module(home), class_name)


def small_model(model_type: str, class_name: str) -> nn.Module:
    """The narrowest model of a type that can be built and run.

    Args:
        model_type: A key of ``transformers.CONFIG_MAPPING``.
        class_name: One of its :func:`model_class_names`.

    Returns:
        The untrained network: on the meta device, if it can be traced there.

    Raises:
        HypergenError: No configuration of the type can be built; the message says why the last one cannot.
    """
    cls = model_class(model_type, class_name)
    failure: Exception | None = None
    misfitting: list[tuple[Any, Attempt]] = []
    for config in small_configs(model_type):
        tried = attempt(cls, config)  # Sizes that do not fit together are noticed when the model runs.
        if tried.model is not None and tried.failure is None:
            return tried.model
        failure = failure or tried.failure
        misfitting += [(config, tried)] if tried.misfits else []
    for config, tried in misfitting[:2]:
        tried = repaired(cls, config, tried)
        if tried.model is not None and tried.failure is None:
            return tried.model
    for config in small_configs(model_type):
        with suppress(Exception), torch.device("cpu"):  # with values, if nothing less will do
            return cls(config)
    raise HypergenError(f"{class_name} cannot be built: {type(failure).__name__}: {failure}") from failure


def _kind(name: str) -> str:
    return next((kind for kind, pattern in _KINDS if pattern.search(name)), "kept")


def _shrunk(config: Mapping[str, Any], scale: int, each: int) -> dict[str, Any]:
    """The values of a configuration with every width divided by ``scale``; nested ones likewise.

    Args:
        config: The values.
        scale: A power of two.
        each: How many layers of each kind are kept.
    """
    if any(map(_is_table, config.values())):  # tells the widths of every layer in its own way
        scale = 1
    fewer_heads = _head_divisor(config, scale)
    layers = max((v for k, v in config.items() if _is_layers(k, v)), default=0)
    stages = len(config.get("depths") or ())  # of which each may have its own width
    layers = 0 if layers == stages else layers
    kept_layers = _layers_of_each_kind(config, layers, each)
    if "architecture" in config:  # one of timm's, which come in their own sizes
        return dict(config)
    of_timm = "timm" in str((config.get("backbone_config") or {}).get("model_type"))
    small: dict[str, Any] = {}
    for name, value in config.items():
        if _by_layer(value):
            values = {int(i): v for i, v in value.items()}
            small[name] = {
                new: _shrunk(values[old], scale, each) for new, old in enumerate(kept_layers) if old in values
            }
        elif isinstance(value, Mapping) and ("model_type" in value or name.endswith("config")):
            small[name] = _shrunk(value, scale, each)
        elif of_timm and name.startswith(("backbone_channel", "encoder_in_channel")):
            small[name] = value
        elif name in ("out_features", "stage_names") or name.endswith("_per_stack"):
            continue  # follow from the indices, and from the number of layers
        elif name.endswith("hook_ids"):
            small[name] = [min(i, _LAYERS - 1) for i in value]
        elif isinstance(value, (list, tuple)) and layers > 1 and len(value) == layers and name != "depths":
            small[name] = [value[i] for i in kept_layers]
        elif _is_layers(name, value) and value != stages:
            small[name] = len(kept_layers) if value == layers else min(value, _LAYERS)
        elif len(kept_layers) < layers and _LAYER_INDICES.search(name) and _are_indices(value, layers):
            small[name] = _indices(name, value, len(kept_layers))
        elif "feature_layer" in name and isinstance(value, (int, list, tuple)):
            small[name] = _indices(name, value, _LAYERS)  # of another tower
        elif isinstance(value, Mapping):
            small[name] = {k: _value(str(k), v, scale, fewer_heads) for k, v in value.items()}
        else:
            small[name] = _value(name, value, scale, fewer_heads)
    return small


def _consistent(config: dict[str, Any], text_width: int = 0) -> dict[str, Any]:
    """Mend what contradicts itself, in some default configurations even before they are made small."""
    text = next((config[k] for k in ("text_config", "llm_config", "language_config") if config.get(k)), config)
    text_width = text.get("hidden_size") or text_width
    encoder = config.get("encoder_config") or config.get("vision_config") or {}
    seen = encoder.get("hidden_size") or encoder.get("hidden_dim")
    for name, value in config.items():
        if isinstance(value, dict) and "model_type" in value:
            tower = config[name] = _consistent(value, text_width)
            outputs = [key for key in _TOWER_OUTPUTS if type(tower.get(key)) is int]
            if "projection_dim" in tower and "projection_dim" not in config | text:
                outputs.append("projection_dim")
            if value is not text and not outputs and "embed_dim" in tower and "hidden_size" in tower:
                outputs = ["hidden_size"]
            tower.update(dict.fromkeys(outputs if text_width else (), text_width))
            if seen and type(tower.get("encoder_hidden_size")) is int:
                tower["encoder_hidden_size"] = seen
    if text is not config and "hidden_size" in config and "hidden_size" in text:
        config["hidden_size"] = text["hidden_size"]
    if config.get("global_attention_blocks") and config.get("blocks_per_stage"):
        # Not the first of a stage, which makes windows smaller.
        ends = list(itertools.accumulate(config["blocks_per_stage"]))
        config["global_attention_blocks"] = [ends[-2] - 1]
    if type(config.get("num_windows")) is int and type(config.get("patch_size")) is int and "image_size" in config:
        config["image_size"] = config["patch_size"] * config["num_windows"] * 8
    if config.get("merge_index"):  # of the layer before which two streams are merged
        config["merge_index"] = 0
    if "position_id_per_seconds" in config:  # positions are counted from where images start
        config.setdefault("vision_start_token_id", 508)
    width, heads = config.get("hidden_size"), config.get("num_attention_heads")
    if type(width) is type(heads) is int and width % heads and not config.get("head_dim"):
        config["num_attention_heads"] = max(n for n in range(1, heads + 1) if width % n == 0)
    if type(width) is type(heads) is int and "head_dim" in config and config["head_dim"] is None:
        config["head_dim"] = width // config["num_attention_heads"]
    if "num_key_value_heads" in config and config["num_key_value_heads"] is None and type(heads) is int:
        config["num_key_value_heads"] = config["num_attention_heads"]
    kinds: list[str] = list(config.get("layer_types") or ())
    if "sliding_attention" in kinds and "sliding_window" in config:
        config["sliding_window"] = config["sliding_window"] or 8
    if len(set(kinds)) == 1 and kinds[0] in _ATTENTION:  # the caches of hybrids count on attention in some layer
        config["layer_types"] = [*kinds[:-1], _ATTENTION[kinds[0]]]
    if config.get("mask_token_id", 0) is None:  # the embedding compares tokens with both
        config |= {"mask_token_id": 32, "pad_token_id": config.get("pad_token_id") or 1}
    rope = config.get("rope_parameters")
    if isinstance(rope, dict) and "rope_type" in rope and type(width) is type(heads) is int:
        # How many rotations tell time, row and column. What the models take by default fits default heads only.
        size = config.get("head_dim") or width // config["num_attention_heads"]
        half = int(size * (rope.get("partial_rotary_factor") or 1)) // 2
        rope["mrope_section"] = [3 * half // 8, 3 * half // 8, half - 2 * (3 * half // 8)]
    if config.get("rope_parameters") == {} and config.get("layer_types"):
        plain = {"rope_type": "default", "rope_theta": 10000.0}
        config["rope_parameters"] = {kind: dict(plain) for kind in config["layer_types"]}
    _mend_images(config)
    return config


def _mend_images(config: dict[str, Any]) -> None:
    """Make what a projector expects of an image agree with how many patches the image has."""
    images = config.get("vision_config") or {}
    size, patch = images.get("image_size"), images.get("patch_size")
    if not (type(size) is type(patch) is int and size >= patch > 0):
        return
    if size > _MOST_PATCHES * patch:
        size = images["image_size"] = _MOST_PATCHES // 4 * patch
    together = max(
        (
            config[k]
            for k in ("downsample_factor", "scale_factor", "pixel_shuffle_factor")
            if type(config.get(k)) is int
        ),
        default=1,
    )
    side = max(1, size // patch // together) * together
    if together > 1 and size % (patch * together):
        images["image_size"] = side * patch
    if "mm_tokens_per_image" in config:
        config["mm_tokens_per_image"] = (side // 2) ** 2
    if "projector_patch_to_query_dict" in config:
        config["projector_patch_to_query_dict"] = {side**2: 4}


def _value(name: str, value: Any, scale: int, fewer_heads: int) -> Any:
    if value is None:
        return _OPEN.get(name)
    if isinstance(value, (list, tuple)):
        return type(value)(_value(name, item, scale, fewer_heads) for item in value)
    if type(value) is not int or value < 2:
        return value
    kind = _kind(name)
    if name == "num_kv_shared_layers":  # too few are left to share
        return 0
    if kind == "token":
        return value if value < _VOCABULARY // 2 else _VOCABULARY // 2 + value % (_VOCABULARY // 2)
    if kind == "vocabulary":
        return min(value, _VOCABULARY)
    if kind == "experts":
        return min(value, _EXPERTS)
    if kind in ("experts_used", "depths", "expert_groups"):
        return min(value, 2)
    if kind == "groups_used":
        return 1
    if kind == "heads":
        return max(1, value // fewer_heads)
    if kind == "period":
        return 2
    if kind == "offset":
        return 1
    if kind == "head_width":
        return max(2, value // (scale // fewer_heads))
    if scale == 1:
        return value
    # Multiples of 4, which grouped matrix products ask for.
    return max(_NARROWEST, -(-value // (4 * scale)) * 4) if kind == "width" and value > _NARROWEST else value


def _head_divisor(config: Mapping[str, Any], scale: int) -> int:
    """By how much of ``scale`` the number of heads is divided; the size of a head is divided by the rest."""
    heads = [v for k, v in config.items() if _kind(k) == "heads" and type(v) is int and v > 1]
    sizes = [v for k, v in config.items() if _kind(k) == "head_width" and type(v) is int and v > 1]
    width = next(
        (config[k] for k in ("hidden_size", "d_model", "n_embd", "embed_dim") if type(config.get(k)) is int), 0
    )
    if heads and width and not sizes and width % max(heads) == 0:
        sizes = [width // max(heads)]
    for divisor in (d for d in _DIVISORS if d <= scale):
        rest = scale // divisor
        if all(h % divisor == 0 and h > divisor for h in heads) and all(
            rest == 1 or (s % rest == 0 and s // rest % 4 == 0) for s in sizes
        ):
            return divisor
    if scale == 1 or not heads:
        return 1
    raise ValueError(f"{heads} heads of {sizes} cannot be divided by {scale}")


def _is_layers(name: str, value: Any) -> bool:
    return type(value) is int and value > 0 and _kind(name) == "layers" and not _NOT_LAYERS.search(name)


def _by_layer(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(str(key).isdigit() and isinstance(item, Mapping) for key, item in value.items())
    )


def _is_table(value: Any) -> bool:
    rows = value if isinstance(value, (list, tuple)) else ()
    return any(isinstance(row, (list, tuple)) and any(isinstance(item, (list, tuple)) for item in row) for row in rows)


def _layers_of_each_kind(config: Mapping[str, Any], layers: int, each: int) -> list[int]:
    """The first layers of each kind, at least two layers."""
    lists = [v for k, v in config.items() if isinstance(v, (list, tuple)) and len(v) == layers and k != "depths"]
    for by_layer in filter(_by_layer, config.values()):
        values = {int(i): v for i, v in by_layer.items()}
        lists.append([values.get(i) for i in range(layers)])
    kinds: dict[str, list[int]] = {}
    for i in range(layers):
        kinds.setdefault(str([kinds_of[i] for kinds_of in lists]), []).append(i)
    chosen = {i for of_kind in list(kinds.values())[:6] for i in of_kind[:each]}
    # Outputs that are tapped, and kinds of layers that come round.
    needed = [_LAYERS, *(len(v) for k, v in config.items() if k.endswith("out_indices") and v)]
    needed += [len(v) for v in config.values() if isinstance(v, (list, tuple)) and v and type(v[0]) is str]
    for i in range(layers):
        if len(chosen) < max(n for n in needed if n <= 6):
            chosen.add(i)
    return sorted(chosen)


def _are_indices(value: Any, layers: int) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(type(v) is int and 0 <= v <= layers for v in value)


def _indices(name: str, value: Any, layers: int) -> Any:
    if isinstance(value, int):
        return min(value, layers - 1) if value > 0 else max(value, -layers)
    if name.endswith("out_indices"):
        return list(range(layers + 1))[-len(value) :]
    return sorted({max(min(v, layers - 1), -layers) for v in value})
