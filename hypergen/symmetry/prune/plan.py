"""Decides on the graph which groups can be pruned, which of them together, and which integers follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hypergen.graph.calls import Call, Value, named_tensors
from hypergen.graph.computational_graph import TracingMode
from hypergen.graph.inputs import example_arguments
from hypergen.graph.tracing.flex_attention import flex_attention_anywhere
from hypergen.graph.tracing.tensors import as_meta, map_tensors
from hypergen.symmetry.liveness import NOT_READ, values_in
from hypergen.symmetry.prune.copies import copied, named_tensors_of, replace_tensors
from hypergen.symmetry.prune.decided import held_axes, shape_argument, statistics
from hypergen.symmetry.prune.module_sizes import resize_modules
from hypergen.symmetry.prune.runs import Mismatch, Rehearsal, rehearse, tracked_run
from hypergen.symmetry.prune.sizes import Couplings, changes, choices_in, first_kept, size_of
from hypergen.symmetry.prune.tracked_sizes import Attribute, set_integers
from hypergen.symmetry.structure import Group, Structure, leaves
from hypergen.symmetry.symmetry import read_symmetry

Norms = Literal["exact", "kept"]
_ROUNDS = 12


class Plan:
    """What can be taken out of a network, decided on its graph and rehearsed on shapes.

    Args:
        model: The network.
        example_inputs: The same as for :func:`hypergen.trace`.
        outputs: Names of the returned tensors that count; None for all.
        norms: ``"exact"``: units that a norm averages over stay; ``"kept"``: they may go, and the norm averages over
            those that are kept.

    Attributes:
        graph: Computational graph of the network.
        symmetry: Symmetry of the network.
        axes: What the axes of every tensor of the pass are made of.
        held: Attribute of a module → the axes whose size it tells.
        couplings: Which groups go together, and which stay.
        changed_norms: Numbers of the calls that average over units that may go.
    """

    def __init__(
        self, model: nn.Module, example_inputs: Any, outputs: Sequence[str] | None = None, norms: Norms = "exact"
    ) -> None:
        self.model, self.example_inputs = model, example_inputs
        self.graph, told = tracked_run(model, example_inputs)
        assert self.graph.calls is not None
        self.calls: Sequence[Call] = self.graph.calls.calls
        self.symmetry, self.axes = read_symmetry((self.graph.calls, *self.graph.further_passes), outputs)
        self.meta = copied(model, as_meta)
        self.couplings = Couplings(self.symmetry.groups)
        self.changed_norms: set[int] = set()
        self._equal_segments()
        self._statistics(norms)
        self.held = held_axes(self.calls, told, self.axes)
        self._tellers = {note.call: note.size for note in told}
        self._attributes()
        self._rehearsals()

    def groups(self) -> tuple[Group, ...]:
        """The groups that nothing speaks against."""
        return tuple(group for group in self.symmetry.groups if not self.couplings.reason(group.name))

    def left(self) -> dict[str, str]:
        """Name of each other group, and of parts that no pass read → why it stays."""
        reasons = {group.name: self.couplings.reason(group.name) for group in self.symmetry.groups}
        unread = [part for part in self.symmetry.unsupported if part.endswith(f"({NOT_READ})")]
        parts = {part.rpartition(" (")[0]: f"{NOT_READ}, as all that it may touch" for part in unread}
        return {**parts, **{name: reason for name, reason in reasons.items() if reason}}

    # What the graph tells

    def _equal_segments(self) -> None:
        for structures in (*self.symmetry.axes.values(), *self.axes.values()):
            for structure in structures:
                for choice in choices_in(structure):
                    for option in choice.options[1:]:
                        self.couplings.equate(choice.options[0], option, "parts of one axis would differ in size")

    def _statistics(self, norms: Norms) -> None:
        for number, call in enumerate(self.calls):
            averaged, normalises = statistics(call, self.axes)
            free = [axis for axis in averaged if any(not group.fixed for group in leaves(axis))]
            if not free:
                continue
            if normalises and norms == "kept":
                self.changed_norms.add(number)
            else:
                reason = f"{call.op} runs over them: without them it is not what it is with them at zero"
                self.couplings.keep_whole(free, reason)

    def _attributes(self) -> None:
        for attribute, axes in self.held.items():
            reason = f"{attribute} = {attribute.value} tells their number, and that of something else"
            for axis in axes[1:]:
                self.couplings.equate(axes[0], axis, reason)

    # What a smaller network does

    def _rehearsals(self) -> None:
        for number in range(_ROUNDS):
            counts = self.halves()
            if not counts:
                return
            rehearsal = self.rehearse(counts)
            if not rehearsal.mismatches and not rehearsal.error:
                error = self.training_error(counts)
                if error:
                    reason = f"the smaller network does not run in training mode: {error}"
                    self.couplings.keep_whole(self.groups(), reason)
                return
            for mismatch in rehearsal.mismatches:
                self._blame(mismatch, counts)
            if rehearsal.error and (not rehearsal.mismatches or self.halves() == counts):
                self._blame_around(rehearsal, counts, 4**number)
            if self.halves() == counts or number == _ROUNDS - 1:
                reason = rehearsal.error or rehearsal.mismatches[0].reason
                self.couplings.keep_whole(self.groups(), f"the smaller network does not run: {reason}")

    def training_error(self, counts: Mapping[str, int]) -> str:
        """Why a smaller network does not run in training mode, or gives other shapes, where the whole one runs."""
        shapes: list[Any] = []
        for model in (self.meta, self.resized(self.meta, counts)):
            network = copied(model, lambda tensor: tensor).train()
            try:
                args, kwargs = map_tensors(example_arguments(self.model, self.example_inputs), as_meta)
                with torch.no_grad(), flex_attention_anywhere():
                    result = network(*args, **kwargs)
            except Exception as error:
                return " ".join(f"{type(error).__name__}: {error}".split()) if shapes else ""
            shapes.append([tuple(output.shape) for _, output in named_tensors(result)])
        return "" if shapes[0] == shapes[1] else "its outputs have other shapes"

    def halves(self) -> dict[str, int]:
        """Half of the units of every group that can go."""
        return {group.name: max(1, group.size // 2) for group in self.groups()}

    def rehearse(self, counts: Mapping[str, int]) -> Rehearsal:
        """Run the network of these sizes on shapes alone."""
        expected = [(call, self.shapes(call, counts)) for call in self.calls]
        if self.graph.tracing_mode is not TracingMode.REAL_VALUES:
            return rehearse(self.resized(self.meta, counts), self.example_inputs, expected, self.graph.tracing_mode)
        own = named_tensors_of(self.model)
        values = {}
        for name, masks in self.masks(counts).items():
            if name in own:
                values[name] = own[name].detach()
                for dim, mask in enumerate(masks):
                    values[name] = values[name].index_select(dim, mask.nonzero().flatten())
        return rehearse(
            self.resized(self.model, counts, values), self.example_inputs, expected, TracingMode.REAL_VALUES
        )

    def shapes(self, call: Call, counts: Mapping[str, int]) -> tuple[tuple[int, ...], ...] | None:
        """The shapes of a call's outputs in a smaller network; None where they are not known."""
        if any(value not in self.axes for value in call.outputs):
            return None
        found = tuple(tuple(size_of(axis, counts) for axis in self.axes[value]) for value in call.outputs)
        known = all(tuple(a.size for a in self.axes[v]) == s for v, s in zip(call.outputs, call.shapes, strict=True))
        return found if known else None

    def all_shapes(self, counts: Mapping[str, int]) -> dict[Value, tuple[int, ...]]:
        """The shape of every tensor of the pass in a smaller network."""
        assert self.graph.calls is not None
        shapes = dict(self.graph.calls.shapes)
        for call in self.calls:
            shapes.update(zip(call.outputs, call.shapes, strict=True))
        for value, axes in self.axes.items():
            shapes[value] = tuple(size_of(axis, counts) for axis in axes)
        return shapes

    def _blame(self, mismatch: Mismatch, counts: Mapping[str, int]) -> None:
        call = self.calls[mismatch.call]
        shape = shape_argument(call.op, mismatch.arguments)
        axes = self.axes[call.outputs[0]]
        wrong: list[Structure] = []
        if shape is not None and len(shape) == len(axes):
            wrong = [a for a, size in zip(axes, shape, strict=True) if size not in (-1, size_of(a, counts))]
            wrong = [axis for axis in wrong if changes(axis, counts)]
            sizes = ", ".join(str(axis.size) for axis in wrong)
            reason = f"their number, {sizes}, is written into the forward pass: {call.op} {list(shape)}"
        if not wrong:
            wrong = self.touched(mismatch.call, counts)
            reason = f"the smaller network does not run: {mismatch.reason} (in {call.op})"
        self.couplings.keep_whole(wrong, reason)

    def _blame_around(self, rehearsal: Rehearsal, counts: Mapping[str, int], width: int) -> None:
        reason = f"the smaller network does not run: {rehearsal.error}"
        for number in range(min(rehearsal.followed, len(self.calls) - 1), -1, -1):
            wrong = self.touched(number, counts)
            if wrong:
                self.couplings.keep_whole(wrong, reason)
                width -= 1
            if width <= 0:
                return

    def touched(self, number: int, counts: Mapping[str, int]) -> list[Structure]:
        """The axes at a call of which something goes."""
        call = self.calls[number]
        values = [*values_in((call.args, call.kwargs)), *call.outputs]
        return [axis for value in values for axis in self.axes.get(value, ()) if changes(axis, counts)]

    # Smaller networks

    def integers(self, counts: Mapping[str, int]) -> dict[Attribute, int]:
        """The attributes that tell other sizes in a smaller network, and what they are there."""
        new = {attribute: size_of(axes[0], counts) for attribute, axes in self.held.items()}
        return {attribute: size for attribute, size in new.items() if size != attribute.value}

    def masks(self, counts: Mapping[str, int]) -> dict[str, tuple[Tensor, ...]]:
        """For the parameters and buffers that change, which indices of each axis are left once kept units come first.

        Raises:
            ParameterError: The parts of an axis would differ in size.
        """
        return {
            name: tuple(first_kept(axis, counts, name) for axis in axes)
            for name, axes in self.symmetry.axes.items()
            if any(changes(axis, counts) for axis in axes)
        }

    def resized(
        self, model: nn.Module, counts: Mapping[str, int], tensors: Mapping[str, Tensor] | None = None
    ) -> nn.Module:
        """A copy of the network, or of its copy on the meta device, with smaller tensors and attributes.

        Args:
            model: The network.
            counts: Group name → how many of its units are left.
            tensors: The smaller tensors; without them they have no values.
        """
        module = copied(model, None if tensors is not None else lambda tensor: tensor)
        masks = self.masks(counts)
        if tensors is None:
            tensors = {
                name: torch.empty([int(mask.sum()) for mask in own], device="meta") for name, own in masks.items()
            }
        replace_tensors(module, {name: tensors[name] for name in masks if name in tensors})
        resize_modules(module, masks)
        set_integers(module, self.integers(counts))
        return module

    def places(self, value: Value, counts: Mapping[str, int]) -> list[Tensor | None] | None:
        """The indices of a tensor's axes that stay when kept units come first; None for all."""
        axes = self.axes.get(value)
        if axes is None or not any(changes(axis, counts) for axis in axes):
            return None
        return [first_kept(axis, counts, "").nonzero().flatten() if changes(axis, counts) else None for axis in axes]
