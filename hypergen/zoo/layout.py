"""What the checkpoints of a zoo look like: keys, shapes and types in order, and what is to be done with each."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from hypergen.errors import ParameterError
from hypergen.functional.checkpoint_files import tensor_problem

Role = Literal["generate", "copy", "frozen"]
Kind = Literal["parameter", "running_mean", "running_var", "num_batches_tracked", "buffer"]
Transform = Literal["none", "log"]

_DIGEST = re.compile(r"[0-9a-f]{64}")
_MOST_VALUES = 2**48
# The names of torch's own batch norms, which a state dict keeps when it is all that there is.
_STATISTICS: tuple[Kind, ...] = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Entry:
    """One tensor of a checkpoint.

    Args:
        key: Its name in the state dict.
        shape: Its shape.
        dtype: Its type without ``torch.``, for example ``"float32"``.
        kind: ``"parameter"``, a statistic of a batch norm by torch's name for it, or ``"buffer"``.
        role: ``"generate"``: what a generator learns. ``"copy"``: kept with every checkpoint, but not learnt, such as
            counters. ``"frozen"``: the same in every checkpoint, and kept once, under ``base/``.
        transform: ``"log"`` for positive values that are best generated in log space.
        groups: For every axis the permutation group that acts on it, by its number, or None; empty if unknown.
    """

    key: str
    shape: tuple[int, ...]
    dtype: str
    kind: Kind = "parameter"
    role: Role = "generate"
    transform: Transform = "none"
    groups: tuple[int | None, ...] = ()

    @property
    def torch_dtype(self) -> torch.dtype:
        """The type as torch has it."""
        return getattr(torch, self.dtype)

    @property
    def numel(self) -> int:
        """Number of values."""
        return int(torch.Size(self.shape).numel())


@dataclass(frozen=True)
class Layout:
    """The ordered entries that a group of checkpoints has in common.

    Args:
        entries: In the order of the state dict.
        tied: Other names of entries: alias → key.
        base: sha256 of the frozen tensors, which lie in ``base/<base>.safetensors``; empty without any.
        name: What people call it; no part of its identity.
        metadata: Anything JSON-able about the architecture, such as how to build it; no part of its identity.
    """

    entries: tuple[Entry, ...]
    tied: Mapping[str, str] = field(default_factory=dict)
    base: str = ""
    name: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.base and not _DIGEST.fullmatch(self.base):
            raise ParameterError(f"The layout's base is {self.base[:100]!r}; expected a sha256, or nothing.")

    @classmethod
    def of(
        cls,
        state: Mapping[str, Tensor],
        *,
        frozen: Iterable[str] = (),
        copied: Iterable[str] = (),
        buffers: Iterable[str] = (),
        name: str = "",
        metadata: Mapping[str, Any] | None = None,
    ) -> Layout:
        """Read the layout off one checkpoint.

        Whole-number tensors are copied, running variances are generated in log space, and names that share their
        memory are one entry.

        Args:
            state: A tensor per name, as ``model.state_dict()`` gives it.
            frozen: Names, or patterns with ``*``, of tensors that are the same in every checkpoint.
            copied: Names, or patterns with ``*``, of tensors that are kept but not to be generated.
            buffers: Names of the module's buffers, which a state dict does not tell from parameters; they are copied,
                except for the statistics of batch norms.
            name: What people call the layout.
            metadata: Anything JSON-able about the architecture.

        Raises:
            ParameterError: A value is no tensor, a pattern names no tensor, or there are no tensors.
        """
        if not state:
            raise ParameterError("A checkpoint without a tensor has no layout. Pass model.state_dict().")
        first_name: dict[tuple[Any, ...], str] = {}
        tied: dict[str, str] = {}
        known_buffers = set(buffers)
        entries = []
        for key, value in state.items():
            if not isinstance(value, Tensor):
                raise ParameterError(
                    f"{key!r} is a {type(value).__name__}; expected a tensor. Pass what model.state_dict() returns."
                )
            problem = None if value.is_meta else tensor_problem(value)
            if problem:
                raise ParameterError(f"{key!r} {problem}.")
            # Empty and meta tensors have no memory that they could share.
            place = (value.data_ptr(), tuple(value.shape), value.stride(), value.dtype)
            if value.numel() and not value.is_meta and first_name.setdefault(place, key) != key:
                tied[key] = first_name[place]
                continue
            entries.append(_entry(key, value, key in known_buffers))
        entries = _with_role(_with_role(entries, copied, "copy"), frozen, "frozen")
        layout = cls(tuple(entries), tied, "", name, dict(metadata or {}))
        held = layout.keys("frozen")
        return replace(layout, base=digest({key: state[key] for key in held})) if held else layout

    @property
    def id(self) -> str:
        """16 hexadecimal digits that tell entries, ties and frozen values; ``layouts/<id>.json`` is its file."""
        # What may be filled in later (groups, transforms, names) must not change which checkpoints belong together.
        # Nor must the order, which some file formats lose.
        identity = sorted([entry.key, list(entry.shape), entry.dtype, entry.role] for entry in self.entries)
        text = json.dumps([identity, dict(sorted(self.tied.items())), self.base])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def keys(self, *roles: Role) -> tuple[str, ...]:
        """The names of the entries with these roles, in order; of all without any."""
        return tuple(entry.key for entry in self.entries if not roles or entry.role in roles)

    @property
    def permutation_groups(self) -> tuple[tuple[tuple[str, int], ...], ...]:
        """The axes (name, dimension) that permute together without changing what a network computes, group by group."""
        places: dict[int, list[tuple[str, int]]] = {}
        for entry in self.entries:
            for axis, group in enumerate(entry.groups):
                if group is not None:
                    places.setdefault(group, []).append((entry.key, axis))
        return tuple(tuple(places[group]) for group in sorted(places))

    def with_groups(self, groups: Iterable[Iterable[tuple[str, int]]]) -> Layout:
        """The same layout, with the permutation groups written down; names that it does not have are left out.

        Args:
            groups: For example ``hypergen.trace(model).symmetry().simple_groups``: groups of whole axes. Finer
                symmetries, such as those of attention heads, are told by the symmetry itself.
        """
        of_axis = {place: number for number, group in enumerate(groups) for place in group}
        return replace(
            self,
            entries=tuple(
                replace(entry, groups=tuple(of_axis.get((entry.key, axis)) for axis in range(len(entry.shape))))
                for entry in self.entries
            ),
        )

    @property
    def stored(self) -> tuple[Entry, ...]:
        """The entries that every checkpoint holds itself: all but the frozen ones."""
        return tuple(entry for entry in self.entries if entry.role != "frozen")

    def __getitem__(self, key: str) -> Entry:
        """The entry of a name.

        Raises:
            KeyError: There is none.
        """
        for entry in self.entries:
            if entry.key == key:
                return entry
        raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        return any(entry.key == key for entry in self.entries)

    def check(self, state: Mapping[str, Tensor], batch: tuple[int, ...] = ()) -> None:
        """Complain where tensors do not fit.

        Args:
            state: A tensor per stored entry, each of shape ``[*batch, *entry.shape]``; frozen ones may be there.
            batch: Leading axes that all tensors have in common.

        Raises:
            ParameterError: A tensor is missing, unknown, or of another shape or type; the message names it.
        """
        known = {entry.key for entry in self.entries} | set(self.tied)
        unknown = [key for key in state if key not in known]
        missing = [entry.key for entry in self.stored if entry.key not in state]
        if unknown or missing:
            parts = [
                f"{word}: {', '.join(keys[:5])}" for word, keys in (("missing", missing), ("unknown", unknown)) if keys
            ]
            raise ParameterError(f"The tensors are not those of layout {self.id}: {'; '.join(parts)}.")
        for entry in self.stored:
            value = state[entry.key]
            if tuple(value.shape) != (*batch, *entry.shape) or value.dtype != entry.torch_dtype:
                raise ParameterError(
                    f"{entry.key!r} is {list(value.shape)} {value.dtype}; layout {self.id} expects "
                    f"{[*batch, *entry.shape]} {entry.torch_dtype}."
                )

    def to_json(self) -> dict[str, Any]:
        """What ``layouts/<id>.json`` holds."""
        return {
            "name": self.name,
            "entries": [asdict(entry) for entry in self.entries],
            "tied": dict(self.tied),
            "base": self.base,
            "metadata": dict(self.metadata),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Layout:
        """Read what :meth:`to_json` returned.

        Raises:
            ParameterError: It is something else.
        """
        try:
            entries = tuple(
                Entry(**{**entry, "shape": tuple(entry["shape"]), "groups": tuple(entry.get("groups", ()))})
                for entry in data["entries"]
            )
            layout = cls(entries, dict(data["tied"]), data["base"], data["name"], dict(data["metadata"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ParameterError(f"This is no layout: {type(error).__name__}: {error}.") from error
        for entry in entries:
            if problem := _entry_problem(entry):
                raise ParameterError(f"This is no layout: {str(entry.key)[:200]!r} has {problem}.")
        keys = {entry.key for entry in entries}
        if not entries or len(keys) < len(entries) or not keys >= set(layout.tied.values()):
            raise ParameterError("This is no layout: it has no entries, doubled ones, or ties to entries it lacks.")
        if not isinstance(layout.name, str):
            raise ParameterError("This is no layout: its name is no text.")
        return layout


def _entry_problem(entry: Entry) -> str | None:
    """What is wrong with an entry that was read; None where nothing is."""
    if not isinstance(entry.key, str):
        return "a key that is no text"
    if not all(type(size) is int and size >= 0 for size in entry.shape) or math.prod(entry.shape) > _MOST_VALUES:
        return f"the shape {str(entry.shape)[:200]}"
    if (
        entry.role not in get_args(Role)
        or entry.kind not in get_args(Kind)
        or entry.transform not in get_args(Transform)
    ):
        return f"role {entry.role!r}, kind {entry.kind!r}, transform {entry.transform!r}"
    if not isinstance(entry.dtype, str) or not isinstance(getattr(torch, entry.dtype, None), torch.dtype):
        return f"type {entry.dtype!r}"
    if len(entry.groups) not in (0, len(entry.shape)) or not all(
        group is None or type(group) is int for group in entry.groups
    ):
        return f"the groups {str(entry.groups)[:200]}"
    return None


def digest(tensors: Mapping[str, Tensor]) -> str:
    """The sha256 of the bytes of tensors, one after another in the order of their names."""
    result = hashlib.sha256()
    for key in sorted(tensors):
        result.update(row_bytes(tensors[key].unsqueeze(0)))
    return result.hexdigest()


def row_bytes(stacked: Tensor) -> Any:
    """The bytes of a stack of tensors.

    Args:
        stacked: [n, …] of any type and device.

    Returns:
        An array of uint8 [n, bytes of one].
    """
    flat = stacked.detach().cpu().contiguous().reshape(len(stacked), -1)
    return flat.view(torch.uint8).numpy() if flat.shape[1] else flat.numpy().astype("uint8")


def _entry(key: str, value: Tensor, is_buffer: bool) -> Entry:
    last = key.rpartition(".")[2]
    kind: Kind = next((name for name in _STATISTICS if name == last), "parameter")
    if kind == "parameter" and (is_buffer or not value.is_floating_point()):
        kind = "buffer"
    return Entry(
        key,
        tuple(value.shape),
        str(value.dtype).removeprefix("torch."),
        kind,
        "generate" if value.is_floating_point() and kind != "buffer" else "copy",
        "log" if kind == "running_var" else "none",
    )


def _with_role(entries: list[Entry], patterns: Iterable[str], role: Role) -> list[Entry]:
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    for pattern in patterns:
        if not any(fnmatchcase(entry.key, pattern) for entry in entries):
            raise ParameterError(
                f"{pattern!r} names no tensor of the checkpoint. It has {', '.join(e.key for e in entries[:10])}."
            )
    return [
        replace(entry, role=role) if any(fnmatchcase(entry.key, pattern) for pattern in patterns) else entry
        for entry in entries
    ]
