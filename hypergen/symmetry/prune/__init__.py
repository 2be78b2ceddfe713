"""Structured pruning through the permutation groups of a network."""

from typing import TYPE_CHECKING

from hypergen._lazy import lazy_exports

if TYPE_CHECKING:
    from hypergen.symmetry.prune.allocate import allocate, schedule
    from hypergen.symmetry.prune.importance import (
        activation,
        geometric_median,
        lamp,
        magnitude,
        most_important,
        random,
        second_order,
        taylor,
    )
    from hypergen.symmetry.prune.pruned import Pruned
    from hypergen.symmetry.prune.pruner import Pruner

__getattr__, __dir__, __all__ = lazy_exports(__name__)
