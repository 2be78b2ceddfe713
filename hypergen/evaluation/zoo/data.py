"""What a generator of checkpoints is evaluated on: stacked networks with their conditions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hypergen.errors import ParameterError

Stacked = dict[str, Tensor]  # Networks of one layout: [networks, *shape] by parameter name.


@dataclass(frozen=True)
class Checkpoints:
    """Trained networks of one layout.

    Args:
        parameters: By name, [networks, *shape].
        conditions: What a generator is told to get such a network: [networks, features].
        tasks: Which networks were trained on the same task: [networks], int64.

    Raises:
        ParameterError: The networks are not equally many everywhere, or there are none.
    """

    parameters: Stacked
    conditions: Tensor
    tasks: Tensor

    def __post_init__(self) -> None:
        counts = {name: len(value) for name, value in self.parameters.items()}
        counts |= {"conditions": len(self.conditions), "tasks": len(self.tasks)}
        if len(set(counts.values())) != 1 or len(self) == 0 or self.conditions.dim() != 2:
            raise ParameterError(
                f"Checkpoints must be stacked, as many of each parameter as conditions and tasks, at least one; got "
                f"{counts}, conditions {list(self.conditions.shape)}. Stack them by parameter: [networks, *shape]."
            )

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, index: Tensor) -> Checkpoints:
        """The networks of an index or a mask."""
        return Checkpoints(select(self.parameters, index), self.conditions[index], self.tasks[index])


@dataclass(frozen=True)
class Cost:
    """What a generator cost, with its zoo.

    Args:
        generator_seconds: Duration, in seconds, of training it.
        generator_parameters: It has so many.
        zoo_seconds: Duration, in seconds, of training the zoo's networks.
        zoo_networks: The zoo has so many.
    """

    generator_seconds: float = math.nan
    generator_parameters: int = 0
    zoo_seconds: float = math.nan
    zoo_networks: int = 0


def select(stacked: Mapping[str, Tensor], index: Tensor) -> Stacked:
    """The networks of an index or a mask."""
    return {name: value[index] for name, value in stacked.items()}


def cycle(stacked: Mapping[str, Tensor], number: int) -> Stacked:
    """The first ``number`` networks, beginning again where there are too few."""
    count = len(next(iter(stacked.values())))
    return select(stacked, torch.arange(number) % count)


def flatten(stacked: Mapping[str, Tensor]) -> Tensor:
    """A vector per network: [networks, values]."""
    return torch.cat([value.flatten(1) for value in stacked.values()], 1)


def unflatten(vectors: Tensor, like: Mapping[str, Tensor]) -> Stacked:
    """The inverse of :func:`flatten`, in the shapes of ``like``."""
    sizes = [value[0].numel() for value in like.values()]
    parts = vectors.split(sizes, 1)
    return {name: part.reshape(-1, *like[name].shape[1:]) for name, part in zip(like, parts, strict=True)}
