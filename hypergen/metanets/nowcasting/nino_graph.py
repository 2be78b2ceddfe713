"""The graph of neurons that NiNo's graph network reads, laid out as its published networks were trained with.

Every weight is an edge, a whole kernel on one. Biases and norms are edges from a source node of their own. The edge of
a key's weight runs back from the query's neuron; what adds up a residual stream is an edge from each neuron to that of
the sum, and a head is a node with edges to the neurons of its queries and values. Those edges have value 1, and every
node has one to itself of value 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hypergen.errors import TraceError
from hypergen.metanets.nowcasting.nino_kinds import Kind, fused_axis, kind_of

# A block's linear layer whose input the stream goes on from, and one that reads the same input beside it.
_EXPANSIONS = ("mlp.c_fc.weight", "intermediate.dense.weight", "mlp.gate_proj.weight")
_GATED = ("mlp.up_proj.weight",)
_DENSE = 2000  # Up to so many nodes, a dense eigensolver is faster, and exact.


@dataclass(frozen=True)
class NeuronGraph:
    """A network as a graph.

    Attributes:
        sources: Source nodes of edges, [edges].
        targets: Target nodes, in the same form.
        kinds: Kind of each edge, [edges]; see :class:`~hypergen.metanets.nowcasting.nino_kinds.Kind`.
        values: What edges carry that are no parameters, [edges]; 0 for the others.
        eigenvectors: Eigenvectors of the nodes, [nodes, features].
        places: Per parameter where its elements are among [edges × kernel], of the parameter's shape.
        kernel: Elements that an edge has room for.
    """

    sources: Tensor
    targets: Tensor
    kinds: Tensor
    values: Tensor
    eigenvectors: Tensor
    places: Mapping[str, Tensor]
    kernel: int

    def edges(self, states: Mapping[str, Tensor]) -> Tensor:
        """What edges carry, [edges, kernel, context], from a tensor [*shape, context] per parameter."""
        context = next(iter(states.values())).shape[-1]
        like = next(iter(states.values()))
        features = torch.zeros(len(self.sources), self.kernel, context, dtype=like.dtype, device=like.device)
        features[:, 0] = self.values[:, None].to(like)
        rows = torch.cat([self.places[name].flatten() for name in states])
        filled = features.flatten(0, 1).index_copy(
            0, rows, torch.cat([state.flatten(0, -2) for state in states.values()])
        )
        return filled.view_as(features)

    def parameters(self, edges: Tensor) -> dict[str, Tensor]:
        """A tensor per parameter from [edges, kernel]."""
        flat = edges.flatten()
        return {name: flat[places] for name, places in self.places.items()}

    def to(self, device: torch.device) -> NeuronGraph:
        """The same on a device."""
        if self.sources.device == device:
            return self
        moved: dict[str, Any] = {
            name: getattr(self, name).to(device) for name in ("sources", "targets", "kinds", "values", "eigenvectors")
        }
        return replace(self, places={name: value.to(device) for name, value in self.places.items()}, **moved)


def neuron_graph(model: nn.Module, kernel: int = 9, eigenvectors: int = 8) -> NeuronGraph:
    """Lay out a network whose parameters follow each other in the order of the data: a chain, or decoder blocks.

    Args:
        model: Linear and convolutional layers with norms one after the other; or a transformer whose parameters are
            called as in Hugging Face's GPT-2 or Llama. Only read; it may live on the meta device.
        kernel: Elements of the largest kernel.
        eigenvectors: Eigenvectors of the normalised Laplacian, without the constant one: features of the nodes.

    Raises:
        TraceError: A layer does not read the neurons before it, heads are not known, or a kernel is too large.
    """
    layout = _Layout(kernel, _heads(model))
    modules = dict(model.named_modules())
    for name, parameter in model.named_parameters():
        module = modules.get(name.rpartition(".")[0])
        # Transformers' Conv1D, which has its outputs last.
        layout.add(
            name, tuple(parameter.shape), outputs_last=not isinstance(module, nn.Linear) and hasattr(module, "nf")
        )
    return layout.graph(eigenvectors)


def _heads(model: nn.Module) -> tuple[int, int] | None:
    """Heads of queries and of keys and values, as the model's configuration tells them."""
    config = getattr(model, "config", None)
    heads = getattr(config, "num_attention_heads", None) or getattr(config, "n_head", None)
    return (heads, getattr(config, "num_key_value_heads", None) or heads) if heads else None


