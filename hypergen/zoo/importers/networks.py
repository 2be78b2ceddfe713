"""What imported checkpoints are of: networks that can be built, with their graph, roles and permutation groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from hypergen.architectures.by_name import NamedNetwork
from hypergen.errors import CheckpointError, HypergenError, TraceError
from hypergen.graph import trace
from hypergen.zoo.layout import Layout

_SHOWN = 4


class KnownNetworks:
    """Tells which of several networks a state dict is of.

    Args:
        names: Names of the networks, as :func:`hypergen.architectures.by_name.build_model` takes them.
        example_inputs: What the networks are called with, where they do not tell.

    Raises:
        HypergenError: A network cannot be built.
    """

    def __init__(self, names: Sequence[str], example_inputs: Any = None) -> None:
        self.known = [_KnownNetwork(name, example_inputs) for name in dict.fromkeys(names)]

    def layout_of(self, state: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> tuple[dict[str, Tensor], Layout]:
        """The tensors of a checkpoint under the network's names, tied ones once, and their layout.

        Args:
            state: As it was read; buffers that the network adds by itself may be missing.
            metadata: What else is known of the layout.

        Raises:
            CheckpointError: The tensors are those of none of the networks, or of two; the message names them.
        """
        fitting = [each for each in self.known if not each.problem(state)]
        if len(fitting) == 1:
            return fitting[0].read(state, metadata)
        if fitting:
            names = " and ".join(repr(each.name) for each in fitting)
            raise CheckpointError(
                f"the tensors are those of {names} alike, which have the same names and shapes. Import the checkpoints "
                "of each by a command of its own, with a --pattern that finds these alone."
            )
        problems = "; ".join(f"{each.name}: {each.problem(state)}" for each in self.known)
        raise CheckpointError(f"the tensors are not those of the network: {problems}.")


class _KnownNetwork:
    def __init__(self, name: str, example_inputs: Any) -> None:
        self.name, self.example_inputs = name, example_inputs
        self.network = NamedNetwork(name)
        with torch.random.fork_rng(devices=[]):
            self.module = self.network.build().eval()
        self.shapes = {key: tuple(value.shape) for key, value in self.module.state_dict().items()}
        self.buffers = {name for name, _ in self.module.named_buffers()}
        first: dict[int, str] = {}
        self.tied = {}
        for key, value in self.module.state_dict(keep_vars=True).items():
            if first.setdefault(id(value), key) != key:
                self.tied[key] = first[id(value)]

    def problem(self, state: Mapping[str, Tensor]) -> str:
        """Why a state dict is not of this network, in words; empty where it is."""
        # A tied name may be left out, as safetensors does; so may what counts batches.
        optional = {*self.tied, *self.tied.values(), *(n for n in self.buffers if n.endswith("num_batches_tracked"))}
        missing = [name for name in self.shapes if name not in state and name not in optional]
        missing += [a for a, b in self.tied.items() if a not in state and b not in state]
        unknown = [name for name in state if name not in self.shapes]
        other = [
            f"{name} is {list(state[name].shape)}, expected {list(shape)}"
            for name, shape in self.shapes.items()
            if name in state and tuple(state[name].shape) != shape
        ]
        parts = [
            f"{word} {', '.join(names[:_SHOWN])}{f' and {len(names) - _SHOWN} more' if len(names) > _SHOWN else ''}"
            for word, names in (("it lacks", missing), ("it has no", unknown), ("", other))
            if names
        ]
        if missing and unknown and len(missing) == len(self.shapes):
            parts.append("no name is the same: give the --prefix that stands before the network's names, as model.")
        return "; ".join(part.strip() for part in parts)

    def read(self, state: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> tuple[dict[str, Tensor], Layout]:
        own = self.module.state_dict()
        aliases = {key: alias for alias, key in self.tied.items()}
        tensors = {}
        for name in self.shapes:
            if name in self.tied:
                self._check_tie(name, state)
            elif name in state:
                tensors[name] = state[name]
            else:
                tensors[name] = state[aliases[name]] if name in aliases else own[name].clone()
        # Memory that two names share must not make one of them: the network itself tells what is tied.
        tensors = {name: value.detach().clone() for name, value in tensors.items()}
        layout = Layout.of(
            tensors, buffers=self.buffers, name=self.name, metadata={**metadata, **self.network.to_json(), **self.graph}
        )
        layout = replace(layout, tied={**layout.tied, **self.tied})
        return tensors, layout.with_groups(self.groups)

    def _check_tie(self, alias: str, state: Mapping[str, Tensor]) -> None:
        key = self.tied[alias]
        if alias in state and key in state and not torch.equal(state[alias], state[key]):
            raise CheckpointError(
                f"{alias!r} and {key!r} are one parameter of {self.name!r}, but two different tensors."
            )

    @cached_property
    def _traced(self) -> Any:
        try:
            return trace(self.module, self.example_inputs)
        except TraceError as error:
            raise HypergenError(
                f"{self.name!r} cannot be traced, which tells its permutation groups: {error} Give the data that it "
                "was trained on by --data package.module:datamodule, or the shape of its input by --input."
            ) from error

    @cached_property
    def groups(self) -> tuple[tuple[tuple[str, int], ...], ...]:
        """The permutation groups of whole axes, of parameters and of running statistics."""
        return self._traced.symmetry().simple_groups

    @cached_property
    def graph(self) -> dict[str, Any]:
        """What the computational graph tells, for the layout's metadata."""
        graph = self._traced
        parameters = {
            name: {"operation": spec.operation, "role": spec.role, "axes": [str(role) for role in spec.axes]}
            for name, spec in graph.parameters.items()
        }
        operations = {"operations": [node.op for node in graph.nodes], "edges": graph.edges.T.tolist()}
        return {"parameters": parameters, "graph": operations}
