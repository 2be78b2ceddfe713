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
_ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-6}
# Networks of up to so many parameters are matched in float64.
_ACCURATE = 1_000_000


def match_weights(symmetry: Symmetry, parameters: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> Element:
    """The element that brings parameters near a reference.

    Per group the Hungarian assignment of greatest inner product, in turn until nothing changes; where something varies
    with the group, as channels with their head, every pair of heads is compared after matching the channels in them. It
    starts twice, from the order as it is and from matching each group by the parameters whose other axes are settled,
    and keeps the better. No step goes farther away, but which permutation is nearest of all is not known: that is
    NP-hard for more than one layer.

    Args:
        symmetry: Symmetry of the network.
        parameters: Those to permute.
        reference: Those to come near.

    Returns:
        An element for ``symmetry.apply(parameters, element)``.
    """
    matching = _Matching(symmetry, parameters, reference)
    found = [matching.descend()]
    if len(symmetry.groups) > 1:
        matching.settle()
        found.append(matching.descend())
    return max(found, key=lambda pair: pair[1])[0]


class _Matching:
    """A network that is moved towards a reference, group by group.

    The permuted parameters are kept, so that a group costs the products of its own tensors and one permutation of
    them; a group of which no tensor has moved since it was matched is passed over.
    """

    def __init__(self, symmetry: Symmetry, parameters: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> None:
        self.symmetry = symmetry
        names = {name for uses in symmetry.uses.values() for name, _ in uses}
        self.names = [name for name in symmetry.parameters if name in names]
        large = sum(parameters[name].numel() for name in self.names) > _ACCURATE
        self.dtype = torch.float32 if large else torch.float64
        self.own = {name: parameters[name].detach().to(self.dtype) for name in self.names}
        self.reference = {name: reference[name].detach().to(self.dtype) for name in self.names}
        self.groups_of = {
            name: {group.name for axis in symmetry.axes[name] for group in leaves(axis) if not group.fixed}
            for name in self.names
        }
        self.touched = {
            group.name: [name for name in self.names if group.name in self.groups_of[name]] for group in symmetry.groups
        }
        norms = [float(self.own[name].norm() * self.reference[name].norm()) for name in self.names]
        self.rounding = _ROUNDING[self.dtype] * sum(norms)
        self.element, self.current = symmetry.identity(), dict(self.own)

    def _similarity(self, tensors: Mapping[str, Tensor]) -> float:
        """The inner product with the reference."""
        return sum(float((tensor * self.reference[name]).sum()) for name, tensor in tensors.items())

    def _move(self, group: Group, step: Element, moved: Mapping[str, Tensor] | None = None) -> None:
        names = self.touched[group.name]
        if moved is None:
            moved = self.symmetry.apply({name: self.current[name] for name in names}, step)
        self.current.update(moved)
        self.element = self.symmetry.compose(self.element, step)

    def settle(self) -> None:
        """From the identity, match each group once, by the parameters that no group that comes later touches."""
        self.element, self.current = self.symmetry.identity(), dict(self.own)
        tops = [group for group in self.symmetry.groups if not group.parents]
        for number, group in enumerate(tops):
            later = {name for other in tops[number + 1 :] for name in (other.name, *self._inner(other))}
            used = [name for name in self.names if not self.groups_of[name] & later]
            self._move(group, self._matched(group, used or self.names)[0])
            for inner in self.symmetry.groups:
                if group in inner.parents:
                    self._move(inner, self._matched(inner, used or self.names)[0])

    def descend(self) -> tuple[Element, float]:
        """Match every group in turn until nothing comes nearer; the element, and the inner product that it reaches."""
        current: set[str] = set()  # groups that are matched as their tensors stand
        for _ in range(_SWEEPS):
            changed = False
            for group in self.symmetry.groups:
                if group.name in current:
                    continue
                names = self.touched[group.name]
                step, gain = self._matched(group, names)
                moved = None
                if gain is None:
                    before = {name: self.current[name] for name in names}
                    moved = self.symmetry.apply(before, step)
                    gain = self._similarity(moved) - self._similarity(before)
                    current.discard(group.name)
                else:
                    current.add(group.name)
                if gain > self.rounding:
                    self._move(group, step, moved)
                    current -= {other for name in names for other in self.groups_of[name]} - {group.name}
                    changed = True
                else:
                    current.add(group.name)
            if not changed:
                break
        return self.element, self._similarity(self.current)

    def _inner(self, group: Group) -> list[str]:
        return [other.name for other in self.symmetry.groups if group in other.parents]

    def _matched(self, group: Group, names: Collection[str]) -> tuple[Element, float | None]:
        """The best step for a group and what varies with it alone, and what it gains; None where that is not linear."""
        inner = [other for other in self.symmetry.groups if other.parents == (*group.parents, group)]
        names = [name for name in names if group.name in self.groups_of[name]]
        rows = {other.name: self._rows(other, names) for other in inner if not group.parents}
        covered = {name for found in rows.values() for name, _ in found}
        scores = torch.zeros(*group.shape, group.size, dtype=self.dtype)  # [*parents, place, unit]
        whole = self._rows(group, [name for name in names if name not in covered])
        for own, other in whole.values():
            scores += own @ other.mT
        assigned = {}
        for within in inner if not group.parents else ():
            # Every pair of indices is compared at its best, after matching the units within them.
            pairs = torch.zeros(group.size, group.size, within.size, within.size, dtype=self.dtype)
            for own, other in rows[within.name].values():
                pairs += torch.einsum("pif,qjf->pqij", own, other)
            best = _assign(pairs.flatten(0, 1)).view(group.size, group.size, within.size)
            assigned[within.name] = best
            scores += pairs.gather(-1, best.unsqueeze(-1)).sum((-1, -2))
        step = self.symmetry.identity()
        order = _assign(scores.reshape(-1, group.size, group.size)).view(group.shape)
        step[group.name] = order
        for name, within_order in assigned.items():
            step[name] = within_order[torch.arange(group.size), order]
        if assigned or len({name for name, _ in whole}) < len(whole):
            return step, None
        gained = scores.gather(-1, order.unsqueeze(-1)).squeeze(-1) - scores.diagonal(dim1=-2, dim2=-1)
        return step, float(gained.sum())

    def _rows(self, group: Group, names: Collection[str]) -> dict[tuple[str, int], tuple[Tensor, Tensor]]:
        """Reference and current parameters as a row of values for each unit: ``[*group.shape, values]``."""
        found = {}
        for name in names:
            shape, units = units_of(self.symmetry, name)
            for number, (other, numbers) in enumerate(units):
                if other is group:
                    pair = [_by_unit(values[name].reshape(shape), numbers) for values in (self.reference, self.current)]
                    found[name, number] = tuple(value.unflatten(0, group.shape) for value in pair)
        return found  # type: ignore[return-value]


def _by_unit(values: Tensor, numbers: Tensor) -> Tensor:
    """The values of each unit in a row: ``[units, values]``."""
    varying = [dim for dim, size in enumerate(numbers.shape) if size > 1]
    front = values.movedim(varying, list(range(len(varying)))).flatten(0, len(varying) - 1) if varying else values[None]
    if len(varying) == 1 and torch.equal(numbers.flatten(), torch.arange(numbers.numel())):
        return front.reshape(len(front), -1)
    flat = numbers.flatten()
    places = flat.argsort(stable=True)[int((flat < 0).sum()) :]
    units = int(flat.max()) + 1
    return front[places].reshape(units, -1)


def _assign(scores: Tensor) -> Tensor:
    """The assignment of the greatest sum for each matrix: ``[matrices, units, units]`` to ``[matrices, units]``.

    Where the most similar units are all different, they are the answer: near networks need no solver.
    """
    order = scores.argmax(2)
    units = torch.arange(order.shape[1])
    for number in (order.sort(1).values != units).any(1).nonzero().flatten().tolist():
        order[number] = torch.from_numpy(linear_sum_assignment(scores[number].numpy(), maximize=True)[1])
    return order