class _Layout:
    """Numbers nodes while parameters come one after the other.

    Attributes:
        stream: The neurons that the next layer reads.
        origins: Neurons whose values are added to the outputs of the layer that ends the block.
        queries: Neurons of the attention at hand.
    """

    def __init__(self, kernel: int, heads: tuple[int, int] | None) -> None:
        self.kernel, self.heads = kernel, heads
        self.count = self.edge_count = 0
        self.parts: list[tuple[Tensor, Tensor, Kind, float]] = []  # sources, targets, kind, value
        self.places: dict[str, list[Tensor]] = {}
        self.stream = self.queries = self.values = self.head_nodes = torch.empty(0, dtype=torch.int64)
        self.block: Tensor | None = None  # what an attention reads
        self.origins: list[Tensor] = []
        self.hidden: Tensor | None = None  # of a gated layer, whose other half is still to come

    def add(self, name: str, shape: tuple[int, ...], outputs_last: bool) -> None:
        """Lay out a parameter."""
        axis = fused_axis(name)
        if axis is not None or name.endswith(("attn.c_attn.bias", "in_proj_bias")):
            self._fused(name, shape, axis)
            return
        kind = kind_of(name, shape)
        if kind in (Kind.QUERY, Kind.KEY, Kind.VALUE):
            self._attention(name, shape, kind, transposed=False)
        elif len(shape) == 1:
            self._vector(name, shape, kind, self.stream)
        elif kind is Kind.WORD_EMBEDDING:
            sources, self.stream = self._new(shape[0]), self._new(shape[1])
            self._dense(name, sources, self.stream, kind, transposed=True)
        elif kind is Kind.POSITION_EMBEDDING:
            self._dense(name, self._new(shape[0]), self.stream, kind, transposed=True)
        elif len(shape) < 2:
            raise TraceError(f"{name!r} is a number; NiNo's graph has no edge for it. Use a network without a graph.")
        else:
            self._layer(name, shape, kind, outputs_last)

    def _layer(self, name: str, shape: tuple[int, ...], kind: Kind, outputs_last: bool) -> None:
        outputs, inputs = (shape[1], shape[0]) if outputs_last else shape[:2]
        if name.endswith(_GATED) and self.hidden is not None:
            # Published with inputs of its own.
            sources, targets = self._new(inputs), self.hidden
            self.origins.append(sources)
            self._dense(name, sources, targets, kind, transposed=outputs_last)
            self.stream, self.hidden = targets, None
            return
        if self.block is not None:
            # With grouped heads, published edges start at the last neurons of queries and values together.
            sources, self.origins, self.block = torch.cat([self.queries, self.values])[-inputs:], [self.block], None
        else:
            sources = self.stream if self.count else self._new(inputs)
        if len(sources) != inputs:
            raise TraceError(
                f"{name!r} reads {inputs} channels, but {len(sources)} neurons come before it: this network is no "
                "chain that NiNo's graph can be laid out for. Use a network without a graph, such as nino_mlp."
            )
        expands = name.endswith(_EXPANSIONS)
        targets = self._new(outputs)
        self._dense(name, sources, targets, kind, transposed=outputs_last, shape=shape)
        if expands:
            self.origins, self.hidden = [sources], targets
        else:
            for origin in self.origins:
                self._part(origin, targets, Kind.RESIDUAL, 1.0)
            self.origins = []
        self.stream = targets

    def _vector(self, name: str, shape: tuple[int, ...], kind: Kind, targets: Tensor) -> None:
        if len(targets) != shape[0]:
            raise TraceError(
                f"{name!r} has {shape[0]} elements for {len(targets)} neurons: this network is no chain that NiNo's "
                "graph can be laid out for. Use a network without a graph, such as nino_mlp."
            )
        self._places(name, self._part(self._new(1).expand(len(targets)), targets, kind))

    def _fused(self, name: str, shape: tuple[int, ...], axis: int | None) -> None:
        if axis is None:
            third = shape[0] // 3
            assert self.block is not None
            for targets in (self.queries, self.block, self.values):
                self._vector(name, (third,), Kind.OTHER, targets)
            return
        sizes = tuple(size // 3 if dim == axis else size for dim, size in enumerate(shape))
        for kind in (Kind.QUERY, Kind.KEY, Kind.VALUE):
            self._attention(name, sizes, kind, transposed=axis == 1)
        self.places[name] = [torch.cat(self.places[name], axis)]

    def _attention(self, name: str, shape: tuple[int, ...], kind: Kind, transposed: bool) -> None:
        if self.heads is None:
            raise TraceError(
                f"{name!r} belongs to an attention, but the model has no configuration that tells its heads "
                "(model.config.num_attention_heads). Use a network without a graph, such as nino_mlp."
            )
        outputs = shape[1] if transposed else shape[0]
        if kind is Kind.QUERY:
            self.block = self.stream
            self.head_nodes = self._new(self.heads[0])
            self.queries = self._new(outputs)
            self._dense(name, self.block, self.queries, kind, transposed)
            self._mark_heads(self.queries, self.heads[0])
            return
        assert self.block is not None
        if kind is Kind.KEY:
            self._dense(name, self.block, self.queries[:outputs], kind, transposed, backwards=True)
        else:
            self.values = self._new(outputs)
            self._dense(name, self.block, self.values, kind, transposed)
            self._mark_heads(self.values, self.heads[1])

    def _mark_heads(self, neurons: Tensor, heads: int) -> None:
        for node, own in zip(self.head_nodes, neurons.chunk(heads), strict=False):
            self._part(node.expand(len(own)), own, Kind.HEAD, 1.0)

    def _dense(
        self,
        name: str,
        sources: Tensor,
        targets: Tensor,
        kind: Kind,
        transposed: bool,
        backwards: bool = False,
        shape: Sequence[int] = (),
    ) -> None:
        """Edges from all sources to all targets; the parameter is [targets, sources, …], or transposed."""
        first, second = (sources, targets) if transposed else (targets, sources)
        ends = [first[:, None].expand(-1, len(second)), second[None].expand(len(first), -1)]
        into, out = (ends[1], ends[0]) if transposed else (ends[0], ends[1])
        if backwards:
            into, out = out, into
        edges = self._part(out.flatten(), into.flatten(), kind).view(len(first), len(second), *[1] * len(shape[2:]))
        elements = int(np.prod(shape[2:])) if len(shape) > 2 else 1
        if elements > self.kernel:
            raise TraceError(f"{name!r} has kernels of {elements} elements; this network was made for {self.kernel}.")
        if elements > 1:
            edges = edges + torch.arange(elements).view(*shape[2:])
        self._places(name, edges)

    def _part(self, sources: Tensor, targets: Tensor, kind: Kind, value: float = 0.0) -> Tensor:
        """More edges; where the first elements of their kernels are."""
        self.parts.append((sources, targets, kind, value))
        first = self.edge_count
        self.edge_count += len(sources)
        return torch.arange(first, self.edge_count) * self.kernel

    def _places(self, name: str, places: Tensor) -> None:
        self.places.setdefault(name, []).append(places)

    def _new(self, count: int) -> Tensor:
        self.count += count
        return torch.arange(self.count - count, self.count)

    def graph(self, eigenvectors: int) -> NeuronGraph:
        """All of it."""
        nodes = torch.arange(self.count)
        self._part(nodes, nodes, Kind.SELF_LOOP, 2.0)
        sources, targets = torch.cat([part[0] for part in self.parts]), torch.cat([part[1] for part in self.parts])
        sizes = [len(part[0]) for part in self.parts]
        kinds = torch.cat([torch.full([n], int(p[2])) for n, p in zip(sizes, self.parts, strict=True)])
        values = torch.cat([torch.full([n], p[3]) for n, p in zip(sizes, self.parts, strict=True)])
        places = {name: torch.cat(parts) for name, parts in self.places.items()}
        vectors = laplacian_eigenvectors(sources, targets, self.count, eigenvectors)
        return NeuronGraph(sources, targets, kinds, values, vectors, places, self.kernel)


def laplacian_eigenvectors(sources: Tensor, targets: Tensor, nodes: int, number: int) -> Tensor:
    """Eigenvectors of the smallest eigenvalues but the first, of the symmetrically normalised Laplacian.

    The same for the same graph, where the published code draws their signs: the first of the largest entries of each is
    positive.

    Args:
        sources: Source nodes of edges, which count in both directions, and once however often.
        targets: Target nodes, in the same form.
        nodes: How many nodes.
        number: How many eigenvectors; zeros follow where the graph has fewer.

    Returns:
        [nodes, number], float32.
    """
    import scipy.sparse as sparse
    import scipy.sparse.linalg as linalg

    ones = np.ones(2 * len(sources))
    rows, columns = torch.cat([sources, targets]).numpy(), torch.cat([targets, sources]).numpy()
    adjacency = sparse.csr_matrix((ones, (rows, columns)), shape=(nodes, nodes))
    adjacency.data[:] = 1.0
    adjacency.setdiag(0)
    degrees = np.asarray(adjacency.sum(1)).ravel()
    root = np.divide(1.0, np.sqrt(degrees), out=np.zeros(nodes), where=degrees > 0)
    laplacian = sparse.identity(nodes) - sparse.diags(root) @ adjacency @ sparse.diags(root)
    if nodes <= max(_DENSE, number + 1):
        vectors = np.linalg.eigh(laplacian.toarray())[1][:, 1 : number + 1]
    else:
        values, found = linalg.eigsh(laplacian, k=number + 1, which="SA", v0=np.ones(nodes))
        vectors = found[:, values.argsort()[1:]]
    # The first of the largest: on symmetric graphs entries of both signs are largest, and rounding picks one of them.
    sizes = np.abs(vectors)
    largest = vectors[(sizes >= (1 - 1e-4) * sizes.max(0)).argmax(0), np.arange(vectors.shape[1])]
    padded = np.zeros((nodes, number), dtype=np.float32)
    padded[:, : vectors.shape[1]] = vectors * np.where(largest < 0, -1.0, 1.0)
    return torch.from_numpy(padded)
