"""How networks of each idiom family are drawn: one value of every axis, among those that are switched on."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hypergen.architectures.idioms import attention, conv_blocks, conv_nets, layers, mixers, tokens, transformer
from hypergen.architectures.idioms.library import TEMPLATES, VARIANTS

_ACTIVATIONS = ("relu", "gelu", "silu", "leaky_relu", "tanh", "elu", "hardswish", "mish", "selu", "relu6", "gelu_tanh")


@dataclass(frozen=True)
class Draw:
    """What a network is drawn with.

    Args:
        rng: Source of randomness.
        image_size: Height and width of the images.
        enabled: Values that are switched on, by axis; an axis that is missing has its plain value.
        widths: Smallest and largest width.
        depths: Least and greatest depth.
    """

    rng: random.Random
    image_size: int
    enabled: Mapping[str, Sequence[str]]
    widths: tuple[int, int]
    depths: tuple[int, int]

    def pick(self, axis: str, plain: str, often: float = 0.0) -> str:
        """One of the enabled values of an axis; its plain one with a probability of ``often`` where that is enabled."""
        values = self.enabled.get(axis, ())
        if not values:
            return plain
        if plain in values and self.rng.random() < often:
            return plain
        return self.rng.choice(list(values))

    def width(self, multiple: int, least: int = 8, usual: int = 64) -> int:
        """Log-uniform: eight in ten up to ``usual``, few up to the widest."""
        low, high = max(self.widths[0], least), self.widths[1]
        draw = self.rng.random()
        low = min(2 * usual, high) if draw >= 0.97 else low
        most = min(high, usual if draw < 0.82 else 4 * usual if draw < 0.97 else high)
        width = math.exp(self.rng.uniform(math.log(low), math.log(max(low, most))))
        return max(multiple * round(width / multiple), multiple)

    def depth(self, least: int = 1, usual: int = 4) -> int:
        """Uniform: eight in ten up to ``usual``, few up to the deepest."""
        low, high = max(self.depths[0], least), self.depths[1]
        draw = self.rng.random()
        most = usual if draw < 0.8 else 3 * usual if draw < 0.97 else high
        return self.rng.randint(min(low, high), max(low, min(most, high)))

    def patch_size(self) -> int:
        """A divisor of the image's side that leaves 2 to 8 patches along it."""
        sizes = [size for size in range(1, self.image_size) if self.image_size % size == 0]
        usual = [size for size in sizes if 2 <= self.image_size // size <= 4]
        return self.rng.choice(usual if usual and self.rng.random() < 0.85 else sizes[-3:])

    def heads(self, width: int) -> int:
        """A number of heads of at least 8 features each."""
        fitting = [heads for heads in (1, 2, 4, 8, 3) if width % heads == 0 and width // heads >= 8]
        return self.rng.choice(fitting or [1])


def draw_transformer(draw: Draw) -> dict[str, Any]:
    """A :class:`~hypergen.architectures.idioms.transformer.Transformer`."""
    rng = draw.rng
    width = draw.width(8, 16)
    block = draw.pick("block", "own", 0.6)
    activation = rng.choice(("gelu", "gelu", "relu", "silu", "gelu_tanh", "quick_gelu", "squared_relu", "tanh"))
    if block != "own":
        activation = rng.choice(("relu", "gelu"))
    config: dict[str, Any] = {
        "width": width,
        "depth": draw.depth(),
        "heads": draw.heads(width),
        "hidden": width * rng.choice((1, 2, 2, 4)),
        "patch_size": draw.patch_size(),
        "patches": draw.pick("patches", "conv"),
        "positions": draw.pick("positions", "learned", 0.3),
        "pooling": draw.pick("pooling", "mean", 0.1),
        "block": block,
        "place": draw.pick("place", "pre", 0.3),
        "norm": draw.pick("norm", "layer", 0.6),
        "activation_name": activation,
        "head_layers": rng.choice((1, 1, 1, 1, 2, 3)),
        "dropout": rng.choice((0.0, 0.1)),
    }
    if rng.random() < 0.5 and "class_token" in draw.enabled.get("pooling", ()):
        config["pooling"] = "class_token"
    if block == "own":
        config |= {
            "projection": draw.pick("projection", "fused", 0.1),
            "mixing": draw.pick("mixing", "fused_kernel", 0.2),
            "feed_forward_kind": draw.pick("feed_forward", "mlp", 0.4),
            "gains": draw.pick("gains", "none", 0.6),
            "bias": rng.random() < 0.7,
            "causal": "causal" in draw.enabled.get("mask", ())
            and (len(draw.enabled["mask"]) == 1 or rng.random() < 0.1),
        }
        if config["projection"] == "multihead" and config["place"] in ("inner", "query_key"):
            config["place"] = "pre"
        if config["norm"] == "none" and config["gains"] == "none":
            config["place"] = "pre"
    else:
        config |= {"norm": "layer", "batch_first": rng.random() < 0.6}
        if config["place"] != "post":
            config["place"] = rng.choice(("pre", "pre_without_last"))
    return config


def draw_recurrent(draw: Draw) -> dict[str, Any]:
    """A :class:`~hypergen.architectures.idioms.transformer.Recurrent`."""
    rng = draw.rng
    return {
        "width": draw.width(8, 16),
        "depth": min(draw.depth(1, 2), 4),
        "cell": draw.pick("cell", "lstm"),
        "patches": draw.pick("patches", "none", 0.6),
        "patch_size": draw.patch_size(),
        "bidirectional": rng.random() < 0.3,
        "pooling": draw.pick("pooling", "last", 0.4),
        "head_layers": rng.choice((1, 1, 2)),
        "norm": rng.choice(("none", "none", "layer")),
        "batch_first": rng.random() < 0.7,
    }


def draw_perceptron(draw: Draw) -> dict[str, Any]:
    """A :class:`~hypergen.architectures.idioms.transformer.PixelMLP`."""
    rng = draw.rng
    wiring = draw.pick("wiring", "plain", 0.3)
    return {
        "width": draw.width(8, 16, 128),
        "depth": draw.depth() + (1 if wiring in ("residual", "highway") else 0),
        "wiring": wiring,
        "norm": draw.pick("norm", "none", 0.3),
        "activation_name": rng.choice((*_ACTIVATIONS, "sigmoid", "prelu")),
        "dropout": rng.choice((0.0, 0.2)),
    }


def draw_tutorial(draw: Draw) -> dict[str, Any]:
    """A :class:`~hypergen.architectures.idioms.conv_nets.TutorialCNN`."""
    rng = draw.rng
    stages = rng.choice((1, 2, 2, 3, 3, 4))
    first, growth = draw.width(4, 6, 32), rng.choice((1, 1.5, 2, 2))
    # An order of norm and activation needs a norm.
    plain_norm = "batch" if "order" in draw.enabled and "norm" not in draw.enabled else "none"
    norm = draw.pick("norm", plain_norm, 0.4)
    config: dict[str, Any] = {
        "widths": [max(4, 4 * round(first * growth**stage / 4)) for stage in range(stages)],
        "per_stage": rng.choice((1, 1, 2, 2, 3)),
        "kernel_size": rng.choice((3, 3, 3, 5)),
        "padded": rng.random() < 0.65,
        "pooling": draw.pick("pooling", "max", 0.3),
        "norm": norm,
        "order": draw.pick("order", "norm_act", 0.5) if norm != "none" else "norm_act",
        "activation_name": draw.pick("activation", "relu", 0.4),
        "head": draw.pick("head", "flatten", 0.4),
        "head_layers": rng.choice((1, 2, 2, 3)),
        "head_hidden": rng.choice((16, 32, 64, 84, 128, 256)),
        "dropout": draw.pick("dropout", "none", 0.5),
        "pointwise": rng.random() < 0.1,
        "input_norm": rng.random() < 0.05,
    }
    return config


def draw_blocks(draw: Draw) -> dict[str, Any]:
    """A :class:`~hypergen.architectures.idioms.conv_nets.BlockNet`."""
    rng = draw.rng
    block = draw.pick("block", "basic", 0.15)
    depth = draw.depth(1, 5)
    stages = rng.randint(1, min(3, depth))
    first, growth = draw.width(8, 8, 32), rng.choice((1, 1.5, 2, 2))
    each = [depth // stages + (stage < depth % stages) for stage in range(stages)]
    mobile = block in ("inverted", "inverted_fused", "separable", "shuffle", "ghost")
    config: dict[str, Any] = {
        "block": block,
        "widths": [max(8, 8 * round(first * growth**stage / 8)) for stage in range(stages)],
        "depths": each,
        "kernel_size": rng.choice((3, 3, 3, 5)),
        "norm": draw.pick("norm", "batch", 0.5),
        "activation_name": rng.choice(("relu6", "silu", "hardswish", "relu") if mobile else ("relu", *_ACTIVATIONS)),
        "stem": draw.pick("stem", "conv3", 0.2),
        "attention": draw.pick("attention", "none", 0.6),
        "gains": draw.pick("gains", "none", 0.6),
        "shortcut": draw.pick("shortcut", "conv", 0.4),
        "expansion": rng.choice((1, 2, 3, 4, 6)),
        "head": draw.pick("head", "pool", 0.4),
        "head_layers": rng.choice((1, 1, 1, 2)),
        "dropout": rng.choice((0.0, 0.0, 0.2)),
    }
    return config


def draw_token_mixer(draw: Draw) -> dict[str, Any]:
    """A :class:`~hypergen.architectures.idioms.mixers.TokenMixer`."""
    rng = draw.rng
    width = draw.width(8, 16)
    return {
        "width": width,
        "depth": draw.depth(),
        "patch_size": draw.patch_size(),
        "hidden": width * rng.choice((1, 2, 4)),
        "token_hidden": rng.choice((8, 16, 32, 64)),
        "mixing": draw.pick("mixing", "transposed", 0.2),
        "patches": draw.pick("patches", "conv", 0.3),
        "positions": rng.choice(("none", "none", "learned")),
        "pooling": draw.pick("pooling", "mean", 0.6),
        "feed_forward_kind": rng.choice(("mlp", "mlp", "dropout", "geglu", "conv1d")),
        "norm": draw.pick("norm", "layer", 0.6),
        "gains": draw.pick("gains", "none", 0.7),
        "activation_name": rng.choice(("gelu", "gelu", "relu", "silu")),
        "head_layers": rng.choice((1, 1, 1, 2)),
    }


def draw_map_mixer(draw: Draw) -> dict[str, Any]:
    """A :class:`~hypergen.architectures.idioms.mixers.MapMixer`."""
    rng = draw.rng
    wiring = draw.pick("wiring", "metaformer")
    mixing = draw.pick("mixing", "pool")
    return {
        "width": draw.width(8, 16),
        "depth": draw.depth(1, 5),
        "patch_size": rng.choice((1, 2, 2)) if draw.image_size <= 16 else rng.choice((2, 4)),
        "hidden_ratio": rng.choice((1, 2, 4)),
        "wiring": wiring,
        "mixing": "depthwise" if wiring != "metaformer" and mixing in ("identity", "pool") else mixing,
        "kernel_size": rng.choice((3, 3, 5, 7)),
        "norm": draw.pick("norm", "batch" if wiring == "convmixer" else "layer", 0.5),
        "gains": draw.pick("gains", "none", 0.4),
        "activation_name": rng.choice(("gelu", "gelu", "relu", "silu")),
        "linear": rng.random() < 0.4,
        "two_stages": rng.random() < 0.4,
        "pooling_first": rng.random() < 0.4,
    }


def draw_library(draw: Draw) -> dict[str, Any]:
    """A network of a library's constructor."""
    template = draw.pick("template", next(iter(TEMPLATES)))
    convolutional = not template.endswith(("vit", "eva", "beit", "cait", "mixer", "swin", "pyramid"))
    return {
        "template": template,
        "width": draw.width(16 if convolutional else 32, 16, 32 if convolutional else 64),
        "depth": draw.depth(2),
        "variant": draw.rng.randrange(VARIANTS),
    }


# The axes of each family: what each network has one value of, and how the family is drawn.
AXES: dict[str, dict[str, tuple[str, ...]]] = {
    "transformer": {
        "patches": tokens.PATCHES,
        "positions": tokens.POSITIONS,
        "pooling": tokens.POOLING,
        "block": transformer.BLOCKS,
        "projection": attention.PROJECTIONS,
        "mixing": attention.MIXING,
        "feed_forward": attention.FEED_FORWARDS,
        "place": transformer.NORM_PLACES,
        "norm": layers.TOKEN_NORMS,
        "gains": layers.GAINS,
        "mask": ("none", "causal"),
    },
    "recurrent": {
        "cell": ("lstm", "gru", "rnn", "rnn_relu"),
        "patches": ("none", "conv", "reshape", "columns"),
        "pooling": ("last", "hidden", "mean", "max", "attention", "flatten"),
    },
    "perceptron": {
        "wiring": ("plain", "residual", "dense", "gated", "highway"),
        "norm": ("none", "batch", "batch_after", "layer", "input"),
    },
    "tutorial_cnn": {
        "pooling": conv_nets.POOLINGS,
        "norm": layers.MAP_NORMS,
        "order": conv_nets.ORDERS,
        "activation": _ACTIVATIONS,
        "head": conv_nets.HEADS,
        "dropout": ("none", "head", "maps", "both"),
    },
    "block_net": {
        "block": conv_blocks.BLOCKS,
        "norm": layers.MAP_NORMS,
        "stem": conv_nets.STEMS,
        "attention": layers.CHANNEL_ATTENTION,
        "gains": layers.GAINS,
        "shortcut": (*conv_blocks.SHORTCUTS, "none"),
        "head": conv_nets.HEADS,
    },
    "token_mixer": {
        "mixing": mixers.TOKEN_MIXERS,
        "patches": tokens.PATCHES,
        "pooling": ("mean", "max", "attention", "flatten"),
        "norm": layers.TOKEN_NORMS,
        "gains": layers.GAINS,
    },
    "map_mixer": {
        "wiring": ("metaformer", "convmixer", "convnext"),
        "mixing": mixers.MAP_MIXERS,
        "norm": layers.MAP_NORMS[:-2],
        "gains": layers.GAINS,
    },
    "library": {"template": tuple(TEMPLATES)},
}
DRAWS: dict[str, Callable[[Draw], dict[str, Any]]] = {
    "transformer": draw_transformer,
    "recurrent": draw_recurrent,
    "perceptron": draw_perceptron,
    "tutorial_cnn": draw_tutorial,
    "block_net": draw_blocks,
    "token_mixer": draw_token_mixer,
    "map_mixer": draw_map_mixer,
    "library": draw_library,
}
# Transformers come in the most spellings, and are read worst.
WEIGHTS = {
    "transformer": 0.3,
    "recurrent": 0.06,
    "perceptron": 0.04,
    "tutorial_cnn": 0.14,
    "block_net": 0.16,
    "token_mixer": 0.06,
    "map_mixer": 0.08,
    "library": 0.16,
}
# Library networks take their names from here; kept beside the axes so that a name is made in one place.
IDIOMS = tuple(f"{family}/{axis}/{value}" for family, axes in AXES.items() for axis in axes for value in axes[axis])
