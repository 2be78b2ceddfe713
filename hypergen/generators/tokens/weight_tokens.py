"""Weights of any layout ↔ sequences of tokens with positions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from hypergen.errors import ParameterError

# What a tensor is, as its name and number of axes tell. Append only: saved generators rely on it.
ROLES = ("matrix", "kernel", "bias", "scale", "running_mean", "running_var", "lora_A", "lora_B", "vector", "scalar")
NUM_POSITIONS = 9
_UNIT_ROLES = ("bias", "scale", "running_mean", "running_var", "vector", "scalar")


@dataclass(frozen=True)
class WeightTokens:
    """How the tensors of a layout are cut into tokens.

    A tensor's token is a stretch of one of its rows, an output with all its inputs, so a neuron has the same tokens in
    networks of other widths; a tensor of one axis is a single row. The last token of a row is padded.

    Attributes:
        shapes: Shape by name, in order.
        token_size: Values per token.
    """

    shapes: Mapping[str, tuple[int, ...]]
    token_size: int

    def __post_init__(self) -> None:
        if self.token_size < 1:
            raise ValueError(f"token_size must be positive; got {self.token_size}")
        if not self.shapes:
            raise ParameterError("A layout without tensors has no tokens. Pass the shapes of its parameters.")
        object.__setattr__(self, "shapes", {name: tuple(shape) for name, shape in self.shapes.items()})

    @property
    def key(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """The names and shapes; equal for equal layouts, in whatever order a file has kept them."""
        return tuple(sorted(self.shapes.items()))

    @property
    def num_values(self) -> int:
        """Numbers in a network."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    @cached_property
    def index(self) -> Tensor:
        """The place of every value in the flattened tokens, ``[num_values]``, int64; strictly increasing."""
        places, start = [], 0
        for shape in self.shapes.values():
            rows, columns = _rows(shape)
            chunks = math.ceil(columns / self.token_size)
            row = torch.arange(rows)[:, None] * chunks * self.token_size
            places.append((start + row + torch.arange(columns)).flatten())
            start += rows * chunks * self.token_size
        return torch.cat(places)

    @property
    def num_tokens(self) -> int:
        """Tokens in a network."""
        return len(self.positions)

    @cached_property
    def mask(self) -> Tensor:
        """Which values of the tokens are no padding, ``[num_tokens, token_size]``."""
        mask = torch.zeros(self.num_tokens * self.token_size, dtype=torch.bool)
        mask[self.index] = True
        return mask.view(-1, self.token_size)

    @cached_property
    def positions(self) -> Tensor:
        """Where each token stands, ``[num_tokens, NUM_POSITIONS]``, float32.

        In this order: role; layer from the input; layer from the output; row; chunk; and log2 of layers, rows, columns
        and kernel size.
        """
        layer_of = {name: name.rpartition(".")[0] for name in self.shapes}
        layers = {layer: i for i, layer in enumerate(dict.fromkeys(layer_of.values()))}
        blocks = []
        for name, shape in self.shapes.items():
            rows, columns = _rows(shape)
            chunks = math.ceil(columns / self.token_size)
            number = layers[layer_of[name]]
            block = torch.empty(rows, chunks, NUM_POSITIONS)
            block[..., 0] = ROLES.index(role_of(name, shape))
            block[..., 1] = number
            block[..., 2] = len(layers) - 1 - number
            block[..., 3] = torch.arange(rows)[:, None]
            block[..., 4] = torch.arange(chunks)
            sizes = (len(layers), rows, columns, math.prod(shape[2:]))
            block[..., 5:] = torch.tensor([math.log2(max(size, 1)) for size in sizes])
            blocks.append(block.flatten(0, 1))
        return torch.cat(blocks)

    @cached_property
    def units(self) -> Tensor:
        """What a value of each token is measured in, ``[num_tokens]``: 1 over the root of its fan-in, 1 for vectors."""
        units = []
        for name, shape in self.shapes.items():
            rows, columns = _rows(shape)
            unit = 1.0 if role_of(name, shape) in _UNIT_ROLES else columns**-0.5
            units += [unit] * (rows * math.ceil(columns / self.token_size))
        return torch.tensor(units)

    def encode(self, stacked: Mapping[str, Tensor]) -> Tensor:
        """Cut networks into tokens; batch-norm variances go over into their logarithms.

        Args:
            stacked: ``[networks, *shape]`` by name.

        Returns:
            ``[networks, num_tokens, token_size]``, 0 on padding.

        Raises:
            ParameterError: Names or shapes are not those of the layout, or a variance is not positive.
        """
        problems = [f"missing {name!r}" for name in self.shapes if name not in stacked]
        problems += [f"unexpected {name!r}" for name in stacked if name not in self.shapes]
        problems += [
            f"{name!r} is {list(stacked[name].shape)}, expected [networks, {', '.join(map(str, shape))}]"
            for name, shape in self.shapes.items()
            if name in stacked and tuple(stacked[name].shape[1:]) != shape
        ]
        if problems:
            raise ParameterError(f"The networks are not of this layout: {'; '.join(problems[:10])}.")
        values = []
        for name, shape in self.shapes.items():
            value = stacked[name].reshape(len(stacked[name]), -1)
            if role_of(name, shape) == "running_var":
                if not (value > 0).all():
                    raise ParameterError(f"{name!r} has variances that are not positive; they have no logarithm.")
                value = value.log()
            values.append(value)
        flat = torch.cat(values, 1)
        tokens = flat.new_zeros(len(flat), self.num_tokens * self.token_size)
        tokens[:, self.index.to(flat.device)] = flat
        return tokens.view(len(flat), -1, self.token_size)

    def decode(self, tokens: Tensor) -> dict[str, Tensor]:
        """Undo :meth:`encode`, bitwise but for the logarithms; differentiable.

        Args:
            tokens: ``[networks, num_tokens, token_size]``; longer sequences are padded at the end.

        Returns:
            ``[networks, *shape]`` by name.
        """
        stacked = {}
        sizes = [rows * math.ceil(columns / self.token_size) for rows, columns in map(_rows, self.shapes.values())]
        parts = tokens[:, : self.num_tokens].split(sizes, 1)
        for (name, shape), part in zip(self.shapes.items(), parts, strict=True):
            rows, columns = _rows(shape)
            value = part.reshape(len(part), rows, -1)[..., :columns]
            value = value.exp() if role_of(name, shape) == "running_var" else value
            stacked[name] = value.reshape(len(part), *shape)
        return stacked


