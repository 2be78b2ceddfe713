"""From images to tokens and from tokens to one vector: patches, positions, pooling."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypergen.architectures.idioms.layers import activation, map_norm, token_norm

PATCHES = ("conv", "reshape", "unfold", "normed", "rows", "columns", "pixel_unshuffle", "conv_stem", "overlapping")
POSITIONS = ("learned", "sinusoidal", "axes", "embedding", "rotary", "relative", "none")
POOLING = ("class_token", "mean", "first", "last", "max", "attention", "query", "flatten")


class Patches(nn.Module):
    """Images to tokens ``[batch, tokens, width]``.

    Args:
        spelling: One of :data:`PATCHES`: a strided convolution; patches cut out by ``reshape`` and a linear layer;
            :class:`torch.nn.Unfold`; a reshape with norms around the linear layer; rows or columns of pixels;
            ``PixelUnshuffle`` and a 1×1 convolution; two convolutions; overlapping patches.
        image_size: Height and width of the images.
        channels: Channels of the images.
        width: Size of a token.
        patch_size: Side of a patch; it divides ``image_size``.
        norm: Normalisation in ``"normed"``.

    Attributes:
        tokens: Number of tokens.
    """

    def __init__(
        self, spelling: str, image_size: int, channels: int, width: int, patch_size: int, norm: str = "layer"
    ) -> None:
        super().__init__()
        self.spelling, self.patch_size = spelling, patch_size
        features = channels * patch_size**2
        self.tokens = (image_size // patch_size) ** 2
        if spelling in ("rows", "columns"):
            self.tokens = image_size
            self.project: nn.Module = nn.Linear(channels * image_size, width)
        elif spelling == "conv":
            self.project = nn.Conv2d(channels, width, patch_size, stride=patch_size)
        elif spelling == "overlapping":
            kernel_size = patch_size + 1 + patch_size % 2
            self.project = nn.Conv2d(channels, width, kernel_size, stride=patch_size, padding=kernel_size // 2)
            self.tokens = ((image_size + 2 * (kernel_size // 2) - kernel_size) // patch_size + 1) ** 2
        elif spelling == "conv_stem":
            self.project = nn.Sequential(
                nn.Conv2d(channels, width // 2, 3, padding=1, bias=False),
                map_norm("batch", width // 2),
                activation("relu"),
                nn.Conv2d(width // 2, width, patch_size, stride=patch_size),
            )
        elif spelling == "pixel_unshuffle":
            self.project = nn.Sequential(nn.PixelUnshuffle(patch_size), nn.Conv2d(features, width, 1))
        elif spelling == "unfold":
            self.unfold = nn.Unfold(patch_size, stride=patch_size)
            self.project = nn.Linear(features, width)
        elif spelling == "normed":
            norms = [token_norm(norm, features), nn.Linear(features, width), token_norm(norm, width)]
            self.project = nn.Sequential(*norms)
        else:
            self.project = nn.Linear(features, width)

    def forward(self, images: Tensor) -> Tensor:
        """Cut ``[batch, channels, height, width]`` into tokens."""
        if self.spelling in ("rows", "columns"):
            moved = images.permute(0, 2, 1, 3) if self.spelling == "rows" else images.permute(0, 3, 1, 2)
            return self.project(moved.flatten(2))
        if self.spelling == "unfold":
            return self.project(self.unfold(images).transpose(1, 2))
        if self.spelling in ("reshape", "normed"):
            batch, channels, height, width = images.shape
            side = self.patch_size
            cut = images.reshape(batch, channels, height // side, side, width // side, side)
            return self.project(cut.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, side * side * channels))
        return self.project(images).flatten(2).transpose(1, 2)


class Positions(nn.Module):
    """Positions that are added to tokens ``[batch, tokens, width]``; rotary and relative ones act in the attention.

    Args:
        spelling: One of :data:`POSITIONS`: a learned table; sines and cosines; a table per image axis (of square token
            grids; else one table); an ``nn.Embedding`` read by a range.
        tokens: Number of tokens, class token included.
        width: Size of a token.
        extra: Class tokens among them.
    """

    waves: Tensor
    numbers: Tensor

    def __init__(self, spelling: str, tokens: int, width: int, extra: int = 0) -> None:
        super().__init__()
        side = math.isqrt(tokens - extra)
        if spelling == "axes" and (side**2 != tokens - extra or extra):
            spelling = "learned"
        self.spelling = spelling
        if spelling == "learned":
            self.table = nn.Parameter(0.02 * torch.randn(1, tokens, width))
        elif spelling == "sinusoidal":
            angles = torch.arange(tokens)[:, None] / 100 ** (torch.arange((width + 1) // 2) / (width / 2))
            waves = torch.stack([angles.sin(), angles.cos()], 2).flatten(1)[:, :width]
            self.register_buffer("waves", waves, persistent=False)
        elif spelling == "axes":
            self.rows = nn.Parameter(0.02 * torch.randn(1, side, 1, width))
            self.columns = nn.Parameter(0.02 * torch.randn(1, 1, side, width))
        elif spelling == "embedding":
            self.embedding = nn.Embedding(tokens, width)
            self.register_buffer("numbers", torch.arange(tokens), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Add the positions."""
        if self.spelling == "learned":
            return x + self.table
        if self.spelling == "sinusoidal":
            return x + self.waves
        if self.spelling == "axes":
            return x + (self.rows + self.columns).flatten(1, 2)
        if self.spelling == "embedding":
            return x + self.embedding(self.numbers)
        return x


class Pool(nn.Module):
    """Tokens ``[batch, tokens, width]`` to one vector ``[batch, features]``.

    Args:
        spelling: One of :data:`POOLING`: the class token or first token, the last, the mean or maximum, a mean weighted
            by a learned score (``"attention"``), cross-attention of a learned ``"query"``, or all tokens side by side.
        width: Size of a token.
        tokens: Number of tokens.

    Attributes:
        features: Size of the vector.
    """

    def __init__(self, spelling: str, width: int, tokens: int) -> None:
        super().__init__()
        self.spelling = spelling
        self.features = width * tokens if spelling == "flatten" else width
        if spelling == "attention":
            self.score = nn.Linear(width, 1)
        elif spelling == "query":
            self.query = nn.Parameter(0.02 * torch.randn(1, 1, width))
            self.kv = nn.Linear(width, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        """Pool the tokens."""
        if self.spelling in ("class_token", "first"):
            return x[:, 0]
        if self.spelling == "last":
            return x[:, -1]
        if self.spelling == "max":
            return x.max(dim=1).values
        if self.spelling == "flatten":
            return x.flatten(1)
        if self.spelling == "attention":
            weights = F.softmax(self.score(x), dim=1)
            return torch.matmul(weights.transpose(-1, -2), x).squeeze(-2)
        if self.spelling == "query":
            key, value = self.kv(x).chunk(2, dim=-1)
            query = self.query.expand(x.shape[0], -1, -1)
            return F.scaled_dot_product_attention(query, key, value)[:, 0]
        return x.mean(dim=1)
