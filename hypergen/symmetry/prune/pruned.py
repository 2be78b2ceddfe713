"""What pruning gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn


@dataclass(frozen=True)
class Pruned:
    """A network without some of its units.

    Attributes:
        model: The smaller network, with values of its own.
        removed: Group name → how many of its units are gone, for each index of its parents.
        left: Group name → why it was to be pruned and was not.
        changed_norms: Norms that average over the units that are left, where they averaged over all: the smaller
            network computes what the whole one does with them at zero but for these. Empty with ``norms="exact"``.
        integers: Attribute of a module → its old and its new value.
    """

    model: nn.Module
    removed: Mapping[str, int] = field(default_factory=dict)
    left: Mapping[str, str] = field(default_factory=dict)
    changed_norms: tuple[str, ...] = ()
    integers: Mapping[str, tuple[int, int]] = field(default_factory=dict)
