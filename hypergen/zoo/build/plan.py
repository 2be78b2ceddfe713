"""Which networks a zoo is made of: architectures, tasks, seeds and hyperparameters, all drawn from one seed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from hypergen.functional.stacked import Recipe
from hypergen.zoo.index import Split

Range = float | Sequence[float]


class Buildable(Protocol):
    """An architecture: :class:`hypergen.architectures.Architecture`, or anything with these."""

    @property
    def name(self) -> str:
        """Of the architecture, different from those of others."""

    def build(self) -> nn.Module:
        """Make the network at its own initialisation."""

    def to_json(self) -> Mapping[str, Any]:
        """What is needed to make it again."""


@dataclass(frozen=True)
class Task:
    """A relabelling of a data set's classes.

    Args:
        name: Name of the task.
        labels: The new label of each class.
        split: Where to hold it out; drawn by its name if None.
        text: In words.
    """

    name: str
    labels: tuple[int, ...]
    split: Split | None = None
    text: str = ""

    def to_json(self) -> dict[str, Any]:
        """What the zoo says about it."""
        return {"labels": list(self.labels), "text": self.text}


@dataclass(frozen=True)
class Group:
    """Networks of one architecture that are trained together."""

    architecture: Buildable
    recipes: tuple[Recipe, ...]


@dataclass(frozen=True)
class ZooPlan:
    """What to train. The same plan gives the same networks, whatever builds it, at once or in parts.

    A range is a number, or two between which to draw: evenly, or evenly in the logarithm where it says so.

    Args:
        architectures: What to train; the networks of one are trained before those of the next.
        networks: Number of networks of each architecture.
        steps: Range of updates; multiples of ``save_every`` are drawn.
        save_every: Updates between two checkpoints of a network.
        save_first: Whether the initialisation is a checkpoint, too.
        learning_rate: Range, in the logarithm.
        weight_decay: Range, in the logarithm.
        init_scale: Range, in the logarithm, of the factor on initial weights.
        data_fraction: Range of the share of training images that a network sees.
        tasks: Relabellings that networks take in turn; without any, the data's own labels.
        shared_init: Whether all networks of an architecture start from the same weights.
        data_orders: Number of different orders of the data, which networks of a task take in turn; None for one each.
            Networks that are trained together have one order then; if they see all images (``data_fraction`` 1), they
            share the work of their first layer, which is faster for convolutions.
        seed: Random seed of everything that is drawn.
        group_size: Networks that are trained together; a few hundred small ones fill a processor's cache.
        batch_size: Images per network and step.
        optimizer: ``"adam"`` or ``"sgd"``; see :func:`hypergen.functional.stacked.train_stacked`.
        schedule: ``"constant"``, ``"linear"`` or ``"cosine"``.
        label_smoothing: Label smoothing of training labels.
        input_noise: On training inputs.

    Raises:
        ValueError: A value is impossible.
    """

    architectures: Sequence[Buildable]
    networks: int
    steps: Range = 680
    save_every: int = 170
    save_first: bool = True
    learning_rate: Range = 3e-3
    weight_decay: Range = 0.0
    init_scale: Range = 1.0
    data_fraction: Range = 1.0
    tasks: Sequence[Task] = ()
    shared_init: bool = False
    data_orders: int | None = None
    seed: int = 0
    group_size: int = 250
    batch_size: int = 32
    optimizer: str = "adam"
    schedule: str = "constant"
    label_smoothing: float = 0.0
    input_noise: float = 0.0
    _ranges: Mapping[str, tuple[float, float]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names = [architecture.name for architecture in self.architectures]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"a zoo needs architectures with names of their own; got {names}")
        if len({task.name for task in self.tasks}) < len(self.tasks):
            raise ValueError("tasks need names of their own")
        for name in ("networks", "save_every", "group_size", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive; got {getattr(self, name)}")
        drawn = ("steps", "learning_rate", "weight_decay", "init_scale", "data_fraction")
        ranges = {name: _range(name, getattr(self, name)) for name in drawn}
        if ranges["steps"][0] < 1 or ranges["data_fraction"][0] <= 0 or ranges["data_fraction"][1] > 1:
            raise ValueError(f"steps must be positive and data_fraction in (0, 1]; got {ranges}")
        object.__setattr__(self, "_ranges", ranges)

    def groups(self) -> Iterator[Group]:
        """All networks, in the order in which they are trained."""
        for architecture in self.architectures:
            recipes = [self.recipe(architecture, number) for number in range(self.networks)]
            if self.data_orders is None:
                together = [recipes]
            else:
                seeds = dict.fromkeys(recipe.data_seed for recipe in recipes)
                together = [[recipe for recipe in recipes if recipe.data_seed == seed] for seed in seeds]
            for some in together:
                for first in range(0, len(some), self.group_size):
                    yield Group(architecture, tuple(some[first : first + self.group_size]))

    def recipe(self, architecture: Buildable, number: int) -> Recipe:
        """How one network of an architecture is trained; depends on its number, and on no other network's."""
        name = f"{architecture.name}-s{self.seed}"
        digits = hashlib.sha256(f"{name}/{number}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digits[:7], "big"))
        low, high = self._ranges["steps"]
        # The last checkpoints of many networks are then measured together.
        blocks = math.ceil(low / self.save_every), math.ceil(high / self.save_every)
        steps = self.save_every * int(torch.randint(blocks[0], blocks[1] + 1, (), generator=generator))
        task = self.tasks[number % len(self.tasks)].name if self.tasks else None
        turn = number // max(1, len(self.tasks))
        first_seed = self.seed * 1_000_000
        return Recipe(
            run=f"{name}-{number:06d}",
            steps=steps if low < high else int(low),
            init_seed=first_seed if self.shared_init else first_seed + number,
            data_seed=first_seed + (number if self.data_orders is None else turn % self.data_orders),
            learning_rate=self._draw("learning_rate", generator),
            weight_decay=self._draw("weight_decay", generator),
            init_scale=self._draw("init_scale", generator),
            data_fraction=self._draw("data_fraction", generator, in_logarithm=False),
            task=task,
        )

    def save_steps(self) -> range:
        """The steps after which every network is saved; each also is after its last."""
        last = math.ceil(self._ranges["steps"][1])
        return range(0 if self.save_first else self.save_every, last + 1, self.save_every)

    def to_json(self) -> dict[str, Any]:
        """Everything that decides what a network becomes, which their number and grouping do not."""
        values = {name: list(pair) for name, pair in self._ranges.items()}
        for name in ("save_every", "save_first", "shared_init", "data_orders", "seed", "batch_size", "optimizer"):
            values[name] = getattr(self, name)
        for name in ("schedule", "label_smoothing", "input_noise"):
            values[name] = getattr(self, name)
        return {**values, "tasks": [task.name for task in self.tasks]}

    def _draw(self, name: str, generator: torch.Generator, in_logarithm: bool = True) -> float:
        low, high = self._ranges[name]
        share = torch.rand((), generator=generator, dtype=torch.float64).item()
        if low == high:
            return low
        return low * (high / low) ** share if in_logarithm else low + (high - low) * share


def binary_relabellings(
    classes: int, number: int, *, held_out: int = 0, seed: int = 0, split: Split = "test"
) -> list[Task]:
    """Different tasks of telling some classes from the others.

    Args:
        classes: Number of classes of the data.
        number: Number of tasks.
        held_out: How many of them, the last ones, are of the split ``split``; the others are for training.
        seed: Random seed of the draw.
        split: Split of the tasks that are held out.

    Returns:
        Tasks named by their codes, ``"0110…"``: a bit per class. No code is all zeros or all ones.

    Raises:
        ValueError: There are fewer codes.
    """
    there = 2**classes - 2
    if not 0 <= held_out <= number <= there:
        raise ValueError(f"{classes} classes have {there} binary relabellings; asked for {number}, {held_out} held out")
    chosen = torch.randperm(there, generator=torch.Generator().manual_seed(seed))[:number] + 1
    tasks = []
    for position, code in enumerate(chosen.tolist()):
        labels = tuple(code >> bit & 1 for bit in range(classes))
        ones = ", ".join(str(label) for label, bit in enumerate(labels) if bit)
        held = position >= number - held_out
        tasks.append(Task("".join(map(str, labels)), labels, split if held else "train", f"Is it one of {ones}?"))
    return tasks


def permuted_labels(classes: int, number: int, *, seed: int = 0) -> list[Task]:
    """Different tasks of naming the classes in another order; the first keeps the data's own.

    Args:
        classes: Number of classes of the data.
        number: Number of tasks.
        seed: Random seed of the draw.

    Raises:
        ValueError: There are fewer orders.
    """
    if number > math.factorial(classes):
        raise ValueError(f"{classes} classes have {math.factorial(classes)} orders; asked for {number}")
    generator = torch.Generator().manual_seed(seed)
    orders = {tuple(range(classes)): None}
    while len(orders) < number:
        orders[tuple(torch.randperm(classes, generator=generator).tolist())] = None
    return [Task("-".join(map(str, order)), order) for order in list(orders)[:number]]


def _range(name: str, value: Range) -> tuple[float, float]:
    pair = [value, value] if isinstance(value, (int, float)) else list(value)
    if len(pair) != 2 or not 0 <= pair[0] <= pair[1]:
        raise ValueError(f"{name} must be a number or two, the smaller first, none negative; got {value}")
    if pair[0] == 0 < pair[1]:
        raise ValueError(f"{name} is drawn in the logarithm, or must be positive: {value} cannot start from 0")
    return float(pair[0]), float(pair[1])
