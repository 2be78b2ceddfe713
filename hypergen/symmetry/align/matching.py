"""Weight matching: the permutation of a network that brings it nearest to another one, for every group of its symmetry.

Ainsworth et al., *Git Re-Basin: Merging Models modulo Permutation Symmetries*, 2022 (arXiv 2209.04836), for all groups
that ``graph.symmetry()`` finds: channels before a flattening, heads with the channels in them, groups of convolutions.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from hypergen.symmetry.structure import Group, leaves
from hypergen.symmetry.symmetry import Element, Symmetry
from hypergen.symmetry.units import units_of

_SWEEPS = 20
# What a sum may lose to rounding, relative to the norms of what is multiplied.
_ROUNDING = 1e-12


def match_weights(symmetry: Symmetry, parameters: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> Element:
    """The element that brings parameters near a reference.

    Per group the Hungarian assignment of greatest inner product, in turn until nothing changes; where something varies
    with the group, as channels with their head, every pair of heads is compared after matching the channels in them. It
    starts twice, from the order as it is and from matching each group by the parameters whose other axes are settled,
    and keeps the better. No step goes farther away, but which permutation is nearest of all is not known: that is
    NP-hard for more than one layer.

    Args:
        symmetry: Of the network.
        parameters: Those to permute.
        reference: Those to come near.

    Returns:
        An element for ``symmetry.apply(parameters, element)``.
    """
    matching = _Matching(symmetry, parameters, reference)
    starts = [symmetry.identity()] + ([matching.settled()] if len(symmetry.groups) > 1 else [])
    return max((matching.descend(start) for start in starts), key=matching.similarity)


class _Matching:
    def __init__(self, symmetry: Symmetry, parameters: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> None:
        self.symmetry = symmetry
        names = {name for uses in symmetry.uses.values() for name, _ in uses}
        self.names = [name for name in symmetry.parameters if name in names]
        self.own = {name: parameters[name].detach().double() for name in self.names}
        self.reference = {name: reference[name].detach().double() for name in self.names}
        self.groups_of = {
            name: {group.name for axis in symmetry.axes[name] for group in leaves(axis) if not group.fixed}
            for name in self.names
        }
        norms = [float(self.own[name].norm() * self.reference[name].norm()) for name in self.names]
        self.rounding = _ROUNDING * sum(norms)

    def similarity(self, element: Element, names: Collection[str] | None = None) -> float:
        """The inner product of permuted parameters with the reference."""
        chosen = self.names if names is None else names
        moved = self.symmetry.apply({name: self.own[name] for name in chosen}, element)
        return sum(float((moved[name] * self.reference[name]).sum()) for name in chosen)

    def settled(self) -> Element:
        """Match each group once, by the parameters that no group that comes later touches."""
        element = self.symmetry.identity()
        tops = [group for group in self.symmetry.groups if not group.parents]
        for number, group in enumerate(tops):
            later = {name for other in tops[number + 1 :] for name in (other.name, *self._inner(other))}
            used = [name for name in self.names if not self.groups_of[name] & later]
            element = self._matched(element, group, used or self.names)
            for inner in self.symmetry.groups:
                if group in inner.parents:
                    element = self._matched(element, inner, used or self.names)
        return element

    def descend(self, element: Element) -> Element:
        """Match every group in turn until nothing comes nearer."""
        for _ in range(_SWEEPS):
            changed = False
            for group in self.symmetry.groups:
                touched = [name for name in self.names if group.name in self.groups_of[name]]
                moved = self._matched(element, group, touched)
                if self.similarity(moved, touched) > self.similarity(element, touched) + self.rounding:
                    element, changed = moved, True
            if not changed:
                break
        return element

    def _inner(self, group: Group) -> list[str]:
        return [other.name for other in self.symmetry.groups if group in other.parents]

    def _matched(self, element: Element, group: Group, names: Collection[str]) -> Element:
        """Permute a group, and what varies with it alone."""
        inner = [other for other in self.symmetry.groups if other.parents == (*group.parents, group)]
        names = [name for name in names if group.name in self.groups_of[name]]
        current = self.symmetry.apply({name: self.own[name] for name in names}, element)
        rows = {other.name: self._rows(current, other, names) for other in inner if not group.parents}
        covered = {name for found in rows.values() for name, _ in found}
        scores = torch.zeros(*group.shape, group.size, dtype=torch.float64)  # [*parents, place, unit]
        for own, other in self._rows(current, group, [name for name in names if name not in covered]).values():
            scores += own @ other.mT
        assigned = {}
        for within in inner if not group.parents else ():
            # Every pair of indices is compared at its best, after matching the units within them.
            pairs = torch.zeros(group.size, group.size, within.size, within.size, dtype=torch.float64)
            for own, other in rows[within.name].values():
                pairs += torch.einsum("pif,qjf->pqij", own, other)
            order = _assign(pairs.flatten(0, 1)).view(group.size, group.size, within.size)
            assigned[within.name] = order
            scores += pairs.gather(-1, order.unsqueeze(-1)).sum((-1, -2))
        step = self.symmetry.identity()
        step[group.name] = _assign(scores.reshape(-1, group.size, group.size)).view(group.shape)
        for name, order in assigned.items():
            step[name] = order[torch.arange(group.size), step[group.name]]
        return self.symmetry.compose(element, step)

    def _rows(
        self, current: Mapping[str, Tensor], group: Group, names: Collection[str]
    ) -> dict[tuple[str, int], tuple[Tensor, Tensor]]:
        """Reference and current parameters as a row of values for each unit: ``[*group.shape, values]``."""
        found = {}
        for name in names:
            shape, units = units_of(self.symmetry, name)
            for number, (other, numbers) in enumerate(units):
                if other is group:
                    pair = [_by_unit(values[name].reshape(shape), numbers) for values in (self.reference, current)]
                    found[name, number] = tuple(value.unflatten(0, group.shape) for value in pair)
        return found  # type: ignore[return-value]


def _by_unit(values: Tensor, numbers: Tensor) -> Tensor:
    """The values of each unit in a row: ``[units, values]``."""
    varying = [dim for dim, size in enumerate(numbers.shape) if size > 1]
    front = values.movedim(varying, list(range(len(varying)))).flatten(0, len(varying) - 1) if varying else values[None]
    flat = numbers.flatten()
    places = flat.argsort(stable=True)[int((flat < 0).sum()) :]
    units = int(flat.max()) + 1
    return front[places].reshape(units, -1)


def _assign(scores: Tensor) -> Tensor:
    """The assignment of the greatest sum for each matrix: ``[matrices, units, units]`` to ``[matrices, units]``."""
    orders = [torch.from_numpy(linear_sum_assignment(matrix.numpy(), maximize=True)[1]) for matrix in scores.cpu()]
    return torch.stack(orders)
