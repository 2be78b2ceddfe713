"""The networks that people write: families of many spellings, each of whose idioms has a name."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from hypergen.architectures.idioms.conv_nets import BlockNet, TutorialCNN
from hypergen.architectures.idioms.library import library_network
from hypergen.architectures.idioms.mixers import MapMixer, TokenMixer
from hypergen.architectures.idioms.transformer import PixelMLP, Recurrent, Transformer

IDIOM_FAMILIES: dict[str, Callable[..., nn.Module]] = {
    "transformer": Transformer,
    "recurrent": Recurrent,
    "perceptron": PixelMLP,
    "tutorial_cnn": TutorialCNN,
    "block_net": BlockNet,
    "token_mixer": TokenMixer,
    "map_mixer": MapMixer,
    "library": library_network,
}

__all__ = ["IDIOM_FAMILIES"]
