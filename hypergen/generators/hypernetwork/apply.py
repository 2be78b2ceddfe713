"""How what the heads give becomes parameters: whole values, changes, factors, or low-rank changes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hypergen.errors import UnknownNameError

APPLICATIONS = ("full", "delta", "multiply", "lora")
BASES = ("learned", "fixed", "target")


@dataclass(frozen=True)
class Field:
    """A tensor that the heads give.

    Attributes:
        parameter: Name of the parameter that it belongs to.
        role: ``change``, ``factor``, or ``A`` and ``B`` of a low-rank change.
        shape: Its shape.
    """

    parameter: str
    role: str
    shape: tuple[int, ...]


def fields_of(apply: str, shapes: Mapping[str, Sequence[int]], rank: int) -> list[Field]:
    """The fields for parameters of these shapes.

    Raises:
        UnknownNameError: There is no such way of applying.
    """
    if apply not in APPLICATIONS:
        raise UnknownNameError("way of applying", apply, APPLICATIONS)
    fields = []
    for name, given in shapes.items():
        shape = tuple(given)
        if apply == "lora":
            rows, columns = shape[0], math.prod(shape[1:])
            kept = min(rank, rows, columns)
            fields += [Field(name, "A", (kept, columns)), Field(name, "B", (rows, kept))]
        elif apply == "multiply":
            # A factor for each output channel: the first axis of weights, the only one of biases.
            fields.append(Field(name, "factor", shape[:1] + (1,) * (len(shape) - 1)))
        else:
            fields.append(Field(name, "change", shape))
    return fields


def scale_of(field: Field, own: Tensor | None) -> float:
    """The deviation that a field's values should have, beside the parameter's own."""
    if field.role == "A":
        return 1 / math.sqrt(field.shape[1])
    if field.role == "B":
        return 1 / math.sqrt(field.shape[1])
    if field.role == "factor" or own is None:
        return 1.0
    deviation = float(own.detach().float().std(correction=0)) if own.numel() > 1 else 0.0
    # Biases that are zero and the factors of norms have none; a tenth is small beside activations of about 1.
    return deviation if deviation > 0 and math.isfinite(deviation) else 0.1


def offset_of(field: Field) -> Tensor | None:
    """Learned values that a field starts from: as in LoRA, A uniform and B zero, so that the change starts at zero."""
    if field.role == "A":
        bound = 1 / math.sqrt(field.shape[1])
        return torch.empty(field.shape).uniform_(-bound, bound)
    return torch.zeros(field.shape) if field.role == "B" else None


def combine(
    fields: Sequence[Field], values: Sequence[Tensor], base: Mapping[str, Tensor], lora_scale: float
) -> dict[str, Tensor]:
    """Parameters from fields and the values that they change.

    Args:
        fields: What the heads give.
        values: Its values, ``[*conditions, *shape]`` each.
        base: What is changed, by name.
        lora_scale: Factor of low-rank changes.

    Returns:
        ``[*conditions, *shape]`` by name, in the data type of the base.
    """
    parameters: dict[str, Tensor] = {}
    low_rank: dict[str, Tensor] = {}
    for field, value in zip(fields, values, strict=True):
        own = base[field.parameter]
        if field.role == "A":
            low_rank[field.parameter] = value
            continue
        if field.role == "factor":
            parameters[field.parameter] = own * (1 + value).to(own.dtype)
            continue
        if field.role == "B":
            value = (value @ low_rank[field.parameter]) * lora_scale
            value = value.reshape(*value.shape[:-2], *own.shape)
        parameters[field.parameter] = own + value.to(own.dtype)
    return parameters
