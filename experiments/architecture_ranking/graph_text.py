"""Architectures as text, and what a small language model says of them: no weights are read."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from hypergen.graph.computational_graph import ComputationalGraph


def graph_text(graph: ComputationalGraph) -> tuple[str, ...]:
    """A computational graph as text, a line per operation.

    A line is the operation, its output's shape without the batch, attributes, the shapes of parameters, and how many
    lines above its inputs are: ``conv2d out=24x4x4 groups=1 stride=2x2 weight=24x1x3x3 from=1``.
    """
    inputs: list[list[int]] = [[] for _ in graph.nodes]
    for source, target in graph.edges.T.tolist():
        inputs[target].append(target - source)
    lines = []
    for node, above in zip(graph.nodes, inputs, strict=True):
        words = {"out": node.shape[1:], **dict(sorted(node.attributes.items()))}
        words |= {role: graph.parameter_shapes[name] for role, name in node.parameters.items()}
        words["from"] = tuple(sorted(above))
        lines.append(" ".join([node.op, *(f"{key}={_word(value)}" for key, value in words.items())]))
    return tuple(lines)


class GraphTextEncoder(nn.Module):
    """Scores architectures from their text, by a transformer over its lines.

    The task is that of ONNX-Net (2025): a textual form that any network has, in place of an encoding of one space. A
    line is the sum of its words; numbers are told apart by their magnitude, and words by a hash, so that there is no
    vocabulary that a new operation would not be in.

    Args:
        hidden: Channels.
        layers: Number of layers of the transformer.
        heads: Number of its attention heads.
        words: Rows of the table that words are hashed into.
        dropout: Dropout probability of the transformer.
    """

    def __init__(
        self, hidden: int = 48, layers: int = 2, heads: int = 4, words: int = 2048, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.hidden, self.words = hidden, words
        self.embedding = nn.EmbeddingBag(words, hidden, mode="sum")
        nn.init.normal_(self.embedding.weight, std=0.1)
        layer = nn.TransformerEncoderLayer(
            hidden, heads, 2 * hidden, dropout, batch_first=True, norm_first=True, activation="gelu"
        )
        self.transformer = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(2 * hidden), nn.Linear(2 * hidden, 1))

    def forward(self, texts: Sequence[Sequence[str]]) -> Tensor:
        """Scores, [architectures], of the lines of each."""
        lengths = torch.tensor([len(lines) for lines in texts])
        numbers = [_rows(line, self.words) for lines in texts for line in lines]
        offsets = torch.tensor([0, *(len(own) for own in numbers[:-1])]).cumsum(0)
        flat = torch.tensor([number for own in numbers for number in own])
        device = self.embedding.weight.device
        lines = self.embedding(flat.to(device), offsets.to(device)).split(lengths.tolist())
        padded = nn.utils.rnn.pad_sequence(lines, batch_first=True)
        there = (torch.arange(padded.shape[1])[None] < lengths[:, None]).to(device)
        states = self.transformer(
            padded + _positions(padded.shape[1], self.hidden).to(padded), src_key_padding_mask=~there
        )
        states = states * there[..., None]
        total = states.sum(1)
        # The sum grows with the network's length, and tells it.
        return self.head(torch.cat([total / lengths[:, None].to(device), total / 32], 1)).squeeze(1)


def ranking_loss(scores: Tensor, measured: Tensor) -> Tensor:
    """Cross-entropy of which of two is better, over all pairs that differ.

    Burges et al., *Learning to Rank using Gradient Descent*, 2005 (RankNet).

    Args:
        scores: [architectures].
        measured: [architectures].
    """
    better = measured[:, None] > measured[None]
    if not better.any():
        return scores.sum() * 0
    return nn.functional.softplus(-(scores[:, None] - scores[None])[better]).mean()


def _word(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value).replace(" ", "")


def _tokens(line: str) -> list[str]:
    """The operation, and each number with what it is of and its magnitude."""
    operation, *words = line.split(" ")
    tokens = [operation]
    for word in words:
        key, _, value = word.partition("=")
        for place, part in enumerate(value.split("x")):
            magnitude = str(round(3 * math.log2(1 + int(part)))) if part.isdecimal() else part
            tokens.append(f"{operation if key == 'out' else ''}{key}{place}={magnitude}")
    return tokens


@lru_cache(maxsize=2**16)
def _rows(line: str, count: int) -> tuple[int, ...]:
    return tuple(zlib.crc32(token.encode()) % count for token in _tokens(line))


def _positions(length: int, hidden: int) -> Tensor:
    rates = torch.exp(-math.log(10_000.0) * torch.arange(0, hidden, 2) / hidden)
    angles = torch.arange(length)[:, None] * rates
    return 0.1 * torch.cat([angles.sin(), angles.cos()], 1)
