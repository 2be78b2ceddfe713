"""The space of networks that people write, and mixtures of spaces."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from hypergen.architectures.architecture import JSON, Architecture
from hypergen.architectures.cost import network_cost
from hypergen.architectures.idioms.draws import AXES, DRAWS, IDIOMS, WEIGHTS, Draw
from hypergen.architectures.image_classifiers import ImageClassifierSpace
from hypergen.errors import UnknownNameError

_ATTEMPTS = 1000


class IdiomSpace:
    """A distribution of image classifiers over the idioms of public libraries and tutorials, sampled by seed.

    A family is drawn first, then a value of each of its axes among the idioms that are switched on, until the network
    is within the budget. Wide and deep networks are rare: eight in ten have common widths and depths.

    Args:
        image_size: Height and width of the images.
        channels: Channels of the images.
        num_classes: Number of logits.
        idioms: Names in :data:`~hypergen.architectures.idioms.draws.IDIOMS`, ``"family/axis/value"``, or their
            beginnings; None for all. Families of which none is named are not drawn; an axis of which none is named
            keeps its plain value.
        max_parameters: The largest network.
        min_parameters: The smallest network.
        max_multiply_adds: Per image; None for 30,000 per pixel.
        widths: Smallest and largest first layer or token.
        depths: Least and greatest number of blocks.

    Raises:
        UnknownNameError: An idiom is unknown.
        ValueError: Another argument is out of range.
    """

    def __init__(
        self,
        image_size: int = 8,
        channels: int = 1,
        num_classes: int = 10,
        idioms: Sequence[str] | None = None,
        max_parameters: int = 1_500_000,
        min_parameters: int = 500,
        max_multiply_adds: int | None = None,
        widths: Sequence[int] = (8, 1024),
        depths: Sequence[int] = (1, 50),
    ) -> None:
        self.config: dict[str, JSON] = {
            "image_size": image_size,
            "channels": channels,
            "num_classes": num_classes,
            "idioms": None if idioms is None else list(idioms),
            "max_parameters": max_parameters,
            "min_parameters": min_parameters,
            "max_multiply_adds": 30_000 * image_size**2 if max_multiply_adds is None else max_multiply_adds,
            "widths": list(widths),
            "depths": list(depths),
        }
        if image_size < 4 or image_size % 4:
            raise ValueError(f"image_size must be a multiple of 4, so that patches cover the image; got {image_size}")
        for name in ("widths", "depths"):
            bounds: Any = self.config[name]
            if len(bounds) != 2 or not 1 <= bounds[0] <= bounds[1]:
                raise ValueError(f"{name} must be [least, greatest], both positive; got {bounds}")
        self._enabled = _enabled(idioms)

    def __repr__(self) -> str:  # noqa: D105
        return f"IdiomSpace({', '.join(f'{key}={value!r}' for key, value in self.config.items())})"

    def to_json(self) -> dict[str, JSON]:
        """The keyword arguments that make an equal space."""
        return dict(self.config)

    def sample(self, seed: int) -> Architecture:
        """Draw an architecture.

        Args:
            seed: The same seed gives the same architecture, on every machine and whatever the global random state.

        Raises:
            ValueError: No network of the drawn family meets the budget.
        """
        rng = random.Random(f"hypergen.IdiomSpace:{seed}")
        config: dict[str, Any] = self.config
        families = list(self._enabled)
        family = rng.choices(families, [WEIGHTS[name] for name in families])[0]
        shape = {name: config[name] for name in ("image_size", "channels", "num_classes")}
        draw = Draw(rng, config["image_size"], self._enabled[family], tuple(config["widths"]), tuple(config["depths"]))
        for _ in range(_ATTEMPTS):
            architecture = Architecture(family, {**shape, **DRAWS[family](draw)})
            try:
                cost = network_cost(architecture)
            except ValueError:  # a norm is left with one value, which it can't normalise
                continue
            within = config["min_parameters"] <= cost.parameters <= config["max_parameters"]
            if within and cost.multiply_adds <= config["max_multiply_adds"]:
                return architecture
        raise ValueError(
            f"no {family!r} network met the budget of {config['min_parameters']:,} to {config['max_parameters']:,} "
            f"parameters and {config['max_multiply_adds']:,} multiply-adds in {_ATTEMPTS} draws; widen the budget, "
            "narrow widths and depths, or leave its idioms out"
        )


class MixedSpace:
    """A mixture of spaces: each seed draws from one of them.

    Args:
        spaces: The spaces by name, or the arguments of an :class:`ImageClassifierSpace` or, with the key ``idioms``,
            of an :class:`IdiomSpace`, other than the three that follow.
        weights: How often each is drawn, in any unit.
        image_size: Height and width of the images; spaces may have another.
        channels: Channels of the images; spaces may have another number.
        num_classes: Number of logits.

    Raises:
        ValueError: Names differ, a weight is negative or all are 0, or the spaces differ in their number of logits.
    """

    def __init__(
        self,
        spaces: Mapping[str, IdiomSpace | ImageClassifierSpace | Mapping[str, Any]],
        weights: Mapping[str, float],
        image_size: int = 8,
        channels: int = 1,
        num_classes: int = 10,
    ) -> None:
        if not spaces or set(spaces) != set(weights):
            raise ValueError(f"spaces and weights need the same names; got {sorted(spaces)} and {sorted(weights)}")
        if min(weights.values()) < 0 or not sum(weights.values()):
            raise ValueError(f"weights must be positive or 0, and one positive; got {dict(weights)}")
        self.shape: dict[str, JSON] = {"image_size": image_size, "channels": channels, "num_classes": num_classes}
        self.spaces = {name: _space(space, self.shape) for name, space in spaces.items()}
        self.weights = dict(weights)
        for name, space in self.spaces.items():
            if (own := space.to_json()["num_classes"]) != num_classes:
                raise ValueError(f"all spaces of a mixture need its {num_classes} logits; {name!r} has {own}")

    def __repr__(self) -> str:  # noqa: D105
        return f"MixedSpace({self.spaces!r}, weights={self.weights!r})"

    def to_json(self) -> dict[str, JSON]:
        """The keyword arguments that make an equal space."""
        spaces: dict[str, JSON] = {name: space.to_json() for name, space in self.spaces.items()}
        return {"spaces": spaces, "weights": dict(self.weights), **self.shape}

    def sample(self, seed: int) -> Architecture:
        """Draw an architecture; arguments and errors as in :meth:`IdiomSpace.sample`."""
        names = list(self.spaces)
        name = random.Random(f"hypergen.MixedSpace:{seed}").choices(names, [self.weights[name] for name in names])[0]
        return self.spaces[name].sample(seed)


def _space(
    space: IdiomSpace | ImageClassifierSpace | Mapping[str, Any], shape: Mapping[str, JSON]
) -> IdiomSpace | ImageClassifierSpace:
    if not isinstance(space, Mapping):
        return space
    arguments: dict[str, Any] = {**shape, **space}
    return IdiomSpace(**arguments) if "idioms" in space else ImageClassifierSpace(**arguments)


def _enabled(idioms: Sequence[str] | None) -> dict[str, dict[str, list[str]]]:
    """Values that are switched on, by family and axis."""
    chosen = IDIOMS if idioms is None else []
    for name in idioms or ():
        matching = [idiom for idiom in IDIOMS if idiom == name or idiom.startswith(f"{name}/")]
        if not matching:
            raise UnknownNameError("idiom", name, IDIOMS)
        chosen = [*chosen, *matching]
    enabled: dict[str, dict[str, list[str]]] = {}
    for idiom in dict.fromkeys(chosen):
        family, axis, value = idiom.split("/")
        enabled.setdefault(family, {}).setdefault(axis, []).append(value)
    if not enabled:
        raise ValueError(f"idioms is empty; name some of {list(AXES)}, or pass None for all")
    return enabled
