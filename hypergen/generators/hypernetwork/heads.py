"""Heads: the state of a condition in, the values of every field out."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hypergen.errors import UnknownNameError

HEADS = ("per_tensor", "per_type", "chunked", "recurrent", "query")


class Heads(nn.Module):
    """Values of unit scale for each field, from the state of a condition.

    - ``per_tensor``: a linear head for each tensor (Ha, Dai and Le, *HyperNetworks*, 2016, arXiv:1609.09106).
    - ``per_type``: one for each shape; learned embeddings tell tensors of one shape apart (Text-to-LoRA,
      arXiv:2506.06105).
    - ``chunked``: one for all chunks of one long vector, with an embedding for each (von Oswald et al., *Continual
      learning with hypernetworks*, 2019, arXiv:1906.00695).
    - ``recurrent``: as ``per_type``, a recurrent network going from tensor to tensor, so that each depends on those
      before it.
    - ``query``: as ``per_type``, each tensor's embedding asking tokens of the condition by attention (HyPINO,
      arXiv:2509.05117).

    Args:
        shapes: Shape of each field.
        hidden: Size of the state.
        kind: Which of these.
        chunk_size: Values of a chunk.
        init_scale: Standard deviation of the values at the start; 0 for zeros.
        tokens: Number of tokens of the condition that are asked.

    Shapes:
        state: ``[conditions, hidden]``; returns ``[conditions, *shape]`` for each field.
    """

    def __init__(
        self,
        shapes: Sequence[Sequence[int]],
        hidden: int,
        kind: str = "per_tensor",
        *,
        chunk_size: int = 1024,
        init_scale: float = 0.0,
        tokens: int = 4,
    ) -> None:
        super().__init__()
        if kind not in HEADS:
            raise UnknownNameError("kind of heads", kind, HEADS)
        self.kind, self.shapes, self.tokens = kind, [tuple(shape) for shape in shapes], tokens
        self.sizes = [math.prod(shape) for shape in self.shapes]
        groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        if kind == "per_tensor":
            outputs, entries = [sum(self.sizes)], 0
        elif kind == "chunked":
            chunk_size = min(chunk_size, sum(self.sizes))
            outputs, entries = [chunk_size], -(-sum(self.sizes) // chunk_size)
        else:
            for index, shape in enumerate(self.shapes):
                groups[shape].append(index)
            outputs, entries = [math.prod(shape) for shape in groups], len(self.shapes)
        self.groups = list(groups.values())
        self.readouts = nn.ModuleList(nn.Linear(hidden, size, bias=False) for size in outputs)
        for readout in self.readouts:
            # States have values of about 1, so that sums over them have this deviation.
            nn.init.normal_(readout.weight, std=init_scale / math.sqrt(hidden))  # type: ignore[arg-type]
        if entries:
            self.embedding = nn.Parameter(torch.randn(entries, hidden))
        if kind in ("per_type", "chunked"):
            self.from_state, self.from_embedding = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden, bias=False)
        elif kind == "recurrent":
            self.recurrence = nn.GRU(hidden, hidden, batch_first=True)
        elif kind == "query":
            self.to_tokens = nn.Linear(hidden, tokens * hidden)
            self.attention = nn.MultiheadAttention(hidden, 4 if hidden % 4 == 0 else 1, batch_first=True)

    def forward(self, state: Tensor) -> list[Tensor]:
        """Values of each field, ``[conditions, *shape]``."""
        number = len(state)
        if self.kind in ("per_tensor", "chunked"):
            values = self.readouts[0](state if self.kind == "per_tensor" else self.states_of_entries(state))
            pieces = values.reshape(number, -1)[:, : sum(self.sizes)].split(self.sizes, 1)
            return [piece.reshape(number, *shape) for piece, shape in zip(pieces, self.shapes, strict=True)]
        states = self.states_of_entries(state)
        found: list[Tensor] = [state] * len(self.shapes)
        for readout, members in zip(self.readouts, self.groups, strict=True):
            values = readout(states[:, members])
            for position, index in enumerate(members):
                found[index] = values[:, position].reshape(number, *self.shapes[index])
        return found

    def states_of_entries(self, state: Tensor) -> Tensor:
        """The state of each tensor or chunk, ``[conditions, entries, hidden]``."""
        if self.kind in ("per_type", "chunked"):
            mixed = self.from_state(state)[:, None] + self.from_embedding(self.embedding)
            return nn.functional.leaky_relu(mixed)
        queries = self.embedding.expand(len(state), -1, -1)
        if self.kind == "recurrent":
            return self.recurrence(queries, state[None].contiguous())[0]  # type: ignore[no-any-return]
        tokens = self.to_tokens(state).unflatten(1, (self.tokens, -1))
        return self.attention(queries, tokens, tokens, need_weights=False)[0]  # type: ignore[no-any-return]
