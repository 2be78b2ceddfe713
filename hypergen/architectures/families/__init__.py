"""Families of networks by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from hypergen.architectures.families.conv_nets import ConvNet
from hypergen.architectures.families.dense_net import DenseNet
from hypergen.architectures.families.gpt import GPT
from hypergen.architectures.families.mlp import MLP
from hypergen.architectures.families.token_nets import Mixer, VisionTransformer
from hypergen.architectures.idioms import IDIOM_FAMILIES

_IMAGE_CLASSIFIERS: dict[str, Callable[..., nn.Module]] = {
    "mlp": MLP,
    "cnn": partial(ConvNet, block="plain"),
    "resnet": partial(ConvNet, block="basic"),
    "bottleneck": partial(ConvNet, block="bottleneck"),
    "depthwise": partial(ConvNet, block="depthwise"),
    "inverted_bottleneck": partial(ConvNet, block="inverted_bottleneck"),
    "grouped": partial(ConvNet, block="grouped"),
    "dilated": partial(ConvNet, block="dilated"),
    "dense": DenseNet,
    "mixer": Mixer,
    "vit": VisionTransformer,
}
_FAMILIES: dict[str, Callable[..., nn.Module]] = {**_IMAGE_CLASSIFIERS, **IDIOM_FAMILIES, "gpt": GPT}


def known_families() -> list[str]:
    """The names of all families."""
    return list(_FAMILIES)


def image_classifier_families() -> list[str]:
    """The names of the families that map images to logits."""
    return list(_IMAGE_CLASSIFIERS)


def build_network(family: str, **config: Any) -> nn.Module:
    """Build a network of a family from its keyword arguments."""
    return _FAMILIES[family](**config)
