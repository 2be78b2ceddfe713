"""Tensor by tensor from a donor to a target."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hypergen.errors import ParameterError
from hypergen.generators.donor.axes import AxisMap, Free, Width, map_axis
from hypergen.generators.donor.layers import Layer
from hypergen.generators.donor.matching import LayerPair
from hypergen.generators.donor.report import TensorSource
from hypergen.generators.donor.resize import resize
from hypergen.graph import ComputationalGraph
from hypergen.symmetry import Symmetry
from hypergen.symmetry.structure import Group, Structure, Sum, leaves

_STATISTICS = ("running_mean", "running_var")
_ENDS = ("an output of the network", "an input of the network")


class Side:
    """One of the two networks: its graph, its symmetry, its values."""

    def __init__(self, model: nn.Module, graph: ComputationalGraph) -> None:
        self.graph = graph
        self.symmetry: Symmetry = graph.symmetry()
        self.values: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self._streams = self._stream_sizes()

    def free(self, group: Group) -> bool:
        """Whether the indices of a group may be selected and copied.

        Also those of a stream that the network returns, as hidden states: it must stay in order, so that it is not
        permuted, but unlike classes many layers read and write it.
        """
        return not group.fixed or (group.fixed in _ENDS and group.size in self._streams)

    def _stream_sizes(self) -> set[int]:
        counts: Counter[int] = Counter()
        for node in self.graph.nodes:
            sizes: Counter[int] = Counter()
            for name in {*node.parameters.values()}:
                for dim, axis in enumerate(self.symmetry.axes.get(name, ())):
                    for group in leaves(axis):
                        if group.fixed in _ENDS and (dim < 2 or group.fixed in _ENDS[:1]):
                            sizes[group.size] += 1
            counts.update(sizes.keys())
            if node.op in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
                counts.update(sizes.keys())
        return {size for size, number in counts.items() if number > 1}

    def axes(self, names: Sequence[str], output: int) -> tuple[Structure, ...] | None:
        """The axes of parameters that lie one behind the other along ``output``."""
        every = [self.symmetry.axes.get(name) for name in names]
        if any(axes is None for axes in every):
            return None
        first = every[0]
        assert first is not None
        if len(names) == 1:
            return first
        together = Sum(tuple(axes[output] for axes in every if axes is not None))
        return tuple(together if dim == output else axis for dim, axis in enumerate(first))


class Mapper:
    """Maps the tensors of matched layers; ``parameters``, ``buffers`` and ``sources`` are what was found so far."""

    def __init__(self, target: Side, donor: Side, width: Width, split: float, seed: int, double: bool) -> None:
        self.target, self.donor, self.width, self.split, self.double = target, donor, width, split, double
        self.random = torch.Generator().manual_seed(seed)
        self.parameters: dict[str, Tensor] = {}
        self.buffers: dict[str, Tensor] = {}
        self.sources: dict[str, TensorSource] = {}
        self._free: tuple[Free, Free] = (target.free, donor.free)

    def map(self, pairs: Sequence[LayerPair]) -> None:
        """Map every pair, then scale what a tied head reads."""
        for pair in pairs:
            self._map_layer(pair)
        for name in self.target.graph.parameter_shapes:
            if name not in self.sources:
                self.sources[name] = TensorSource(name, "", "left", "no layer of the donor matches")
        self._scale_before_tied_heads()

    def _map_layer(self, pair: LayerPair) -> None:
        mine, its = pair.target, pair.donor
        found: dict[str, Tensor] = {}
        donors = dict(its.tensors)
        if mine.tensors.keys() != donors.keys() and len(mine.tensors) == len(donors) == 1:
            donors = dict(zip(mine.tensors, donors.values(), strict=True))
        for role, names in mine.tensors.items():
            if role not in donors:
                for name in names:
                    if role == "bias" and role not in its.tensors:  # the donor adds nothing here
                        found[name] = torch.zeros_like(self.target.values[name], device="cpu")
                        self.sources[name] = TensorSource(name, "", "zeroed", "the donor's layer has no bias")
                    else:
                        self.sources[name] = TensorSource(name, "", "left", f"the donor's layer has no {role}")
                continue
            value, how, why = self._map_tensor(names, donors[role], mine, its)
            origin = ", ".join(donors[role])
            for name, part in zip(names, self._parts(value, names, mine), strict=True):
                if part is not None:
                    found[name] = part
                self.sources[name] = TensorSource(name, origin, how, why)
        if pair.new and mine.ends_branch:
            for name, value in found.items():
                found[name] = torch.zeros_like(value)
                self.sources[name] = TensorSource(
                    name, self.sources[name].donor, "zeroed", "an added block adds nothing"
                )
        # A layer whose weight stays its own keeps its bias, too: classes of another task, say.
        if any(self.sources[name].how == "left" for name in mine.tensors.get("weight", ())):
            for name in found:
                self.sources[name] = TensorSource(name, "", "left", "so is the weight beside it")
            return
        self.parameters.update(found)
        self._map_statistics(mine, its)

    def _parts(self, value: Tensor | None, names: Sequence[str], layer: Layer) -> list[Tensor | None]:
        if value is None:
            return [None] * len(names)
        sizes = [self.target.values[name].shape[0] for name in names]
        return [part.clone() for part in value.split(sizes)] if len(names) > 1 else [value]

    def _map_statistics(self, mine: Layer, its: Layer) -> None:
        if "weight" not in mine.tensors or "weight" not in its.tensors:
            return
        homes = [layer.tensors["weight"][0].rpartition(".")[0] for layer in (mine, its)]
        for kind in _STATISTICS:
            name, source = (f"{home}.{kind}" if home else kind for home in homes)
            if name not in self.target.values or source not in self.donor.values:
                continue
            if (
                name not in self.target.symmetry.axes
                and self.target.values[name].shape != self.donor.values[source].shape
            ):
                continue
            value, how, why = self._map_tensor((name,), (source,), mine, its)
            if value is not None:
                self.buffers[name] = value
                self.sources[name] = TensorSource(name, source, how, why)

    def _map_tensor(
        self, names: Sequence[str], sources: Sequence[str], mine: Layer, its: Layer
    ) -> tuple[Tensor | None, str, str]:
        parts = [self.donor.values[source].detach() for source in sources]
        if any(part.is_meta or not part.is_floating_point() for part in parts):
            return None, "left", "the donor has no values of it"
        for source, part in zip(sources, parts, strict=True):
            if not bool(torch.isfinite(part).all()):
                raise ParameterError(
                    f"The donor's {source!r} holds values that are not finite; take another checkpoint."
                )
        value = torch.cat(parts) if len(parts) > 1 else parts[0]
        own = self.target.values[names[0]]
        dtype = torch.float64 if self.double else own.dtype
        value = value.double()
        ours, theirs = self.target.axes(names, 0), self.donor.axes(sources, 0)
        if ours is None or theirs is None:
            if len(names) == 1 and own.shape == value.shape:
                return value.to(dtype), "copied", ""
            return None, "left", f"shape {list(value.shape)} in the donor, {list(own.shape)} here"
        # One layout for both: [out, in] without the sizes of a 1×1 kernel.
        if value.dim() > 1 and its.transposed:
            value, theirs = value.transpose(0, 1), (theirs[1], theirs[0], *theirs[2:])
        if own.dim() > 1 and mine.transposed:
            ours = (ours[1], ours[0], *ours[2:])
        if mine.kind == "linear" and own.dim() > 1 and value.dim() > 1:
            value, theirs, ours = value.flatten(2).squeeze(-1) if value.dim() > 2 else value, theirs[:2], ours[:2]
        if len(ours) != len(theirs):
            if own.numel() == value.numel() and math.prod(own.shape) > 0 and len(names) == 1:
                return value.reshape(own.shape).to(dtype), "copied", ""
            return None, "left", f"shape {list(value.shape)} in the donor, {list(own.shape)} here"
        reads = None if mine.kind in ("embedding", "add", "mul", "cat") or len(ours) < 2 else 1
        reads = 0 if mine.kind.startswith("conv_transpose") else reads
        how = "copied"
        for dim, (our, their) in enumerate(zip(ours, theirs, strict=True)):
            axis = map_axis(our, their, self.width, self._free)
            if axis.resized:
                resized = resize(value, dim, our.size, mine.kind)
                if resized is None:
                    return None, "left", f"axis {dim} has {their.size} indices in the donor, {our.size} here"
                value, how = resized, "resized"
            elif not (axis.is_identity and len(axis.index) == value.shape[dim]):
                value = value.index_select(dim, axis.index.to(value.device))
                grown = bool((axis.copies > 1).any())
                how = "widened" if grown else "selected" if how == "copied" else how
                if grown and dim == reads:
                    shape = [-1 if d == dim else 1 for d in range(value.dim())]
                    value = value * self._shares(axis).to(value).reshape(shape)
        if own.dim() > 1 and mine.transposed:
            value = value.transpose(0, 1)
        if len(names) == 1:
            value = value.reshape(own.shape)
        return value.to(dtype).contiguous(), how, ""

    def _shares(self, axis: AxisMap) -> Tensor:
        """How much of a donor's weight each copy takes, [size]; the copies of one index sum to one."""
        raw = 1 + self.split * (2 * torch.rand(len(axis.index), generator=self.random, dtype=torch.float64) - 1)
        raw = torch.where(axis.copies > 1, raw, torch.ones_like(raw))
        total = torch.zeros(int(axis.index.max()) + 1, dtype=torch.float64).index_add_(0, axis.index, raw)
        return raw / total[axis.index]

    def _scale_before_tied_heads(self) -> None:
        """Divide the norm before a head that is tied to a widened embedding by the copies, which the head adds up."""
        graph = self.target.graph
        embeddings = {name for node in graph.nodes if node.op == "embedding" for name in node.parameters.values()}
        for number, node in enumerate(graph.nodes):
            tied = next((name for name in node.shared.values() if name in embeddings and name in self.parameters), None)
            if tied is None or self.sources[tied].how != "widened":
                continue
            norm = next(iter(graph.incoming[number]), None)
            while norm is not None and not graph.nodes[norm].parameters:
                norm = next(iter(graph.incoming[norm]), None)
            if norm is None or "norm" not in graph.nodes[norm].op:
                continue
            copies = self._copies_of_stream(tied)
            for name in graph.nodes[norm].parameters.values():
                if name in self.parameters and copies is not None and len(copies) == len(self.parameters[name]):
                    self.parameters[name] = self.parameters[name] / copies.to(self.parameters[name])

    def _copies_of_stream(self, embedding: str) -> Tensor | None:
        source = self.sources[embedding].donor
        ours, theirs = self.target.symmetry.axes[embedding], self.donor.symmetry.axes[source]
        axis = map_axis(ours[-1], theirs[-1], self.width, self._free)
        return None if axis.resized else axis.copies
