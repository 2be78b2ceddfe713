"""The permutation symmetries of a network, and the elements of their group."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from hypergen.errors import ParameterError, TraceError, UnknownNameError
from hypergen.graph.calls import Calls, Value
from hypergen.symmetry.incidence import Incidence, incidence
from hypergen.symmetry.liveness import unread_modules
from hypergen.symmetry.resolve import resolve
from hypergen.symmetry.solver import UNSUPPORTED, Solver
from hypergen.symmetry.structure import Group, Structure, index, leaves

# Group name → [*parents, size], int64: the place from which each index takes its value.
Element = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Symmetry:
    """The permutations of a network's parameters that leave its function as it is.

    They are a direct product of wreath products: every group permutes its indices, wherever they occur, and a group
    with parents does so in another way for every index of its parents (the channels within a head, per head).

    Attributes:
        axes: Name of a parameter or buffer → what each of its axes is made of.
        groups: What is permuted.
        parameters: The names in ``axes`` that are parameters; the others are buffers that follow, as the running
            statistics of batch norms.
        unsupported: What keeps axes as they are without need: operations without a rule, by name, and parts of the
            network that the traced passes did not read, as "head (not read in the traced pass)".
    """

    axes: Mapping[str, tuple[Structure, ...]]
    groups: tuple[Group, ...]
    parameters: tuple[str, ...]
    unsupported: tuple[str, ...]

    @cached_property
    def frozen(self) -> Mapping[str, tuple[str, ...]]:
        """Name → for each axis why nothing of it may be permuted; empty where something may."""
        return {name: tuple(_reason(axis) for axis in axes) for name, axes in self.axes.items()}

    @cached_property
    def uses(self) -> Mapping[str, tuple[tuple[str, int], ...]]:
        """Group name → the axes (name, dim) that it permutes or takes part in permuting."""
        found: dict[str, list[tuple[str, int]]] = {group.name: [] for group in self.groups}
        for name, axes in self.axes.items():
            for dim, axis in enumerate(axes):
                for group in dict.fromkeys(leaves(axis)):
                    if group.name in found and not group.fixed:
                        found[group.name].append((name, dim))
        return {name: tuple(places) for name, places in found.items()}

    @cached_property
    def _incidences(self) -> dict[str, Incidence]:
        return {}

    def incidence(self, name: str) -> Incidence:
        """Which groups lie along the axes of a parameter or buffer, and where; worked out once."""
        if name not in self._incidences:
            self._incidences[name] = incidence(self.axes[name])
        return self._incidences[name]

    @property
    def simple_groups(self) -> tuple[tuple[tuple[str, int], ...], ...]:
        """The axes of each group that takes up whole axes and has no parents, as weight matching needs them."""
        whole = [group for group in self.groups if not group.parents]
        return tuple(
            self.uses[group.name]
            for group in whole
            if all(self.axes[name][dim] is group for name, dim in self.uses[group.name])
        )

    def order_log(self) -> float:
        """Natural logarithm of the number of elements."""
        return sum(math.prod(group.shape[:-1]) * math.lgamma(group.size + 1) for group in self.groups)

    def identity(self) -> Element:
        """The element that changes nothing."""
        return {group.name: torch.arange(group.size).expand(group.shape).clone() for group in self.groups}

    def sample(self, generator: torch.Generator | None = None) -> Element:
        """A random element, every one equally likely."""
        return {
            group.name: torch.rand(group.shape, generator=generator, dtype=torch.float64).argsort(-1)
            for group in self.groups
        }

    def compose(self, first: Element, second: Element) -> Element:
        """The element that does ``first``, then ``second``."""
        self._check(first)
        self._check(second)
        result = {}
        for group in self.groups:
            # The parents have already been moved when the second element looks at them.
            moved = first[group.name][self._parent_places(group, second)]
            result[group.name] = moved.gather(-1, second[group.name])
        return result

    def inverse(self, element: Element) -> Element:
        """The element that undoes another one."""
        self._check(element)
        result = {}
        for group in self.groups:
            inverse = element[group.name].argsort(-1)
            result[group.name] = torch.empty_like(inverse)
            result[group.name][self._parent_places(group, element)] = inverse
        return result

    def _parent_places(self, group: Group, element: Element) -> tuple[Tensor, ...]:
        """Where the indices of a group's parents come from, broadcastable over the parents."""
        count = len(group.parents)
        if not count:
            return ()
        places: list[Tensor] = []
        grid = [
            torch.arange(p.size).reshape([-1 if i == j else 1 for j in range(count)])
            for i, p in enumerate(group.parents)
        ]
        for parent, place in zip(group.parents, grid, strict=True):
            if parent.fixed:
                places.append(place)
            else:
                above = [grid[group.parents.index(p)] for p in parent.parents]
                places.append(element[parent.name][(*above, place)])
        return tuple(torch.broadcast_tensors(*places))

    def index(self, name: str, element: Element) -> list[Tensor]:
        """Where the elements of a permuted parameter or buffer come from.

        Args:
            name: The parameter or buffer.
            element: An element of the group.

        Returns:
            An index per axis, broadcastable over the shape: ``permuted = tensor[*index]``.
        """
        return index(self.axes[name], element)

    def apply(
        self, tensors: Mapping[str, Tensor], element: Element, kept: Mapping[str, Sequence[Tensor]] | None = None
    ) -> dict[str, Tensor]:
        """Permute parameters and buffers; differentiable, and exact: values are moved, not computed.

        Args:
            tensors: By name; further leading axes are batches. Names that the network does not have, as those of
                buffers that do not follow, are handed on unchanged.
            element: An element of the group.
            kept: Name → for each axis the places of the permuted tensor that are wanted, bool, ``[size]``: only those
                are read. None, and names that are missing, for all.

        Returns:
            The same names with permuted tensors.

        Raises:
            ParameterError: A tensor has another shape, or the element is not one of this group.
        """
        self._check(element)
        kept = kept or {}
        return {name: self._permuted(name, tensor, element, kept.get(name)) for name, tensor in tensors.items()}

    def _permuted(self, name: str, tensor: Tensor, element: Element, kept: Sequence[Tensor] | None = None) -> Tensor:
        axes = self.axes.get(name)
        if axes is None or all(group.fixed for axis in axes for group in leaves(axis)):
            return tensor
        shape = tuple(axis.size for axis in axes)
        if tuple(tensor.shape[tensor.dim() - len(axes) :]) != shape:
            raise ParameterError(f"{name!r} has shape {tuple(tensor.shape)}; its symmetry was found for {shape}.")
        places = self.index(name, element)
        across = any(sum(size > 1 for size in place.shape) > 1 for place in places)
        for dim, mask in enumerate(kept or ()):
            if not mask.all():
                wanted = mask.nonzero().flatten()
                places = [p.index_select(dim, wanted) if p.shape[dim] > 1 else p for p in places]
        places = [place.to(tensor.device) for place in places]
        if across:
            where: tuple[Any, ...] = (..., *places)
            return tensor[where]
        for dim, (axis, place) in enumerate(zip(axes, places, strict=True), tensor.dim() - len(axes)):
            flat = place.flatten()
            still = kept is not None and torch.equal(flat, torch.arange(axis.size, device=flat.device))
            if not still and not all(group.fixed for group in leaves(axis)):
                tensor = tensor.index_select(dim, flat)
        return tensor

    def _check(self, element: Element) -> None:
        for group in self.groups:
            if group.name not in element or tuple(element[group.name].shape) != group.shape:
                raise ParameterError(
                    f"The element has no permutation of shape {group.shape} for {group.name!r}; use sample() or "
                    "identity() of this symmetry."
                )

    def __repr__(self) -> str:
        """Summarise in one line."""
        free = sum(not all(reasons) for reasons in self.frozen.values())
        return (
            f"Symmetry({len(self.groups)} groups, 10^{self.order_log() / math.log(10):.0f} elements, "
            f"{free} of {len(self.axes)} tensors permuted, unsupported: {', '.join(self.unsupported) or 'none'})"
        )

    def table(self) -> str:
        """The groups and the axes of every tensor, a line each."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        for group in self.groups:
            parents = (
                f" for each index of {', '.join(parent.name for parent in group.parents)}" if group.parents else ""
            )
            yield f"{group.name}: {group.size}{parents}"
        for name, axes in self.axes.items():
            yield f"{name}: [{', '.join(map(str, axes))}]"


def find_symmetry(passes: Sequence[Calls], outputs: Sequence[str] | None = None) -> Symmetry:
    """The symmetry of a network whose calls were recorded.

    Args:
        passes: The records: of a pass in evaluation mode, and of others that the permutations have to leave unchanged.
        outputs: Names of the returned tensors that count; None for all.

    Raises:
        UnknownNameError: The network returns nothing of that name.
        TraceError: The network's axes are too deeply nested.
    """
    return read_symmetry(passes, outputs, values=False)[0]


def read_symmetry(
    passes: Sequence[Calls], outputs: Sequence[str] | None = None, values: bool = True
) -> tuple[Symmetry, dict[Value, tuple[Structure, ...]]]:
    """The symmetry of a network, and what the axes of all tensors of its first pass are made of, where wanted."""
    calls = passes[0]
    for name in outputs or ():
        if name not in calls.outputs:
            raise UnknownNameError("output", name, calls.outputs)
    solver = Solver(passes, outputs)
    try:
        solver.solve()
        named = {name: solver.named[name] for name in (*calls.parameters, *calls.buffers)}
        axes, inner = resolve(solver.carriers, named, solver.first_axes if values else None)
    except RecursionError as error:
        raise TraceError(
            "No symmetry: the axes of this network are cut and rearranged so often that what they are made of is "
            "nested too deeply to be followed. Please report the network."
        ) from error
    found = dict.fromkeys(group for structures in axes.values() for axis in structures for group in leaves(axis))
    groups = tuple(group for group in found if not group.fixed and group.size > 1)
    lost = [group.fixed.removeprefix(UNSUPPORTED) for group in found if group.fixed.startswith(UNSUPPORTED)]
    unread = unread_modules(calls.parameters, solver.read)
    kept = {name: axes[name] for name in named if name in calls.parameters or _follows(axes[name])}
    return Symmetry(kept, groups, tuple(calls.parameters), tuple(dict.fromkeys((*lost, *unread)))), inner


def _follows(axes: tuple[Structure, ...]) -> bool:
    return any(not group.fixed for axis in axes for group in leaves(axis))


def _reason(axis: Structure) -> str:
    reasons = [group.fixed for group in leaves(axis)]
    return reasons[0] if reasons and all(reasons) else ""
