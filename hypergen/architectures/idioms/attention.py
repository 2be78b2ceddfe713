"""Self-attention and feed-forward parts of transformers, each in the spellings that people use."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypergen.architectures.idioms.layers import activation, token_norm

PROJECTIONS = ("fused", "separate", "chunk", "query_and_pair", "per_head", "shared_key", "multihead")
MIXING = ("fused_kernel", "matmul", "einsum", "bmm")
FEED_FORWARDS = ("mlp", "dropout", "glu", "geglu", "swiglu", "conv1d", "normed")


def _rotated(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate pairs of features of ``[batch, heads, tokens, features]`` by ``[tokens, features / 2]``."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


class SelfAttention(nn.Module):
    """Multi-head self-attention on tokens ``[batch, tokens, width]``.

    Args:
        width: Size of a token.
        heads: Attention heads; they divide ``width``.
        tokens: Number of tokens, for relative positions.
        projection: One of :data:`PROJECTIONS`: one layer for queries, keys and values, reshaped or chunked; one each;
            one for queries and one for keys and values; a weight per head in an ``einsum``; one key and value for all
            heads; :class:`torch.nn.MultiheadAttention`.
        mixing: One of :data:`MIXING`: how the products of queries, keys and values are written.
        bias: Whether queries, keys and values have biases.
        positions: ``"rotary"`` and ``"relative"`` act here.
        causal: Whether a token sees the ones before it only.
        inner_norm: ``"query_key"`` normalises queries and keys, ``"output"`` what is mixed, ``"none"`` nothing.
        norm: The inner norm.
    """

    frequencies: Tensor
    visible: Tensor | None

    def __init__(
        self,
        width: int,
        heads: int,
        tokens: int,
        projection: str = "fused",
        mixing: str = "fused_kernel",
        bias: bool = True,
        positions: str = "none",
        causal: bool = False,
        inner_norm: str = "none",
        norm: str = "layer",
    ) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.projection, self.mixing, self.causal = projection, mixing, causal
        self.register_buffer(
            "visible", torch.ones(tokens, tokens, dtype=torch.bool).tril() if causal else None, persistent=False
        )
        if projection == "multihead":
            self.attention = nn.MultiheadAttention(width, heads, batch_first=True, bias=bias)
            return
        if projection in ("fused", "chunk"):
            self.qkv = nn.Linear(width, 3 * width, bias=bias)
        elif projection == "separate":
            self.query, self.key, self.value = (nn.Linear(width, width, bias=bias) for _ in range(3))
        elif projection == "query_and_pair":
            self.to_q, self.to_kv = nn.Linear(width, width, bias=bias), nn.Linear(width, 2 * width, bias=bias)
        elif projection == "shared_key":
            self.to_q, self.to_kv = nn.Linear(width, width, bias=bias), nn.Linear(width, 2 * self.size, bias=bias)
        else:
            shape = (heads, width, self.size)
            self.query_weight, self.key_weight, self.value_weight = (
                nn.Parameter(torch.randn(shape) / math.sqrt(width)) for _ in range(3)
            )
        self.rotary = positions == "rotary" and self.size % 2 == 0
        if self.rotary:
            rates = 100.0 ** -(torch.arange(0, self.size, 2) / self.size)
            self.register_buffer("frequencies", torch.arange(tokens)[:, None] * rates, persistent=False)
        self.relative = nn.Parameter(0.02 * torch.randn(heads, tokens, tokens)) if positions == "relative" else None
        own = inner_norm == "query_key"
        self.query_norm = token_norm(norm, self.size) if own else nn.Identity()
        self.key_norm = token_norm(norm, self.size) if own else nn.Identity()
        self.output_norm = token_norm(norm, width) if inner_norm == "output" else nn.Identity()
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, tokens, width]`` to the same."""
        if self.projection == "multihead":
            hidden = None if self.visible is None else ~self.visible
            return self.attention(x, x, x, need_weights=False, attn_mask=hidden)[0]
        batch, tokens, width = x.shape
        query, key, value = self._project(x)
        query, key = self.query_norm(query), self.key_norm(key)
        if self.rotary:
            query, key = _rotated(query, self.frequencies), _rotated(key, self.frequencies)
        mixed = self.output_norm(self._mix(query, key, value).transpose(1, 2).reshape(batch, tokens, width))
        return self.proj(mixed)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each ``[batch, heads, tokens, size]``."""
        batch, tokens, _ = x.shape
        if self.projection == "fused":
            query, key, value = self.qkv(x).reshape(batch, tokens, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
            return query, key, value
        if self.projection == "per_head":
            weights = (self.query_weight, self.key_weight, self.value_weight)
            query, key, value = (torch.einsum("bnd,hde->bhne", x, weight) for weight in weights)
            return query, key, value
        if self.projection == "chunk":
            parts = self.qkv(x).chunk(3, dim=-1)
        elif self.projection == "separate":
            parts = (self.query(x), self.key(x), self.value(x))
        else:
            parts = (self.to_q(x), *self.to_kv(x).chunk(2, dim=-1))
        query, key, value = (part.view(batch, tokens, -1, self.size).transpose(1, 2) for part in parts)
        if self.projection == "shared_key":
            key, value = (part.expand(batch, self.heads, tokens, self.size) for part in (key, value))
        return query, key, value

    def _mix(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        scale = self.size**-0.5
        if self.mixing == "fused_kernel" and self.relative is None:
            return F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        if self.mixing == "einsum":
            scores = torch.einsum("bhid,bhjd->bhij", query, key) * scale
            return torch.einsum("bhij,bhjd->bhid", self._weights(scores), value)
        if self.mixing == "bmm":
            batch, heads, tokens, size = query.shape
            query, key, value = (part.reshape(batch * heads, tokens, size) for part in (query, key, value))
            scores = torch.bmm(query * scale, key.transpose(1, 2)).view(batch, heads, tokens, tokens)
            weights = self._weights(scores).view(batch * heads, tokens, tokens)
            return torch.bmm(weights, value).view(batch, heads, tokens, size)
        return self._weights(query @ key.transpose(-2, -1) / math.sqrt(self.size)) @ value

    def _weights(self, scores: Tensor) -> Tensor:
        if self.relative is not None:
            scores = scores + self.relative
        if self.visible is not None:
            scores = scores.masked_fill(~self.visible, float("-inf"))
        return scores.softmax(dim=-1)


class GatedFeedForward(nn.Module):
    """Feed-forward with a gate (GLU Variants Improve Transformer, Shazeer, 2020, arXiv 2002.05202).

    Args:
        width: Size of a token.
        hidden: Inner width.
        spelling: ``"glu"`` with :func:`torch.nn.functional.glu`, ``"geglu"`` chunked, ``"swiglu"`` with three layers.
    """

    def __init__(self, width: int, hidden: int, spelling: str) -> None:
        super().__init__()
        self.spelling = spelling
        if spelling == "swiglu":
            self.w1, self.w2, self.w3 = (
                nn.Linear(width, hidden, bias=False),
                nn.Linear(hidden, width, bias=False),
                nn.Linear(width, hidden, bias=False),
            )
        else:
            self.fc1, self.fc2 = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., width]`` to the same."""
        if self.spelling == "swiglu":
            return self.w2(F.silu(self.w1(x)) * self.w3(x))
        if self.spelling == "glu":
            return self.fc2(F.glu(self.fc1(x), dim=-1))
        value, gate = self.fc1(x).chunk(2, dim=-1)
        return self.fc2(value * F.gelu(gate))


class PointwiseFeedForward(nn.Module):
    """Feed-forward of two 1-D convolutions over moved channels, as speech models write it."""

    def __init__(self, width: int, hidden: int, activation_name: str) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(width, hidden, 1), nn.Conv1d(hidden, width, 1)
        self.act = activation(activation_name)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, tokens, width]`` to the same."""
        return self.conv2(self.act(self.conv1(x.transpose(1, 2)))).transpose(1, 2)


def feed_forward(spelling: str, width: int, hidden: int, activation_name: str, norm: str = "layer") -> nn.Module:
    """The feed-forward part of a block; one of :data:`FEED_FORWARDS`."""
    if spelling in ("glu", "geglu", "swiglu"):
        return GatedFeedForward(width, hidden, spelling)
    if spelling == "conv1d":
        return PointwiseFeedForward(width, hidden, activation_name)
    first, second = nn.Linear(width, hidden), nn.Linear(hidden, width)
    act = activation(activation_name)
    if spelling == "dropout":
        return nn.Sequential(first, act, nn.Dropout(0.1), second, nn.Dropout(0.1))
    if spelling == "normed":
        return nn.Sequential(first, act, token_norm(norm, hidden), second)
    return nn.Sequential(first, act, second)
