"""An architecture: a family and the arguments that determine one network of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from hypergen.architectures.families import build_network, known_families

JSON: TypeAlias = None | bool | int | float | str | list[Any] | dict[str, Any]


@dataclass(frozen=True)
class Architecture:
    """A network that has not been built yet, small enough to send between processes and to keep in a file.

    Two architectures are equal when their families and arguments are.

    Args:
        family: One of :func:`hypergen.architectures.known_families`.
        config: Flat, JSON-able keyword arguments of the family's network.

    Attributes:
        name: ``{family}-{8 hexadecimal digits}``, a hash of the content: the same on every machine.

    Raises:
        ValueError: The family is unknown.
        TypeError: An argument is not JSON-able.
    """

    family: str
    config: Mapping[str, JSON]
    name: str = field(init=False, compare=False)

    def __post_init__(self) -> None:  # noqa: D105
        if self.family not in known_families():
            raise ValueError(f"unknown architecture family {self.family!r}; expected one of {known_families()}")
        # Through JSON and back: tuples become lists, so an architecture equals the one that is read from a file.
        text = json.dumps(dict(self.config), sort_keys=True)
        digest = hashlib.sha256(f"{self.family}:{text}".encode()).hexdigest()
        object.__setattr__(self, "config", json.loads(text))
        object.__setattr__(self, "name", f"{self.family}-{digest[:8]}")

    def __hash__(self) -> int:  # noqa: D105
        return hash(self.name)

    @property
    def width(self) -> int:
        """The widest layer's nominal width: channels, hidden units, token size or (dense) growth."""
        config: Mapping[str, Any] = self.config
        if "widths" in config:
            return max(config["widths"])
        return config["growth"] if "growth" in config else config["width"]

    @property
    def depth(self) -> int:
        """The number of blocks (convolutional nets, ViT, mixer) or of hidden layers (MLP)."""
        config: Mapping[str, Any] = self.config
        if "depths" in config:
            return sum(config["depths"])
        return config["depth"] if "depth" in config else len(config["widths"])

    def build(self) -> nn.Module:
        """Build the network at its own default initialisation; on the meta device under ``torch.device("meta")``.

        Returns:
            A module that maps images [batch, channels, height, width] to logits [batch, num_classes], or tokens
            [batch, length] to logits of the next ones [batch, length, vocabulary].
        """
        return build_network(self.family, **self.config)

    def example_inputs(self) -> Tensor:
        """A batch of one as the network takes it, on the meta device."""
        config: Mapping[str, Any] = self.config
        if "context" in config:
            return torch.empty(1, config["context"], dtype=torch.int64, device="meta")
        return torch.empty(1, config["channels"], config["image_size"], config["image_size"], device="meta")

    def to_json(self) -> dict[str, JSON]:
        """The architecture as plain JSON."""
        return {"name": self.name, "family": self.family, "config": dict(self.config)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Architecture:
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: A key is missing, or the content does not have the name that it is stored under.
        """
        missing = {"family", "config"} - set(data)
        if missing:
            raise ValueError(f"an architecture needs the keys 'family' and 'config'; missing: {sorted(missing)}")
        architecture = cls(data["family"], data["config"])
        if data.get("name", architecture.name) != architecture.name:
            raise ValueError(
                f"architecture {data['name']!r} was changed by hand: its content has the name {architecture.name!r}; "
                "remove its name to keep the change"
            )
        return architecture
