"""Classifiers on patches: the vision transformer and the MLP-mixer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypergen.architectures.families.layers import activation_factory, norm1d_factory


class FeedForward(nn.Module):
    """Linear, activation, linear on the last axis."""

    def __init__(self, features: int, hidden: int, activation: str, bias: bool = True) -> None:
        super().__init__()
        self.fc1 = nn.Linear(features, hidden, bias=bias)
        self.activation = activation_factory(activation)()
        self.fc2 = nn.Linear(hidden, features, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [..., features] to [..., features]."""
        return self.fc2(self.activation(self.fc1(x)))


class Attention(nn.Module):
    """Multi-head self-attention on tokens [batch, tokens, width]."""

    def __init__(self, width: int, heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"{heads} heads do not divide a width of {width}")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [batch, tokens, width] to [batch, tokens, width]."""
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [batch, heads, tokens, width / heads]
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, width))


class LayerScale(nn.Module):
    """A learned factor per channel (CaiT, Touvron et al., 2021, arXiv 2103.17239)."""

    def __init__(self, width: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), initial))

    def forward(self, x: Tensor) -> Tensor:
        """Scale [..., width]."""
        return x * self.gamma


class TransformerBlock(nn.Module):
    """Pre-norm attention and feed-forward, each on a residual."""

    def __init__(
        self, width: int, heads: int, hidden: int, norm: str, activation: str, qkv_bias: bool, layer_scale: float | None
    ) -> None:
        super().__init__()
        make_norm = norm1d_factory(norm)
        self.norm1 = make_norm(width)
        self.attention = Attention(width, heads, qkv_bias)
        self.scale1 = nn.Identity() if layer_scale is None else LayerScale(width, layer_scale)
        self.norm2 = make_norm(width)
        self.feed_forward = FeedForward(width, hidden, activation)
        self.scale2 = nn.Identity() if layer_scale is None else LayerScale(width, layer_scale)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [batch, tokens, width] to [batch, tokens, width]."""
        x = x + self.scale1(self.attention(self.norm1(x)))
        return x + self.scale2(self.feed_forward(self.norm2(x)))


class VisionTransformer(nn.Module):
    """An Image is Worth 16x16 Words (Dosovitskiy et al., 2021, arXiv 2010.11929).

    Args:
        image_size: Height and width of the images.
        channels: Channels of the images.
        num_classes: Number of logits.
        width: Size of a token.
        depth: Number of transformer blocks.
        heads: Attention heads; they divide ``width``.
        patch_size: Side of a patch.
        mlp_ratio: Hidden over outer width of the feed-forward parts.
        norm: ``"layer"`` or ``"none"``.
        activation: A name in :data:`hypergen.architectures.families.layers.ACTIVATIONS`.
        pooling: ``"class_token"`` or ``"mean"``.
        qkv_bias: Whether queries, keys and values have biases.
        layer_scale: Initial value of a learned factor per channel behind each part; None for no factor.

    Raises:
        ValueError: An option is unknown, or the heads do not divide the width.
    """

    def __init__(
        self,
        image_size: int,
        channels: int,
        num_classes: int,
        width: int,
        depth: int,
        heads: int,
        patch_size: int,
        mlp_ratio: int = 2,
        norm: str = "layer",
        activation: str = "gelu",
        pooling: str = "class_token",
        qkv_bias: bool = True,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__()
        if pooling not in ("class_token", "mean"):
            raise ValueError(f"unknown pooling {pooling!r}; expected 'class_token' or 'mean'")
        tokens = (image_size // patch_size) ** 2
        self.patches = nn.Conv2d(channels, width, patch_size, stride=patch_size)
        self.class_token: nn.Parameter | None = None
        if pooling == "class_token":
            self.class_token = nn.Parameter(torch.empty(1, 1, width))
            nn.init.trunc_normal_(self.class_token, std=0.02)
            tokens += 1
        self.positions = nn.Parameter(torch.empty(1, tokens, width))
        nn.init.trunc_normal_(self.positions, std=0.02)
        self.blocks = nn.Sequential(
            *[
                TransformerBlock(width, heads, mlp_ratio * width, norm, activation, qkv_bias, layer_scale)
                for _ in range(depth)
            ]
        )
        self.norm = norm1d_factory(norm)(width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images [batch, channels, height, width] to logits [batch, num_classes]."""
        x = self.patches(images).flatten(2).transpose(1, 2)  # [batch, tokens, width]
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], dim=1)
        x = self.norm(self.blocks(x + self.positions))
        return self.head(x.mean(dim=1) if self.class_token is None else x[:, 0])


class MixerBlock(nn.Module):
    """Token mixing and channel mixing, each on a residual."""

    def __init__(self, tokens: int, width: int, token_hidden: int, hidden: int, norm: str, activation: str) -> None:
        super().__init__()
        make_norm = norm1d_factory(norm)
        self.norm1 = make_norm(width)
        self.token_mixing = FeedForward(tokens, token_hidden, activation)
        self.norm2 = make_norm(width)
        self.channel_mixing = FeedForward(width, hidden, activation)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [batch, tokens, width] to [batch, tokens, width]."""
        x = x + self.token_mixing(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channel_mixing(self.norm2(x))


class Mixer(nn.Module):
    """MLP-Mixer (Tolstikhin et al., 2021, arXiv 2105.01601).

    Args:
        image_size: Height and width of the images.
        channels: Channels of the images.
        num_classes: Number of logits.
        width: Size of a token.
        depth: Number of mixer blocks.
        patch_size: Side of a patch.
        token_hidden: Hidden width of token mixing.
        mlp_ratio: Hidden over outer width of channel mixing.
        norm: ``"layer"`` or ``"none"``.
        activation: A name in :data:`hypergen.architectures.families.layers.ACTIVATIONS`.

    Raises:
        ValueError: An option is unknown.
    """

    def __init__(
        self,
        image_size: int,
        channels: int,
        num_classes: int,
        width: int,
        depth: int,
        patch_size: int,
        token_hidden: int = 32,
        mlp_ratio: int = 2,
        norm: str = "layer",
        activation: str = "gelu",
    ) -> None:
        super().__init__()
        self.tokens = (image_size // patch_size) ** 2
        self.patches = nn.Conv2d(channels, width, patch_size, stride=patch_size)
        self.blocks = nn.Sequential(
            *[MixerBlock(self.tokens, width, token_hidden, mlp_ratio * width, norm, activation) for _ in range(depth)]
        )
        self.norm = norm1d_factory(norm)(width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images [batch, channels, height, width] to logits [batch, num_classes]."""
        x = self.patches(images).flatten(2).transpose(1, 2)  # [batch, tokens, width]
        return self.head(self.norm(self.blocks(x)).mean(dim=1))