def role_of(name: str, shape: Sequence[int]) -> str:
    """What a tensor is, by its name and shape; one of :data:`ROLES`."""
    last = name.rpartition(".")[2]
    if last in ("running_mean", "running_var"):
        return last
    for adapter in ("lora_A", "lora_B"):
        if adapter in name:
            return adapter
    if len(shape) >= 2:
        return "matrix" if len(shape) == 2 else "kernel"
    if not shape:
        return "scalar"
    return {"bias": "bias", "weight": "scale"}.get(last, "vector")


@dataclass(frozen=True)
class LayoutBatch:
    """Different layouts side by side, padded to the longest.

    Attributes:
        layouts: The layouts.
        positions: ``[layouts, num_tokens, NUM_POSITIONS]``.
        mask: True on tokens that are no padding, ``[layouts, num_tokens]``.
        values: True on values that are no padding, ``[layouts, num_tokens, token_size]``.
    """

    layouts: tuple[WeightTokens, ...]
    positions: Tensor
    mask: Tensor
    values: Tensor

    @classmethod
    def of(cls, layouts: Sequence[WeightTokens], device: torch.device | None = None) -> LayoutBatch:
        """Pad layouts of one token size."""
        pad = torch.nn.utils.rnn.pad_sequence
        positions = pad([layout.positions for layout in layouts], batch_first=True)
        values = pad([layout.mask for layout in layouts], batch_first=True)
        return cls(tuple(layouts), positions.to(device), values.any(2).to(device), values.to(device))

    def pad(self, tokens: Tensor) -> Tensor:
        """Lengthen tokens of one layout, ``[networks, num_tokens, token_size]``, to those of the longest."""
        return torch.nn.functional.pad(tokens, (0, 0, 0, self.mask.shape[1] - tokens.shape[1]))


def _rows(shape: Sequence[int]) -> tuple[int, int]:
    """Rows of a tensor, and values in each."""
    return (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (1, math.prod(shape))
