"""The space of image classifiers: a distribution over networks of many families."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from hypergen.architectures.architecture import JSON, Architecture
from hypergen.architectures.cost import network_cost
from hypergen.architectures.draws import FAMILY_NORMS, Ranges, draw_config
from hypergen.architectures.families import image_classifier_families
from hypergen.architectures.families.layers import ACTIVATIONS

HELD_OUT_FAMILY = "inverted_bottleneck"
TRAINING_FAMILIES = tuple(family for family in image_classifier_families() if family != HELD_OUT_FAMILY)
_ATTEMPTS = 1000


class ImageClassifierSpace:
    """A distribution of image classifiers, sampled by seed.

    A family is drawn first, then its options until the network is within the budget: the families stay equally
    frequent, whatever the budget.

    Args:
        image_size: Height and width of the images.
        channels: Channels of the images.
        num_classes: Number of logits.
        max_parameters: The largest network.
        min_parameters: The smallest network.
        max_multiply_adds: Per image; None for 10,000 per pixel, which keeps a training step cheap.
        families: Families to draw from; None for all that training shows (all but the inverted bottleneck).
        norms: Normalisations: some of ``"batch"``, ``"layer"``, ``"group"``, ``"none"``. A family that supports none of
            them is an error.
        activations: Names in :data:`~hypergen.architectures.families.layers.ACTIVATIONS`; None for all. Softplus is
            used in MLPs and behind batch norm only, where networks with it learn.
        depth: Fewest and most blocks (hidden layers of an MLP).
        conv_width: Narrowest and widest last stage of a convolutional network.
        dense_growth: Least and greatest growth of a dense network.
        mlp_width: Narrowest and widest first hidden layer.
        token_width: Smallest and largest token of ViT and mixer.

    Raises:
        ValueError: An argument is out of range; the message says which values are possible.
    """

    def __init__(
        self,
        image_size: int = 8,
        channels: int = 1,
        num_classes: int = 10,
        max_parameters: int = 100_000,
        min_parameters: int = 1_000,
        max_multiply_adds: int | None = None,
        families: Sequence[str] | None = None,
        norms: Sequence[str] = ("batch", "layer", "group"),
        activations: Sequence[str] | None = None,
        depth: Sequence[int] = (1, 6),
        conv_width: Sequence[int] = (16, 48),
        dense_growth: Sequence[int] = (6, 16),
        mlp_width: Sequence[int] = (16, 128),
        token_width: Sequence[int] = (24, 64),
    ) -> None:
        self.config: dict[str, JSON] = {
            "image_size": image_size,
            "channels": channels,
            "num_classes": num_classes,
            "max_parameters": max_parameters,
            "min_parameters": min_parameters,
            "max_multiply_adds": 10_000 * image_size**2 if max_multiply_adds is None else max_multiply_adds,
            "families": list(TRAINING_FAMILIES if families is None else families),
            "norms": list(norms),
            "activations": list(ACTIVATIONS if activations is None else activations),
            "depth": list(depth),
            "conv_width": list(conv_width),
            "dense_growth": list(dense_growth),
            "mlp_width": list(mlp_width),
            "token_width": list(token_width),
        }
        self.image_size = image_size
        self.channels = channels
        self.num_classes = num_classes
        _check(self.config)

    def __repr__(self) -> str:  # noqa: D105
        return f"ImageClassifierSpace({', '.join(f'{key}={value!r}' for key, value in self.config.items())})"

    def to_json(self) -> dict[str, JSON]:
        """The keyword arguments that make an equal space."""
        return dict(self.config)

    def sample(self, seed: int) -> Architecture:
        """Draw an architecture.

        Args:
            seed: The same seed gives the same architecture, on every machine and whatever the global random state.

        Returns:
            An architecture within the budget.

        Raises:
            ValueError: No network of the drawn family meets the budget.
        """
        # Seeding by text goes through SHA-512: neighbouring seeds give unrelated draws.
        rng = random.Random(f"hypergen.ImageClassifierSpace:{seed}")
        config: dict[str, Any] = self.config
        family = rng.choice(config["families"])
        ranges = Ranges(**{name: tuple(config[name]) for name in Ranges.__dataclass_fields__})
        shape = {"image_size": self.image_size, "channels": self.channels, "num_classes": self.num_classes}
        for _ in range(_ATTEMPTS):
            architecture = Architecture(family, {**shape, **draw_config(rng, family, self.image_size, ranges)})
            cost = network_cost(architecture)
            if (
                config["min_parameters"] <= cost.parameters <= config["max_parameters"]
                and cost.multiply_adds <= config["max_multiply_adds"]
            ):
                return architecture
        raise ValueError(
            f"no {family!r} network met the budget of {config['min_parameters']:,} to {config['max_parameters']:,} "
            f"parameters and {config['max_multiply_adds']:,} multiply-adds in {_ATTEMPTS} draws; widen the budget, "
            "narrow the widths and depths, or leave the family out"
        )


def _check(config: Mapping[str, Any]) -> None:
    for name in ("image_size", "channels", "num_classes", "max_parameters", "max_multiply_adds"):
        if config[name] < 1:
            raise ValueError(f"{name} must be positive; got {config[name]}")
    if config["image_size"] < 4:
        raise ValueError(f"image_size must be at least 4 pixels; got {config['image_size']}")
    if config["min_parameters"] > config["max_parameters"]:
        raise ValueError(
            f"min_parameters {config['min_parameters']} is greater than max_parameters {config['max_parameters']}"
        )
    known = {
        "families": image_classifier_families(),
        "norms": ["batch", "layer", "group", "none"],
        "activations": list(ACTIVATIONS),
    }
    for name, possible in known.items():
        unknown = [value for value in config[name] if value not in possible]
        if unknown or not config[name]:
            raise ValueError(f"{name} must be one or more of {possible}; got {config[name]}")
    for family in config["families"]:
        if not set(FAMILY_NORMS.get(family, known["norms"])) & set(config["norms"]):
            raise ValueError(
                f"{family!r} networks have a norm of {list(FAMILY_NORMS[family])}, but norms is {config['norms']}; "
                "add one of them, or leave the family out of families"
            )
    for name in ("depth", "conv_width", "dense_growth", "mlp_width", "token_width"):
        if len(config[name]) != 2 or not 1 <= config[name][0] <= config[name][1]:
            raise ValueError(f"{name} must be [least, greatest], both positive; got {config[name]}")
