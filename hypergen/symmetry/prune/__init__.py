"""Structured pruning through the permutation groups of a network."""

from typing import TYPE_CHECKING

from hypergen._lazy import lazy_exports

if TYPE_CHECKING:
    from hypergen.symmetry.prune.importance import allocate, magnitude, most_important, random, taylor
    from hypergen.symmetry.prune.pruner import Pruned, Pruner

__getattr__, __dir__, __all__ = lazy_exports(__name__)
