"""How the options of each family are drawn. Options that change nothing are left out, so that names stay unique."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

RESIDUAL_FAMILIES = ("resnet", "bottleneck", "depthwise", "inverted_bottleneck", "grouped", "dilated")
FAMILY_NORMS = {
    "mlp": ("batch", "layer", "none"),
    "mixer": ("layer", "none"),
    "vit": ("layer", "none"),
}
_MOST_STAGES = 4


@dataclass(frozen=True)
class Ranges:
    """What options are drawn from; pairs are the least and the greatest value."""

    norms: Sequence[str]
    activations: Sequence[str]
    depth: tuple[int, int]
    conv_width: tuple[int, int]
    dense_growth: tuple[int, int]
    mlp_width: tuple[int, int]
    token_width: tuple[int, int]


def draw_config(rng: random.Random, family: str, image_size: int, ranges: Ranges) -> dict[str, Any]:
    """Draw the options of a network of a family, other than the shape of its input and output."""
    norms = [norm for norm in ranges.norms if norm in FAMILY_NORMS.get(family, ranges.norms)]
    # Batch norm is what most networks in use have.
    norm = rng.choices(norms, [2 if norm == "batch" else 1 for norm in norms])[0]
    # Elsewhere softplus makes all channels alike: such networks hardly train.
    unsuitable = {"softplus"} if family != "mlp" and norm != "batch" else set()
    activations = [name for name in ranges.activations if name not in unsuitable] or list(ranges.activations)
    common: dict[str, Any] = {"norm": norm, "activation": rng.choice(activations)}
    if family == "mlp":
        return {**common, **_draw_mlp(rng, ranges)}
    if family in ("vit", "mixer"):
        return {**common, **_draw_tokens(rng, family, image_size, ranges)}
    # A network without norms keeps its biases, as a user would write it.
    common["bias"] = True if norm == "none" else rng.random() < 0.4
    if norm == "group":
        common["norm_groups"] = rng.choice([2, 4, 8])
    return {**common, **_draw_conv_net(rng, family, image_size, ranges)}


def _draw_width(rng: random.Random, bounds: tuple[int, int], multiple: int) -> int:
    """Log-uniform between bounds, rounded to a multiple within them where there is one."""
    low, high = bounds
    width = math.exp(rng.uniform(math.log(low), math.log(high)))
    rounded = multiple * round(width / multiple)
    least, most = multiple * math.ceil(low / multiple), multiple * (high // multiple)
    return min(max(rounded, least), most) if least <= most else round(width)


def _draw_mlp(rng: random.Random, ranges: Ranges) -> dict[str, Any]:
    depth = rng.randint(*ranges.depth)
    if rng.random() < 0.4:
        return {"widths": [_draw_width(rng, ranges.mlp_width, 8) for _ in range(depth)]}
    first = _draw_width(rng, ranges.mlp_width, 8)
    shrink = rng.choice([1.0, 0.75, 0.5])
    return {"widths": [min(first, max(16, 8 * round(first * shrink**layer / 8))) for layer in range(depth)]}


def _draw_tokens(rng: random.Random, family: str, image_size: int, ranges: Ranges) -> dict[str, Any]:
    width = _draw_width(rng, ranges.token_width, 8)
    # 4 to 16 patches, up to 64 of larger images; ones that cover the image where there are such.
    most = 8 if image_size >= 16 else 4
    possible = [patch for patch in range(1, image_size // 2 + 1) if image_size // patch <= most]
    patch_sizes = [patch for patch in possible if image_size % patch == 0] or possible
    config: dict[str, Any] = {
        "width": width,
        # One block mixes the tokens once, which is too little for a class token to see the image.
        "depth": rng.randint(min(max(2, ranges.depth[0]), ranges.depth[1]), ranges.depth[1]),
        "patch_size": rng.choice(patch_sizes),
        "mlp_ratio": rng.choice([2, 3, 4]),
    }
    if family == "mixer":
        config["token_hidden"] = rng.choice([8, 16, 32, 64])
        return config
    config["heads"] = rng.choice([heads for heads in (1, 2, 4, 8) if width % heads == 0 and width // heads >= 8] or [1])
    config["pooling"] = rng.choice(["class_token", "mean"])
    config["qkv_bias"] = rng.random() < 0.7
    config["layer_scale"] = rng.choice([None, None, 0.1])
    return config


def _draw_conv_net(rng: random.Random, family: str, image_size: int, ranges: Ranges) -> dict[str, Any]:
    depth = rng.randint(*ranges.depth)
    stem = rng.choice(["conv", "strided", "patch"])
    size = image_size if stem == "conv" else image_size // (4 if stem == "patch" and image_size >= 32 else 2)
    # Never below 2x2; dilated convolutions would see nothing but padding below 4x4.
    smallest = 4 if family == "dilated" else 2
    most_stages = min(_MOST_STAGES, depth, 1 + int(math.log2(max(size // smallest, 1))))
    stages = rng.randint(min(2, most_stages) if size > 8 else 1, most_stages)
    config: dict[str, Any] = {
        "depths": _split(rng, depth, stages),
        "stem": stem,
        "kernel_size": 3 if family == "dilated" or rng.random() < 0.75 else 5,
        "head": rng.choice(["pool", "pool", "flatten"]),
    }
    if stages > 1:
        config["downsample"] = rng.choice(["max", "average", "conv"])
    if rng.random() < 0.2:
        config["head_hidden"] = rng.choice([16, 32, 64])
    if family == "dense":
        config["growth"] = _draw_width(rng, ranges.dense_growth, 2)
        return config
    last = _draw_width(rng, ranges.conv_width, 8)
    growth = rng.choice([1.0, 1.5, 2.0])
    config["widths"] = [min(last, max(8, 8 * round(last / growth ** (stages - 1 - i) / 8))) for i in range(stages)]
    if family == "resnet" and rng.random() < 0.3:
        config["pre_activation"] = True
    if family in ("depthwise", "dilated") and rng.random() < 0.4:
        config["residual"] = False
    elif family in RESIDUAL_FAMILIES and rng.random() < 0.3:
        config["squeeze_excitation"] = True
    if family == "bottleneck":
        config["reduction"] = rng.choice([2, 4])
    if family == "grouped":
        config["reduction"] = rng.choice([1, 2])
        config["groups"] = rng.choice([2, 4])
    if family == "inverted_bottleneck":
        config["expansion"] = rng.choice([2, 3, 4])
    if family == "dilated":
        config["dilation"] = 2 if image_size < 16 else rng.choice([2, 3])
    return config


def _split(rng: random.Random, total: int, parts: int) -> list[int]:
    """Split a number into positive parts, uniformly."""
    cuts = sorted(rng.sample(range(1, total), parts - 1))
    return [right - left for left, right in zip([0, *cuts], [*cuts, total], strict=True)]
