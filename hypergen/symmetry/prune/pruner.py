"""Structured pruning: units of a network are taken out, and what is left runs by itself at a lower cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hypergen.errors import ParameterError, UnknownNameError
from hypergen.symmetry.prune.copies import copied, named_tensors_of
from hypergen.symmetry.prune.flops import count_flops
from hypergen.symmetry.prune.plan import Norms, Plan
from hypergen.symmetry.prune.pruned import Pruned
from hypergen.symmetry.prune.sizes import changes
from hypergen.symmetry.prune.tracked_sizes import changed_integers
from hypergen.symmetry.prune.trial import TOLERANCE, Trial, difference, fingerprints, kept_statistics
from hypergen.symmetry.structure import Group
from hypergen.symmetry.symmetry import Element
from hypergen.symmetry.units import gate_units

_ROUNDS = 8
_NEARLY_ZERO = 1e-60  # weight norms divide by the lengths of units


class Pruner:
    """Takes units out of a network: what can be removed together is what can be permuted together.

    A group of ``graph.symmetry()`` can be pruned in this network if the smaller module computes what the network with
    those units set to zero computes. Which groups these are is decided on the graph: by the integers that each
    operation is given and the attributes that they come from, and by what averages over units. A smaller network is
    then run on shapes, and one without half of all units in float64 with random parameters. That holds for channels of
    convolutions with their batch norms, hidden units, heads and the channels within them; not where a size is written
    into the forward pass, nor where a layer norm or a mean runs over the units.

    Args:
        model: The network, which is not changed; its buffers may not be on the meta device.
        example_inputs: The same as for :func:`hypergen.trace`.
        outputs: Names of the returned tensors that count, as for ``graph.symmetry()``; None for all.
        norms: ``"exact"``, or ``"kept"`` to prune streams under layer and RMS norms, too: a norm then averages over the
            channels that are kept, so that the smaller network is another one until it is fine-tuned. Everything else
            is checked to be exact.
        verify: Whether the plan is checked in float64; without it, only on the graph and on shapes.

    Attributes:
        symmetry: Symmetry of the network.
        groups: Those that can be pruned.
        together: The same groups by name, in sets that have to keep equally many units, as one attribute tells their
            number.
        left: Name of each other group → why it cannot.
        changed_norms: The modules whose norms average over fewer channels when all groups are pruned.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any = None,
        outputs: Sequence[str] | None = None,
        norms: Norms = "exact",
        verify: bool = True,
    ) -> None:
        if norms not in ("exact", "kept"):
            raise ParameterError(f"norms is 'exact' or 'kept'; got {norms!r}")
        self.model, self.example_inputs, self.outputs = model, example_inputs, outputs
        self.plan = Plan(model, example_inputs, outputs, norms)
        self.symmetry = self.plan.symmetry
        self._trial: Trial | None = None
        if verify:
            self._verify()
        self.groups = self.plan.groups()
        self.left = self.plan.left()
        self.together = self.plan.couplings.together()

    @property
    def changed_norms(self) -> tuple[str, ...]:
        """The calls of norms that average over units that can be pruned, by their operation and number."""
        counts = self.plan.halves()
        return self._norms(counts)

    def _norms(self, counts: Mapping[str, int]) -> tuple[str, ...]:
        calls = self.plan.calls
        touched = [n for n in sorted(self.plan.changed_norms) if self._touches(n, counts)]
        return tuple(f"{calls[number].op} {number}" for number in touched)

    def _touches(self, number: int, counts: Mapping[str, int]) -> bool:
        source = self.plan.calls[number].args[0]
        return any(changes(axis, counts) for axis in self.plan.axes[source])

    # Pruning

    def prune(self, keep: Mapping[str, Tensor], verify: bool = False) -> Pruned:
        """Take units out.

        Args:
            keep: Group name → the places of the units that stay, ``[*parents, count]``, int64, in any order; groups
                that are not named stay whole.
            verify: Whether this choice is checked in float64, too, beside the plan as a whole.

        Returns:
            A copy of the network with smaller parameters, buffers and attributes, and what was left as it is.

        Raises:
            UnknownNameError: There is no group of a name.
            ParameterError: Places are no places of a group's units, repeat, or are none.
        """
        self._check(keep)
        left = {name: self.left[name] for name in keep if name in self.left}
        chosen = {name: places for name, places in keep.items() if name not in left}
        uneven = self._uneven(chosen)
        left.update(uneven)
        chosen = {name: places for name, places in chosen.items() if name not in uneven}
        counts = _counts(chosen)
        objection = self._objection(chosen) if verify and chosen else ""
        if not objection and chosen:
            rehearsal = self.plan.rehearse(counts)
            wrong = [mismatch.reason for mismatch in rehearsal.mismatches]
            objection = rehearsal.error or "; ".join(wrong[:1])
        if objection:
            return Pruned(copied(self.model), {}, {**left, **dict.fromkeys(chosen, objection)})
        module = self._smaller(self.model, chosen)
        sizes = {group.name: group.size for group in self.symmetry.groups}
        removed = {name: sizes[name] - places.shape[-1] for name, places in chosen.items()}
        changed = {str(a): (a.value, new) for a, new in self.plan.integers(counts).items()}
        return Pruned(module, removed, left, self._norms(counts), changed, changed_integers(self.model, module))

    def _uneven(self, keep: Mapping[str, Tensor]) -> dict[str, str]:
        sizes = {group.name: group.size for group in self.groups}
        found = {}
        for names in self.together:
            counts = {keep[name].shape[-1] if name in keep else sizes[name] for name in names}
            if len(counts) > 1:
                reason = f"the groups {', '.join(names)} have to keep equally many units, for one attribute tells both"
                found.update(dict.fromkeys((name for name in names if name in keep), reason))
        return found

    def flops(self, keep: Mapping[str, Tensor] | Mapping[str, int] | None = None) -> int:
        """Floating-point operations of matrix products and convolutions in one pass over the example inputs.

        Args:
            keep: Those of the network with these units alone, as for :meth:`prune`, or with so many of them; None for
                all of it.
        """
        return count_flops(self.plan, {k: v for k, v in _counts(keep or {}).items() if k not in self.left})

    def parameters(self, keep: Mapping[str, Tensor] | Mapping[str, int] | None = None) -> int:
        """The number of parameters, as :meth:`flops` counts operations."""
        counts = {k: v for k, v in _counts(keep or {}).items() if k not in self.left}
        masks = self.plan.masks(counts)
        total = 0
        for name in self.symmetry.parameters:
            sizes = [int(m.sum()) for m in masks[name]] if name in masks else [a.size for a in self.symmetry.axes[name]]
            total += int(torch.tensor(sizes, dtype=torch.int64).prod())
        return total

    # Tensors

    def slice(self, tensors: Mapping[str, Tensor], keep: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What is left of parameters and buffers; further leading axes are batches, names of no group stay whole."""
        kept = self.plan.masks(_counts(keep))
        changed = {name: tensor for name, tensor in tensors.items() if name in kept}
        return {**tensors, **self.symmetry.apply(changed, self._kept_first(keep), kept)}

    def zeroed(
        self, tensors: Mapping[str, Tensor], keep: Mapping[str, Tensor], factor: float = 0.0
    ) -> dict[str, Tensor]:
        """Parameters and buffers of full size in which every value of a removed unit is zero, or times a factor."""
        gates = {}
        for group in self.symmetry.groups:
            if group.name in keep:
                gate = torch.full(group.shape, factor, dtype=torch.float64)
                gates[group.name] = gate.scatter(-1, keep[group.name].cpu(), 1.0)
        kept = self.plan.masks(_counts(keep))
        return {**tensors, **gate_units(self.symmetry, {n: t for n, t in tensors.items() if n in kept}, gates)}

    def _smaller(self, model: nn.Module, keep: Mapping[str, Tensor]) -> nn.Module:
        own, counts = named_tensors_of(model), _counts(keep)
        changed = {name: own[name].detach() for name in self.plan.masks(counts) if name in own}
        sliced = {name: value.clone() for name, value in self.slice(changed, keep).items()}
        return self.plan.resized(model, counts, sliced)

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
            if moved:
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

    # Verification

    def _verify(self) -> None:
        """Check the plan with half of all units gone; what does not fit stays."""
        for number in range(_ROUNDS):
            groups = self.plan.groups()
            if not groups:
                return
            keep = half_of(groups)
            objection = self._objection(keep)
            if not objection:
                return
            wrong = self._culprits(keep) if number < _ROUNDS - 2 else []
            self.plan.couplings.keep_whole(wrong or groups, objection)

    def _objection(self, keep: Mapping[str, Tensor]) -> str:
        """Why the smaller network is not the whole one with these units at zero; empty if it is."""
        try:
            trial = self._trial = self._trial or Trial(self.model, self.example_inputs)
            expected = trial.run(*self._reference(keep))
        except Exception as error:
            return f"it cannot be checked: the network does not run in float64: {type(error).__name__}: {error}"
        try:
            small = self.plan.resized(self.plan.meta, _counts(keep))
            outputs = trial.run(self.slice(trial.tensors, keep), small)
        except Exception as error:  # a size that is written into the forward pass may fail in any way
            return f"the smaller network does not run: {type(error).__name__}: {error}"
        expected = {name: value for name, value in expected.items() if self.outputs is None or name in self.outputs}
        apart = difference(outputs, expected)
        if apart <= TOLERANCE:
            return ""
        return f"the network without these units is not the one with them at zero ({apart:.1e})"

    def _reference(self, keep: Mapping[str, Tensor], watch: Any = None) -> tuple[dict[str, Tensor], nn.Module, Any]:
        """Tensors of full size with units at zero, the network, and what changes its norms."""
        assert self._trial is not None
        counts = _counts(keep)
        norms = [n for n in self.plan.changed_norms if self._touches(n, counts)]
        if watch is None and not norms:
            return self.zeroed(self._trial.tensors, keep, _NEARLY_ZERO), self.plan.meta, None
        moved = self.symmetry.apply(self._trial.tensors, self._kept_first(keep))
        for name, masks in self.plan.masks(counts).items():
            value = moved[name].clone()
            for dim, mask in enumerate(masks):
                removed = (~mask).nonzero().flatten()
                value.index_copy_(dim, removed, value.index_select(dim, removed) * _NEARLY_ZERO)
            moved[name] = value
        kept = kept_statistics(self.plan.calls, norms, lambda value: self.plan.places(value, counts))
        return moved, self.plan.meta, watch(kept) if watch else kept

    def _culprits(self, keep: Mapping[str, Tensor]) -> list[Any]:
        """The axes at the first call whose result differs, where the passes can be compared."""
        counts, calls = _counts(keep), self.plan.calls
        small: list[tuple[str, float]] = []
        whole: list[tuple[str, float]] = []

        def places(number: int) -> Any:
            return self.plan.places(calls[number].outputs[0], counts) if number < len(calls) else None

        assert self._trial is not None
        try:
            self._trial.run(
                self.slice(self._trial.tensors, keep), self.plan.resized(self.plan.meta, counts), fingerprints(small)
            )
            self._trial.run(*self._reference(keep, lambda kept: fingerprints(whole, places, kept)))
        except Exception:
            pass  # compared up to where it failed
        for number, (one, other) in enumerate(zip(small, whole, strict=False)):
            if number >= len(calls) or one[0] != other[0] or one[0] != calls[number].op:
                return []
            if abs(one[1] - other[1]) > 1e-7 * max(abs(one[1]), abs(other[1])):
                touched = self.plan.touched(number, counts)
                results = {id(axis) for value in calls[number].outputs for axis in self.plan.axes.get(value, ())}
                return [axis for axis in touched if id(axis) not in results] or touched
        return self.plan.touched(len(small), counts) if len(small) < min(len(whole), len(calls)) else []


def prune(model: nn.Module, keep: Mapping[str, Tensor], example_inputs: Any = None) -> Pruned:
    """Take units out of a network.

    Args:
        model: The network, which is not changed.
        keep: Name of a group of ``trace(model).symmetry()`` → the places of the units that stay.
        example_inputs: The same as for :func:`hypergen.trace`.

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


def _counts(keep: Mapping[str, Any]) -> dict[str, int]:
    return {name: own.shape[-1] if isinstance(own, Tensor) else int(own) for name, own in keep.items()}
