"""The list of held-out networks, ``datasets/held_out_libraries.json``, and how each is built for small grey images."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from hypergen.errors import HypergenError

LIST = Path(__file__).parents[2] / "datasets" / "held_out_libraries.json"


@dataclass(frozen=True)
class HeldOutNetwork:
    """One network of a library.

    Args:
        name: Unique in the list.
        source: The package, or the tutorial that it is written from.
        kind: ``"cnn"``, ``"tokens"``, ``"mixer"``, ``"recurrent"`` or ``"perceptron"``.
        constructor: ``"module:name"``.
        arguments: Arguments of the constructor, or of ``config``.
        config: ``"module:name"`` of a configuration class that the constructor takes.
        resize: Side that images are resized to; None for their own.
        repeat_channels: Channels that grey images are repeated to; None for one.
        global_pool: Whether the last pooling, of a fixed size, is replaced by one over the whole map.
        features: Whether the network is an encoder, whose last map is pooled and read by a linear layer.
    """

    name: str
    source: str
    kind: str
    constructor: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    config: str | None = None
    resize: int | None = None
    repeat_channels: int | None = None
    global_pool: bool = False
    features: int | None = None

    def build(self) -> nn.Module:
        """Build the network, which maps images ``[batch, 1, 8, 8]`` to logits ``[batch, 10]``.

        Raises:
            HypergenError: The package is not installed.
        """
        make = _imported(self.constructor)
        arguments = _without_json(self.arguments)
        network = make(_imported(self.config)(**arguments)) if self.config else make(**arguments)
        if self.global_pool:
            _pool_globally(network)
        if self.features is not None:
            network = _Encoder(network, self.features)
        plain = self.resize is None and self.repeat_channels is None and self.config is None
        return network if plain else Adapted(network, self.resize, self.repeat_channels)


class Adapted(nn.Module):
    """A network that is fed grey images of 8×8 pixels as a user would: resized, repeated, its logits taken out.

    Args:
        network: The network.
        resize: Side that images are resized to; None for their own.
        repeat_channels: Channels that grey images are repeated to; None for one.
    """

    def __init__(self, network: nn.Module, resize: int | None, repeat_channels: int | None) -> None:
        super().__init__()
        self.network, self.resize, self.repeats = network, resize, repeat_channels

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[batch, 1, 8, 8]`` to logits ``[batch, 10]``."""
        if self.resize is not None:
            images = F.interpolate(images, size=(self.resize, self.resize), mode="bilinear", align_corners=False)
        output = self.network(images if self.repeats is None else images.repeat(1, self.repeats, 1, 1))
        return output if isinstance(output, Tensor) else output.logits


class _Encoder(nn.Module):
    """An encoder of several maps with a linear layer on the last one."""

    def __init__(self, encoder: nn.Module, channels: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(channels, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.encoder(images)[-1].mean((2, 3)))


def load_list(path: Path = LIST) -> list[HeldOutNetwork]:
    """Read the list.

    Raises:
        HypergenError: The file is not such a list, or names repeat.
    """
    try:
        networks = [HeldOutNetwork(**entry) for entry in json.loads(path.read_text())["networks"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HypergenError(f"{path} is no list of held-out networks: {type(error).__name__}: {error}") from error
    names = [network.name for network in networks]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise HypergenError(f"{path} names {repeated} more than once; names must be unique")
    return networks


def installed_versions(networks: Sequence[Any]) -> dict[str, str]:
    """The version of every package among the sources that is installed."""
    versions = {}
    for source in sorted({network.source for network in networks}):
        try:
            versions[source] = importlib.metadata.version(source)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _imported(name: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise HypergenError(f"{name!r} is not installed ({error}); install hypergen-weights[held-out]") from error


def _without_json(value: Any) -> Any:
    """Lists become tuples, as many constructors need them, and ``{"$import": name}`` what it names."""
    if isinstance(value, Mapping):
        if set(value) == {"$import"}:
            return _imported(value["$import"])
        if set(value) == {"$call", "arguments"}:
            return _imported(value["$call"])(**_without_json(value["arguments"]))
        return {key: _without_json(one) for key, one in value.items()}
    return tuple(_without_json(one) for one in value) if isinstance(value, list) else value


def _pool_globally(network: nn.Module) -> None:
    pools = [name for name, module in network.named_modules() if isinstance(module, nn.AvgPool2d)]
    parent, _, last = pools[-1].rpartition(".")
    setattr(network.get_submodule(parent), last, nn.AdaptiveAvgPool2d(1))
