"""Structured pruning: units of a network are taken out, and what is left runs by itself at a lower cost."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hypergen.errors import ParameterError, UnknownNameError
from hypergen.functional.batches import evaluation_mode
from hypergen.graph import trace
from hypergen.graph.inputs import example_arguments
from hypergen.graph.tracing.inventory import take_inventory
from hypergen.graph.tracing.tensors import map_tensors
from hypergen.symmetry.prune.module_sizes import resize_modules
from hypergen.symmetry.structure import Choice, Group, Product, Structure, Sum
from hypergen.symmetry.symmetry import Element, Symmetry
from hypergen.symmetry.units import gate_units
from hypergen.symmetry.verify import Verification

_TOLERANCE = 1e-9  # of outputs in float64, relative to the largest


@dataclass(frozen=True)
class Pruned:
    """A network without some of its units.

    Attributes:
        model: The smaller network, with values of its own.
        removed: Group name → how many of its units are gone, for each index of its parents.
        left: Group name → why it was to be pruned and was not.
    """

    model: nn.Module
    removed: Mapping[str, int] = field(default_factory=dict)
    left: Mapping[str, str] = field(default_factory=dict)


class Pruner:
    """Takes units out of a network: what can be removed together is what can be permuted together.

    A group of ``graph.symmetry()`` can be pruned in this network if the smaller module computes what the network with
    those units set to zero computes. That is tried for each, with random parameters in float64, and holds for channels
    of convolutions with their batch norms, hidden units, and heads; not where a size is written into the forward pass,
    nor where a layer norm or a mean runs over the units.

    Args:
        model: The network, which is not changed; its buffers may not be on the meta device.
        example_inputs: As for :func:`hypergen.trace`.
        symmetry: Of the network, where it is known or shall be that of some outputs.

    Attributes:
        symmetry: Of the network.
        groups: Those that can be pruned.
        left: Name of each other group → why it cannot.
    """

    def __init__(self, model: nn.Module, example_inputs: Any = None, symmetry: Symmetry | None = None) -> None:
        self.model, self.example_inputs = model, example_inputs
        self.symmetry = trace(model, example_inputs).symmetry() if symmetry is None else symmetry
        self._trial = Verification(model, example_inputs)
        self.left: dict[str, str] = {}
        self.groups = self._prunable([group for group in self.symmetry.groups if self._has_sizes(group)])
        self._on_meta = copy.deepcopy(model).to("meta")
        _, self._eager = self._attempt(half_of(self.groups))

    def _has_sizes(self, group: Group) -> bool:
        """Whether parameters have shapes without half of a group, which takes no run of the network to tell."""
        try:
            self._masks(half_of([group]))
        except ParameterError as error:
            self.left[group.name] = str(error)
            return False
        return True

    def _prunable(self, groups: list[Group]) -> tuple[Group, ...]:
        """The groups that can be pruned together; notes why others cannot."""
        if not groups:
            return ()
        reason, _ = self._attempt(half_of(groups))
        if not reason:
            return tuple(groups)
        if len(groups) == 1:
            self.left[groups[0].name] = reason
            return ()
        middle = len(groups) // 2
        halves = [list(self._prunable(part)) for part in (groups[:middle], groups[middle:])]
        both = [*halves[0], *halves[1]]
        if len(both) < len(groups):
            return self._prunable(both)
        together = halves[0]  # Each half can be pruned, but not both at once.
        for group in halves[1]:
            reason, _ = self._attempt(half_of([*together, group]))
            if reason:
                self.left[group.name] = reason
            else:
                together.append(group)
        return tuple(together)

    def prune(self, keep: Mapping[str, Tensor]) -> Pruned:
        """Take units out.

        Args:
            keep: Group name → the places of the units that stay, ``[*parents, count]``, int64, in any order; groups
                that are not named stay whole.

        Returns:
            A copy of the network with smaller parameters, buffers and attributes, and what was left as it is. It was
            checked, with random parameters in float64, to compute what the network computes with those units at zero.

        Raises:
            UnknownNameError: There is no group of a name.
            ParameterError: Places are no places of a group's units, repeat, or are none.
        """
        self._check(keep)
        left = {name: self.left[name] for name in keep if name in self.left}
        chosen = {name: places for name, places in keep.items() if name not in left}
        objection, eager = self._attempt(chosen)
        if objection:
            return Pruned(copy.deepcopy(self.model), {}, {**left, **dict.fromkeys(chosen, objection)})
        module = self._smaller(self.model, chosen, eager)
        sizes = {group.name: group.size for group in self.symmetry.groups}
        return Pruned(module, {name: sizes[name] - places.shape[-1] for name, places in chosen.items()}, left)

    def flops(self, keep: Mapping[str, Tensor] | None = None) -> int:
        """Floating-point operations of matrix products and convolutions in one pass over the example inputs.

        Args:
            keep: Those of the network with these units alone, as for :meth:`prune`; None for all of it.
        """
        chosen = {name: places for name, places in (keep or {}).items() if name not in self.left}
        small = self._smaller(self._on_meta, chosen, self._eager)
        args, kwargs = map_tensors(example_arguments(self.model, self.example_inputs), lambda tensor: tensor.to("meta"))
        with FlopCounterMode(display=False) as counter, evaluation_mode(small):
            small(*args, **kwargs)
        return int(counter.get_total_flops())

    def slice(self, tensors: Mapping[str, Tensor], keep: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What is left of parameters and buffers; further leading axes are batches, names of no group stay whole."""
        moved = self.symmetry.apply(tensors, self._kept_first(keep))
        kept = self._masks(keep)
        result = {}
        for name, tensor in moved.items():
            for dim, mask in enumerate(kept.get(name, ()), tensor.dim() - len(kept.get(name, ()))):
                if not mask.all():
                    tensor = tensor.index_select(dim, mask.nonzero().flatten().to(tensor.device))
            result[name] = tensor
        return result

    def zeroed(self, tensors: Mapping[str, Tensor], keep: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Parameters and buffers of full size in which every value of a removed unit is zero."""
        gates = {}
        for group in self.symmetry.groups:
            if group.name in keep:
                gates[group.name] = torch.zeros(group.shape).scatter(-1, keep[group.name].cpu(), 1.0)
        return gate_units(self.symmetry, tensors, gates)

    def _attempt(self, keep: Mapping[str, Tensor]) -> tuple[str, bool]:
        """Why these units cannot be taken out, empty where they can; and whether that takes eager attributes."""
        trial = self._trial
        expected = trial.run(self.zeroed(trial.tensors, keep))
        reason = ""
        for eager in (False, True):
            small = self._smaller(trial.model, keep, eager)
            try:
                outputs = trial.run(self.slice(trial.tensors, keep), small)
            except Exception as error:  # a size that is written into the forward pass may fail in any way
                reason = reason or f"the smaller network does not run: {type(error).__name__}: {error}"
                continue
            difference = max((_difference(outputs[name], expected[name]) for name in expected), default=0.0)
            if difference <= _TOLERANCE:
                return "", eager
            reason = reason or f"the network without these units is not the one with them at zero ({difference:.1e})"
        return reason, False

    def _smaller(self, model: nn.Module, keep: Mapping[str, Tensor], eager: bool) -> nn.Module:
        """A copy of a network with smaller tensors and attributes."""
        kept, tensors = self._masks(keep), _tensors(model)
        sliced = self.slice({name: tensors[name].detach() for name in kept if name in tensors}, keep)
        module = copy.deepcopy(model)
        _replace(module, {name: value.clone() for name, value in sliced.items()}, take_inventory(module).tied)
        counts = {name: places.shape[-1] for name, places in keep.items()}
        resize_modules(module, kept, self.symmetry.axes, counts, eager)
        return module

    def _masks(self, keep: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, ...]]:
        """For the tensors that change, which indices of each axis are left once kept units come first."""
        counts = {name: places.shape[-1] for name, places in keep.items()}
        masks = {name: tuple(_first(axis, counts, name) for axis in axes) for name, axes in self.symmetry.axes.items()}
        return {name: own for name, own in masks.items() if not all(mask.all() for mask in own)}

    def _kept_first(self, keep: Mapping[str, Tensor]) -> Element:
        """The permutation that brings the units that stay to the front, in their order."""
        still = self.symmetry.identity()
        orders = {}
        for name, places in keep.items():
            stays = torch.zeros_like(still[name]).scatter(-1, places.cpu(), 1)
            orders[name] = stays.argsort(dim=-1, descending=True, stable=True)
        element = still
        # Places are told by where the parents are now, so what varies with others moves before them.
        for depth in sorted({len(group.parents) for group in self.symmetry.groups}, reverse=True):
            level = {group.name for group in self.symmetry.groups if len(group.parents) == depth}
            moved = {name: order for name, order in orders.items() if name in level}
            element = self.symmetry.compose(element, {**still, **moved})
        return element

    def _check(self, keep: Mapping[str, Tensor]) -> None:
        groups = {group.name: group for group in self.symmetry.groups}
        for name, places in keep.items():
            if name not in groups:
                raise UnknownNameError("group of units", name, groups)
            shape, size = groups[name].shape, groups[name].size
            fits = places.dtype == torch.int64 and places.shape[:-1] == shape[:-1] and 0 < places.shape[-1] <= size
            if not fits or places.min() < 0 or places.max() >= size or (places.sort(-1).values.diff() == 0).any():
                raise ParameterError(
                    f"The units of {name!r} to keep are {places.dtype} {list(places.shape)}; expected int64 places "
                    f"{[*shape[:-1], 'count']} from 0 to {size - 1}, each once, at least one."
                )


def prune(model: nn.Module, keep: Mapping[str, Tensor], example_inputs: Any = None) -> Pruned:
    """Take units out of a network.

    Args:
        model: The network, which is not changed.
        keep: Name of a group of ``trace(model).symmetry()`` → the places of the units that stay.
        example_inputs: As for :func:`hypergen.trace`.

    Returns:
        The smaller network, and which groups had to be left as they are; see :class:`Pruner`.

    Raises:
        UnknownNameError: There is no group of a name.
        ParameterError: Places are no places of a group's units.
        TraceError: The network could not be run on example inputs.
    """
    return Pruner(model, example_inputs).prune(keep)


def half_of(groups: Iterable[Group]) -> dict[str, Tensor]:
    """Half of the units of each group, at least one, as a pruner takes them: every other one."""
    kept = {}
    for group in groups:
        places = torch.arange(0, max(group.size, 2) - 1, 2)
        kept[group.name] = places.expand(*group.shape[:-1], -1).clone()
    return kept


def _first(structure: Structure, counts: Mapping[str, int], name: str) -> Tensor:
    """Which indices of an axis are left when only the first ones of some groups are."""
    match structure:
        case Group():
            return torch.arange(structure.size) < counts.get(structure.name, structure.size)
        case Product():
            result = torch.ones(1, dtype=torch.bool)
            for factor in structure.factors:
                result = torch.outer(result, _first(factor, counts, name)).flatten()
            return result
        case Sum():
            return torch.cat([_first(segment, counts, name) for segment in structure.segments])
        case Choice():
            options = [_first(option, counts, name) for option in structure.options]
            if any(not torch.equal(option, options[0]) for option in options):
                raise ParameterError(f"the segments of {name!r} would differ in size")
            return options[0]


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _replace(model: nn.Module, tensors: Mapping[str, Tensor], tied: Mapping[str, str]) -> None:
    """Set parameters and buffers of other shapes, tied ones under all their names."""
    new: dict[str, Tensor] = {}
    for name in [*tensors, *(alias for alias, carrier in tied.items() if carrier in tensors)]:
        carrier = tied.get(name, name)
        path, _, last = name.rpartition(".")
        module = model.get_submodule(path)
        old = getattr(module, last)
        if carrier not in new:
            value = tensors[carrier].to(old.dtype)
            new[carrier] = nn.Parameter(value, old.requires_grad) if isinstance(old, nn.Parameter) else value
        setattr(module, last, new[carrier])


def _difference(one: Tensor, other: Tensor) -> float:
    """The largest difference, relative to the largest value; NaN where values are not finite."""
    if one.shape != other.shape:
        return float("inf")
    return float((one - other).abs().max() / other.abs().max().clamp_min(1e-30)) if one.numel() else 0.0
