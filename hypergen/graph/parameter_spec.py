"""The facts about a parameter that a computational graph knows: one record, of which other descriptions are views.

``graph.parameters`` maps every parameter's name to its :class:`ParameterSpec`, tied parameters once, in the order of
registration::

    ParameterSpec(
        name="stem.weight", shape=(16, 3, 3, 3), dtype=torch.float32, operation="conv2d", role="weight", node=1,
        axes=(AxisRole.OUTPUT, AxisRole.INPUT, AxisRole.KERNEL, AxisRole.KERNEL), groups=(),
    )

``graph.parameter_specs(groups=True)`` works out the symmetry, too, and fills in ``groups``. A parameter that no
operation reads has the operation ``"unused"`` and the node -1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

import torch

UNUSED = "unused"
NORMALIZATIONS = frozenset(
    ("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "native_layer_norm", "local_response_norm")
)
TABLES = frozenset(("embedding", "embedding_bag"))


class AxisRole(StrEnum):
    """What an axis of a parameter is for the operation that reads it."""

    OUTPUT = "output"
    """Output features or channels: rows of a linear layer, and its bias."""
    INPUT = "input"
    """Input features or channels, of one group where a convolution is grouped."""
    KERNEL = "kernel"
    """Positions of a kernel."""
    ENTRY = "entry"
    """Entries of a table that is read by index."""
    FEATURE = "feature"
    """Features that are scaled or shifted one by one, and those of a table's entries."""
    OTHER = "other"
    """Nothing that the operation tells."""


@dataclass(frozen=True)
class ParameterSpec:
    """What is known of one parameter.

    Attributes:
        name: Name, as in ``named_parameters()``.
        shape: Shape.
        dtype: Data type; None where the graph was not traced.
        operation: Name of the first operation that reads it; ``"unused"`` where none does.
        role: Role in that operation: the argument's name (``weight``, ``bias``), else the parameter's own last name.
        node: Index of that operation among the graph's nodes; -1 where none reads it.
        axes: Role of every axis.
        groups: For every axis the number of the permutation group that permutes the whole of it, in the order of
            ``symmetry.simple_groups``, or None; empty where the symmetry was not asked for.
        num_blocks: Number of blocks of channels that do not mix: ``groups`` of a convolution.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype | None
    operation: str
    role: str
    node: int
    axes: tuple[AxisRole, ...]
    groups: tuple[int | None, ...] = ()
    num_blocks: int = 1

    @property
    def numel(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    def size(self, role: AxisRole) -> int:
        """Number of indices of all axes of a role; 1 where there is none."""
        return math.prod(size for size, own in zip(self.shape, self.axes, strict=True) if own is role)


def axis_roles(operation: str, role: str, rank: int) -> tuple[AxisRole, ...]:
    """The role of every axis of a parameter.

    Args:
        operation: Name of the operation that reads it.
        role: Role of the parameter in the operation.
        rank: Number of axes of the parameter.
    """
    out, ins = AxisRole.OUTPUT, AxisRole.INPUT
    if operation in NORMALIZATIONS or operation == "prelu":
        return (AxisRole.FEATURE,) * rank
    if operation in TABLES and rank == 2:
        return (AxisRole.ENTRY, AxisRole.FEATURE)
    if operation.startswith("conv") and role == "weight" and rank > 2:
        channels = (ins, out) if "transpose" in operation else (out, ins)
        return (*channels, *[AxisRole.KERNEL] * (rank - 2))
    if operation == "bilinear" and rank == 3:
        return (out, ins, ins)
    if _multiplies(operation):
        if rank == 1:
            return (out,)
        if rank == 2 and "bias" not in role:
            return (ins, out) if operation == "addmm" else (out, ins)
    return (AxisRole.OTHER,) * rank


def _multiplies(operation: str) -> bool:
    named = ("linear", "addmm", "bilinear", "multi_head_attention", "lstm", "gru", "rnn_tanh", "rnn_relu")
    return operation.startswith("conv") or operation.removesuffix("_cell") in named


def with_groups(
    specs: Mapping[str, ParameterSpec], groups: tuple[tuple[tuple[str, int], ...], ...]
) -> dict[str, ParameterSpec]:
    """Specs with the permutation groups of whole axes filled in.

    Args:
        specs: Name → spec.
        groups: The axes (name, dimension) of each group, as ``symmetry.simple_groups``.
    """
    number = {place: index for index, group in enumerate(groups) for place in group}
    return {
        name: replace(spec, groups=tuple(number.get((name, dim)) for dim in range(len(spec.shape))))
        for name, spec in specs.items()
    }
