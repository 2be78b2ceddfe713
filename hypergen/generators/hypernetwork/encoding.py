"""Conditions: what may be given, checks of what is given, and its encoding."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hypergen.errors import GeneratorError, UnknownNameError
from hypergen.functional.arguments import check_numbers

ENCODINGS = ("cos_sin", "l2", "layer_norm", "embedding", "none")
KINDS = ("continuous", "categories", "features")
_UNNAMED = "condition"


@dataclass(frozen=True)
class ConditionPart:
    """One of the values that a condition consists of.

    Attributes:
        kind: ``continuous``: numbers in a range; ``categories``: one of some classes; ``features``: a vector without a
            range, such as the embedding of a text.
        size: Numbers of the vector, or number of classes.
        low: Least value of continuous numbers.
        high: Greatest value of continuous numbers.
        dim: Length of the learned embedding of a class.
    """

    kind: str
    size: int
    low: float = 0.0
    high: float = 1.0
    dim: int = 16

    @classmethod
    def parse(cls, name: str, given: Any) -> ConditionPart:
        """Read the specification of a part: a number of continuous values, or a mapping with a kind."""
        if isinstance(given, int) and not isinstance(given, bool):
            given = {"continuous": given}
        if not isinstance(given, Mapping) or len(kinds := [kind for kind in KINDS if kind in given]) != 1:
            raise GeneratorError(
                f"condition {name!r} is specified as {given!r}. Expected a number of continuous values, or a mapping "
                'such as {"continuous": 2, "low": 0, "high": 10}, {"categories": 5} or {"features": 384}.'
            )
        options = {key: value for key, value in given.items() if key != kinds[0]}
        if unknown := [key for key in options if key not in ("low", "high", "dim")]:
            raise UnknownNameError(f"option of condition {name!r}", unknown[0], ("low", "high", "dim"))
        part = cls(kinds[0], given[kinds[0]], **options)
        check_numbers(f"condition {name!r}: ", size=part.size, dim=part.dim, low=1, whole=True)
        if not part.low < part.high:
            raise GeneratorError(f"condition {name!r}: low {part.low} must be less than high {part.high}.")
        return part


class Encoded(NamedTuple):
    """A condition, encoded.

    Attributes:
        values: ``[conditions, features]``.
        batched: Whether a batch of conditions was given, rather than one.
    """

    values: Tensor
    batched: bool


class ConditionEncoding(nn.Module):
    """Encodes conditions, by default so that the length of what comes out does not depend on their magnitude.

    A continuous value γ, its range mapped to 0 … 1, becomes ``[cos(πγ/2), sin(πγ/2)]``, whose length is 1 (Ortiz,
    Guttag and Dalca, *Magnitude Invariant Parametrizations Improve Hypernetwork Learning*, 2023, arXiv:2304.07645). A
    vector without a range is divided by its length, and the embedding of a class by its own.

    Args:
        condition: Number of continuous values in 0 … 1; the specification of one part; or one for each name.
        encoding: ``"cos_sin"``; ``"l2"``: divided by the length; ``"layer_norm"``; ``"embedding"``: all parts have to
            be classes; ``"none"``: raw values, as plain hypernetworks take them.

    Raises:
        GeneratorError: The specification cannot be read, or the encoding does not go with it.
        UnknownNameError: There is no such encoding or option.
    """

    def __init__(self, condition: int | Mapping[str, Any], encoding: str = "cos_sin") -> None:
        super().__init__()
        if encoding not in ENCODINGS:
            raise UnknownNameError("encoding", encoding, ENCODINGS)
        named = isinstance(condition, Mapping) and not any(kind in condition for kind in KINDS)
        given = condition if named and isinstance(condition, Mapping) else {_UNNAMED: condition}
        if not given:
            raise GeneratorError("condition={} has no parts. Name at least one, such as {'task': {'categories': 5}}.")
        self.named, self.encoding = named, encoding
        self.parts = {name: ConditionPart.parse(name, value) for name, value in given.items()}
        self.embeddings = nn.ModuleDict()
        self.size, self.squared_length = 0, 0.0
        for name, part in self.parts.items():
            if part.kind == "categories":
                # Names of modules cannot hold dots.
                self.embeddings[name.replace(".", "/")] = nn.Embedding(part.size, part.dim)
            elif encoding == "embedding":
                raise GeneratorError(
                    f'encoding="embedding" is for classes, and condition {name!r} has {part.kind} values. Specify '
                    f'{{"categories": …}}, or take "cos_sin" or "l2".'
                )
            self.size += self._encoded_size(part)
            self.squared_length += self._squared_length(part)

    def _encoded_size(self, part: ConditionPart) -> int:
        if part.kind == "categories":
            return part.dim
        return part.size * (2 if part.kind == "continuous" and self.encoding == "cos_sin" else 1)

    def _squared_length(self, part: ConditionPart) -> float:
        """Of what the part is encoded as, the expected one where it varies."""
        if part.kind == "categories":
            return part.dim if self.encoding == "none" else 1
        whole = self.encoding in ("layer_norm", "none") or (part.kind == "continuous" and self.encoding == "cos_sin")
        return part.size if whole else 1

    def forward(self, condition: Any, device: torch.device, dtype: torch.dtype) -> Encoded:
        """Check and encode a condition or a batch of them.

        Args:
            condition: For each part, ``[size]`` or ``[conditions, size]``, or a class or ``[conditions]`` of them.
            device: Device of the hypernetwork.
            dtype: Data type of the hypernetwork.

        Raises:
            GeneratorError: Parts are missing, of the wrong size, out of range, not finite, or batches differ.
        """
        given = self._by_name(condition)
        encoded, sizes = [], {}
        for name, part in self.parts.items():
            value = torch.as_tensor(given[name], device=device)
            rows = self._rows(name, part, value)
            sizes[name] = len(rows) if value.dim() == rows.dim() else None
            if not torch.compiler.is_compiling():
                _check_values(name, part, rows)
            encoded.append(self._encode(name, part, rows, dtype))
        batches = {size for size in sizes.values() if size is not None}
        if len(batches) > 1:
            raise GeneratorError(f"Parts of the condition are batches of different sizes: {sizes}. Give one size.")
        number = batches.pop() if batches else 1
        values = torch.cat([value.expand(number, -1) for value in encoded], 1)
        return Encoded(values, any(size is not None for size in sizes.values()))

    def _by_name(self, condition: Any) -> Mapping[str, Any]:
        if not self.named:
            if condition is None or isinstance(condition, Mapping) and set(condition) != {_UNNAMED}:
                raise GeneratorError(f"Expected a condition, {self.describe()}; got {condition!r}.")
            return condition if isinstance(condition, Mapping) else {_UNNAMED: condition}
        if not isinstance(condition, Mapping):
            raise GeneratorError(
                f"Expected a condition by name, {self.describe()}; got {type(condition).__name__}. Pass a dictionary."
            )
        if unknown := [name for name in condition if name not in self.parts]:
            raise UnknownNameError("part of the condition", unknown[0], self.parts)
        if missing := [name for name in self.parts if name not in condition]:
            raise GeneratorError(f"The condition lacks {', '.join(missing)}; expected {self.describe()}.")
        return condition

    def _rows(self, name: str, part: ConditionPart, value: Tensor) -> Tensor:
        """``[conditions, size]``, or ``[conditions]`` of classes; one more axis than given for a single one."""
        if part.kind == "categories":
            if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool or value.dim() > 1:
                raise GeneratorError(
                    f"condition {name!r} is {value.dtype} {list(value.shape)}; expected a class, or [conditions] "
                    "integers."
                )
            return value[None] if value.dim() == 0 else value
        if value.is_complex() or value.dim() > 2 or (value.dim() == 0 and part.size > 1):
            fits = False
        else:
            fits = value.dim() == 0 or value.shape[-1] == part.size
        if not fits:
            hint = " For a batch of single numbers, give [conditions, 1]." if part.size == 1 else ""
            raise GeneratorError(
                f"condition {name!r} has shape {list(value.shape)}; expected [{part.size}], or [conditions, "
                f"{part.size}].{hint}"
            )
        return value.reshape(1, part.size) if value.dim() < 2 else value

    def _encode(self, name: str, part: ConditionPart, rows: Tensor, dtype: torch.dtype) -> Tensor:
        if part.kind == "categories":
            embedded = self.embeddings[name.replace(".", "/")](rows)
            return embedded if self.encoding == "none" else F.normalize(embedded, dim=1)
        rows = rows.to(dtype)
        if self.encoding == "none":
            return rows
        if part.kind == "continuous" and self.encoding == "cos_sin":
            angle = (rows - part.low) / (part.high - part.low) * (math.pi / 2)
            return torch.cat((angle.cos(), angle.sin()), 1)
        if self.encoding == "layer_norm":
            # Without the constant of `F.layer_norm`, under which small values would stay small.
            return F.normalize(rows - rows.mean(1, keepdim=True), dim=1) * part.size**0.5
        return F.normalize(rows, dim=1)

    def random(self, number: int, generator: torch.Generator | None = None) -> dict[str, Tensor] | Tensor:
        """Draw conditions evenly from their ranges; vectors without a range from a normal distribution."""
        drawn: dict[str, Tensor] = {}
        for name, part in self.parts.items():
            if part.kind == "categories":
                drawn[name] = torch.randint(part.size, (number,), generator=generator)
            elif part.kind == "features":
                drawn[name] = torch.randn(number, part.size, generator=generator)
            else:
                drawn[name] = part.low + (part.high - part.low) * torch.rand(number, part.size, generator=generator)
        return drawn if self.named else drawn[_UNNAMED]

    def describe(self) -> str:
        """What a condition consists of, in words."""
        words = {
            name: f"a class from 0 to {part.size - 1}"
            if part.kind == "categories"
            else f"[{part.size}] numbers"
            + (f" from {part.low:g} to {part.high:g}" if part.kind == "continuous" else "")
            for name, part in self.parts.items()
        }
        return "; ".join(f"{name!r}: {word}" for name, word in words.items()) if self.named else words[_UNNAMED]


def _check_values(name: str, part: ConditionPart, rows: Tensor) -> None:
    if rows.is_meta:
        return
    if rows.is_floating_point() and not bool(rows.isfinite().all()):
        raise GeneratorError(f"condition {name!r} has values that are not finite. Check where it is computed.")
    if not rows.numel():
        raise GeneratorError(f"condition {name!r} is an empty batch, {list(rows.shape)}.")
    low, high = (0, part.size - 1) if part.kind == "categories" else (part.low, part.high)
    if part.kind == "features":
        return
    least, greatest = rows.min().item(), rows.max().item()
    slack = 1e-5 * (high - low)  # for rounding
    if least < low - slack or greatest > high + slack:
        raise GeneratorError(
            f"condition {name!r} has values from {least:g} to {greatest:g}; expected {low:g} to {high:g}. Give another "
            'range where the hypernetwork is made, {"continuous": …, "low": …, "high": …}, or "features" for values '
            "without one."
        )
