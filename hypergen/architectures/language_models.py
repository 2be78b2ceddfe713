"""The space of language models: small GPTs with the options of their successors, in the manner of GPTs-1K."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from hypergen.architectures.architecture import JSON, Architecture
from hypergen.architectures.cost import network_cost
from hypergen.architectures.families.gpt import POSITIONS
from hypergen.architectures.families.layers import ACTIVATIONS

LANGUAGE_MODEL_SPLITS: dict[str, tuple[int, dict[str, Any]]] = {
    # The seed of the first architecture, and what differs from training, whose seeds count from 0.
    "test": (2_000_000_000, {}),
    "wide": (3_000_000_000, {"width": (144, 192), "depth": (1, 2), "max_parameters": 1_000_000}),
    "deep": (4_000_000_000, {"depth": (5, 6), "width": (32, 96), "max_parameters": 1_000_000}),
}
_STEP = 16  # Widths are multiples of it, and heads have so many channels or twice as many.
_ATTEMPTS = 200


class LanguageModelSpace:
    """A distribution of decoder-only transformers, sampled by seed.

    GPTs-1K is the training set of LoGAH (Zhou et al., 2024, arXiv 2405.16287): GPT-2s of 3 to 9 blocks of width 72 to
    256. These are smaller, and differ in more than their sizes.

    Args:
        vocabulary: Number of different tokens.
        context: The longest sequence.
        max_parameters: The largest network.
        depth: Fewest and most blocks.
        width: Narrowest and widest token, multiples of 16.
        mlp_ratios: Hidden over outer widths of the feed-forward parts.
        norms: Normalisations: some of ``"layer"`` and ``"rms"``.
        activations: Names in :data:`hypergen.architectures.families.layers.ACTIVATIONS`.
        positions: Position encoding, one of ``"learned"`` and ``"rotary"``.

    Raises:
        ValueError: An argument is out of range; the message says which values are possible.
    """

    def __init__(
        self,
        vocabulary: int = 96,
        context: int = 64,
        max_parameters: int = 300_000,
        depth: Sequence[int] = (1, 4),
        width: Sequence[int] = (32, 128),
        mlp_ratios: Sequence[int] = (2, 3, 4),
        norms: Sequence[str] = ("layer", "rms"),
        activations: Sequence[str] = ("gelu", "relu", "silu"),
        positions: Sequence[str] = POSITIONS,
    ) -> None:
        self.config: dict[str, JSON] = {
            "vocabulary": vocabulary,
            "context": context,
            "max_parameters": max_parameters,
            "depth": list(depth),
            "width": list(width),
            "mlp_ratios": list(mlp_ratios),
            "norms": list(norms),
            "activations": list(activations),
            "positions": list(positions),
        }
        known = {"norms": ["layer", "rms"], "activations": list(ACTIVATIONS), "positions": list(POSITIONS)}
        for name, possible in known.items():
            chosen: Any = self.config[name]
            if not chosen or set(chosen) - set(possible):
                raise ValueError(f"{name} must be one or more of {possible}; got {chosen}")
        for name, bounds, multiple in (("depth", depth, 1), ("width", width, _STEP)):
            if len(bounds) != 2 or not 1 <= bounds[0] <= bounds[1] or any(bound % multiple for bound in bounds):
                raise ValueError(f"{name} must be [least, greatest], positive multiples of {multiple}; got {bounds}")

    def __repr__(self) -> str:
        return f"LanguageModelSpace({', '.join(f'{key}={value!r}' for key, value in self.config.items())})"

    def to_json(self) -> dict[str, JSON]:
        """The keyword arguments that make an equal space."""
        return dict(self.config)

    def sample(self, seed: int) -> Architecture:
        """Draw an architecture; the same for the same seed, on every machine and whatever the global random state.

        Raises:
            ValueError: No network meets the budget.
        """
        rng = random.Random(f"hypergen.LanguageModelSpace:{seed}")
        config: dict[str, Any] = self.config
        for _ in range(_ATTEMPTS):
            low, high = config["width"]
            # Log-uniform: half of all widths lie below the geometric mean of the bounds.
            width = _STEP * round(math.exp(rng.uniform(math.log(low), math.log(high))) / _STEP)
            heads = width // rng.choice([size for size in (_STEP, 2 * _STEP) if width % size == 0])
            architecture = Architecture(
                "gpt",
                {
                    "vocabulary": config["vocabulary"],
                    "context": config["context"],
                    "width": width,
                    "depth": rng.randint(*config["depth"]),
                    "heads": heads,
                    "mlp_ratio": rng.choice(config["mlp_ratios"]),
                    "norm": rng.choice(config["norms"]),
                    "activation": rng.choice(config["activations"]),
                    "positions": rng.choice(config["positions"]),
                    "tied": rng.random() < 0.5,
                    "bias": rng.random() < 0.5,
                },
            )
            if network_cost(architecture).parameters <= config["max_parameters"]:
                return architecture
        raise ValueError(
            f"no network met the budget of {config['max_parameters']:,} parameters in {_ATTEMPTS} draws; raise it, or "
            "narrow the widths and depths"
        )


@lru_cache(maxsize=16)
def language_model_split(name: str, size: int = 10) -> tuple[Architecture, ...]:
    """Architectures that training never shows, no two alike and none in two splits.

    Args:
        name: ``"test"``, ``"wide"`` (wider than any in training) or ``"deep"``.
        size: How many.

    Raises:
        ValueError: The split is unknown.
    """
    if name not in LANGUAGE_MODEL_SPLITS:
        raise ValueError(f"unknown split {name!r}; expected one of {list(LANGUAGE_MODEL_SPLITS)}")
    seed, arguments = LANGUAGE_MODEL_SPLITS[name]
    earlier = list(LANGUAGE_MODEL_SPLITS)[: list(LANGUAGE_MODEL_SPLITS).index(name)]
    seen = {architecture for split in earlier for architecture in language_model_split(split)}
    space = LanguageModelSpace(**arguments)
    drawn: list[Architecture] = []
    while len(drawn) < size:
        architecture = space.sample(seed)
        seed += 1
        if architecture not in seen:
            seen.add(architecture)
            drawn.append(architecture)
    return tuple(drawn)
