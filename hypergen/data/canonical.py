"""One order of the hidden units for all networks of a layout, so that their weights can be learnt and averaged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hypergen.errors import TraceError
from hypergen.graph import trace
from hypergen.symmetry import Symmetry
from hypergen.symmetry.align.matching import match_weights
from hypergen.symmetry.align.stacked import PermutationGroup, align

_ROUNDS = 2
# Networks of one initialisation correspond as they are: matching them anew brings them little nearer, and may harm.
_WORTHWHILE = 0.95


@dataclass(frozen=True)
class CanonicalOrder:
    """Weight matching of networks to one reference, after Ainsworth et al., *Git Re-Basin*, 2022 (arXiv 2209.04836).

    Args:
        symmetry: Permutation symmetry of the networks.
        reference: The network that others are matched to, ``[1, *shape]`` by name.
        before: Median distance of the networks to their mean as they were.
        after: The same after matching.
    """

    symmetry: Symmetry
    reference: dict[str, Tensor]
    before: float
    after: float

    @classmethod
    def of(cls, model: nn.Module, networks: Mapping[str, Tensor], example_inputs: Any = None) -> CanonicalOrder | None:
        """Match networks to the first of them, then to the mean of those that were matched.

        Args:
            model: One of the networks.
            networks: ``[networks, *shape]`` by name.
            example_inputs: What they are called with.

        Returns:
            The order; None where the networks cannot be traced, or have nothing to permute.
        """
        try:
            symmetry = trace(model, example_inputs).symmetry()
        except TraceError:
            return None
        permuted = {name for places in symmetry.uses.values() for name, _ in places if name in symmetry.parameters}
        if len(next(iter(networks.values()))) < 2 or not permuted or not permuted <= set(networks):
            return None
        before = _spread(networks)
        order = cls(symmetry, {name: value[:1] for name, value in networks.items()}, before, before)
        for _ in range(_ROUNDS + 1):
            matched = order.apply(networks)
            mean = {name: value.mean(0, keepdim=True) for name, value in matched.items()}
            order = cls(symmetry, mean, before, _spread(matched))
        return order

    @property
    def worthwhile(self) -> bool:
        """Whether matching brings the networks clearly nearer to one another."""
        return self.after < _WORTHWHILE * self.before

    @property
    def groups(self) -> tuple[PermutationGroup, ...]:
        """The groups of whole axes, of parameters alone."""
        return parameter_groups(self.symmetry, self.reference)

    def apply(self, networks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Permute hidden units of networks; what each computes stays the same.

        Args:
            networks: ``[networks, *shape]`` by name.
        """
        if len(self.symmetry.simple_groups) == len(self.symmetry.groups):
            return align(networks, self.reference, self.groups)
        # Heads with the channels in them, and the like: one network at a time.
        reference = {name: value[0] for name, value in self.reference.items()}
        matched = []
        for number in range(len(next(iter(networks.values())))):
            own = {name: value[number] for name, value in networks.items()}
            matched.append(self.symmetry.apply(own, match_weights(self.symmetry, own, reference)))
        return {name: torch.stack([each[name] for each in matched]) for name in networks}


def parameter_groups(symmetry: Symmetry, names: Mapping[str, Any]) -> tuple[PermutationGroup, ...]:
    """The groups of whole axes of some parameters; running statistics, which follow them, are left out."""
    return tuple(
        tuple((name, axis) for name, axis in group if name in names)
        for group in symmetry.simple_groups
        if any(name in names for name, _ in group)
    )


def _spread(networks: Mapping[str, Tensor]) -> float:
    squares = sum((value - value.mean(0)).flatten(1).square().sum(1) for value in networks.values())
    assert isinstance(squares, Tensor)
    return float(squares.sqrt().median())
