"""Decoder-only language models."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypergen.architectures.families.layers import norm1d_factory
from hypergen.architectures.families.token_nets import FeedForward

POSITIONS = ("learned", "rotary")


class CausalAttention(nn.Module):
    """Multi-head self-attention on what came before.

    Queries, keys and values come from one layer, head by head as in GPT-NeoX: what a row of its weight is for depends
    on the size of a head and not on the width.
    """

    def __init__(self, width: int, heads: int, bias: bool) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"{heads} heads do not divide a width of {width}")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.proj = nn.Linear(width, width, bias=bias)

    def forward(self, x: Tensor, angles: Tensor | None) -> Tensor:
        """Maps [batch, tokens, width] to the same; ``angles`` [tokens, head / 2] turn queries and keys."""
        batch, tokens, width = x.shape
        qkv = self.qkv(x).view(batch, tokens, self.heads, 3, width // self.heads)
        query, key, value = qkv.permute(3, 0, 2, 1, 4).unbind(0)  # each [batch, heads, tokens, width / heads]
        if angles is not None:
            query, key = rotated(query, angles), rotated(key, angles)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, width))


def rotated(x: Tensor, angles: Tensor) -> Tensor:
    """Rotary positions (Su et al., "RoFormer", 2021, arXiv 2104.09864) of [..., tokens, size] by [tokens, size / 2]."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class DecoderBlock(nn.Module):
    """Pre-norm causal attention and feed-forward, each on a residual."""

    def __init__(self, width: int, heads: int, hidden: int, norm: str, activation: str, bias: bool) -> None:
        super().__init__()
        make_norm = norm1d_factory(norm)
        self.norm1 = make_norm(width)
        self.attention = CausalAttention(width, heads, bias)
        self.norm2 = make_norm(width)
        self.feed_forward = FeedForward(width, hidden, activation, bias)

    def forward(self, x: Tensor, angles: Tensor | None) -> Tensor:
        """Maps [batch, tokens, width] to the same."""
        x = x + self.attention(self.norm1(x), angles)
        return x + self.feed_forward(self.norm2(x))


class GPT(nn.Module):
    """Language Models are Unsupervised Multitask Learners (Radford et al., 2019), with its successors' options.

    At its own initialisation weights are normal with a standard deviation of 0.02, those that end a residual branch
    smaller by √(2 · depth), and biases zero.

    Args:
        vocabulary: Number of different tokens.
        context: The longest sequence.
        width: Size of a token.
        depth: Number of blocks.
        heads: Attention heads; they divide ``width``.
        mlp_ratio: Hidden over outer width of the feed-forward parts.
        norm: ``"layer"``, ``"rms"`` or ``"none"``.
        activation: A name in :data:`hypergen.architectures.families.layers.ACTIVATIONS`.
        positions: ``"learned"`` (a table) or ``"rotary"``.
        tied: The head's weight is the table of tokens.
        bias: Whether linear layers (but the head) have biases.

    Raises:
        ValueError: An option is unknown, or the heads do not divide the width.
    """

    def __init__(
        self,
        vocabulary: int,
        context: int,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: int = 4,
        norm: str = "layer",
        activation: str = "gelu",
        positions: str = "learned",
        tied: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if positions not in POSITIONS:
            raise ValueError(f"unknown positions {positions!r}; expected one of {list(POSITIONS)}")
        self.head_size = width // heads
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.empty(context, width)) if positions == "learned" else None
        self.blocks = nn.ModuleList(
            DecoderBlock(width, heads, mlp_ratio * width, norm, activation, bias) for _ in range(depth)
        )
        self.norm = norm1d_factory(norm)(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.head.weight = self.tokens.weight
        self._initialise(depth)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [batch, length], int64, to logits of the next ones [batch, length, vocabulary]."""
        x = self.tokens(tokens)
        angles = None
        if self.positions is None:
            rates = 10_000 ** -torch.arange(0, 1, 2 / self.head_size, device=x.device)
            angles = torch.arange(x.shape[1], device=x.device)[:, None] * rates
        else:
            x = x + self.positions[: x.shape[1]]
        for block in self.blocks:
            x = block(x, angles)
        return self.head(self.norm(x))

    def _initialise(self, depth: int) -> None:
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                ends_branch = name.endswith(("proj.weight", "fc2.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * depth) if ends_branch else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
