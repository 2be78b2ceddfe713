"""Networks that mix tokens or positions without attention: mixers, gated MLPs, pooling and convolutional mixers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypergen.architectures.idioms.attention import feed_forward
from hypergen.architectures.idioms.layers import activation, dense_layers, gain, map_norm, token_norm
from hypergen.architectures.idioms.tokens import Patches, Pool, Positions

TOKEN_MIXERS = ("transposed", "conv1d", "einsum", "one_layer", "spatial_gate", "average", "decay")
MAP_MIXERS = ("pool", "depthwise", "depthwise_residual", "large_kernel", "shift", "separable", "identity")


class TokenMixing(nn.Module):
    """Mixes tokens ``[batch, tokens, width]`` along their second axis.

    Args:
        spelling: One of :data:`TOKEN_MIXERS`: two linear layers between transposes; two ``Conv1d`` that take tokens for
            channels; two weights in an ``einsum``; one linear layer (ResMLP); a gate that one half of the features puts
            on the other (gMLP, Liu et al., 2021, arXiv 2105.08050); the mean of all tokens; a learned sum of the
            previous ones.
        tokens: Number of tokens.
        width: Size of a token.
        hidden: Inner number of tokens.
        activation_name: Between two layers.
    """

    def __init__(self, spelling: str, tokens: int, width: int, hidden: int, activation_name: str) -> None:
        super().__init__()
        self.spelling = spelling
        self.act = activation(activation_name)
        if spelling == "transposed":
            self.fc1: nn.Module = nn.Linear(tokens, hidden)
            self.fc2: nn.Module = nn.Linear(hidden, tokens)
        elif spelling == "conv1d":
            self.fc1, self.fc2 = nn.Conv1d(tokens, hidden, 1), nn.Conv1d(hidden, tokens, 1)
        elif spelling == "einsum":
            self.w1 = nn.Parameter(torch.randn(hidden, tokens) / tokens**0.5)
            self.w2 = nn.Parameter(torch.randn(tokens, hidden) / hidden**0.5)
        elif spelling == "one_layer":
            self.fc = nn.Linear(tokens, tokens)
        elif spelling == "spatial_gate":
            self.grow, self.shrink = nn.Linear(width, 2 * width), nn.Linear(width, width)
            self.norm, self.gate = nn.LayerNorm(width), nn.Conv1d(tokens, tokens, 1)
        elif spelling == "average":
            self.fc = nn.Linear(width, width)
        else:
            self.mix = nn.Parameter(torch.zeros(tokens, tokens))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, tokens, width]`` to the same."""
        if self.spelling == "transposed":
            return self.fc2(self.act(self.fc1(x.transpose(1, 2)))).transpose(1, 2)
        if self.spelling == "conv1d":
            return self.fc2(self.act(self.fc1(x)))
        if self.spelling == "einsum":
            inner = self.act(torch.einsum("btc,ht->bhc", x, self.w1))
            return torch.einsum("bhc,th->btc", inner, self.w2)
        if self.spelling == "one_layer":
            return self.fc(x.permute(0, 2, 1)).permute(0, 2, 1)
        if self.spelling == "spatial_gate":
            shown, gate = F.gelu(self.grow(x)).chunk(2, dim=-1)
            return self.shrink(shown * self.gate(self.norm(gate)))
        if self.spelling == "average":
            return self.fc(x.mean(dim=1, keepdim=True) - x)
        return torch.matmul(self.mix.softmax(dim=-1), x)


class MixerBlock(nn.Module):
    """Token mixing and a feed-forward part, each on a residual with a norm before it."""

    def __init__(
        self, mixing: nn.Module, width: int, hidden: int, kind: str, norm: str, gains: str, activation_name: str
    ) -> None:
        super().__init__()
        self.norm1, self.mixing, self.gain1 = token_norm(norm, width), mixing, gain(gains, width)
        self.norm2, self.gain2 = token_norm(norm, width), gain(gains, width)
        self.ff = feed_forward(kind, width, hidden, activation_name)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, tokens, width]`` to the same."""
        x = x + self.gain1(self.mixing(self.norm1(x)))
        return x + self.gain2(self.ff(self.norm2(x)))


class TokenMixer(nn.Module):
    """An MLP-mixer in one of many spellings.

    Args:
        image_size: Height and width of the images.
        channels: Channels of the images.
        num_classes: Number of logits.
        width: Size of a token.
        depth: Number of blocks.
        patch_size: Side of a patch.
        hidden: Inner width of the feed-forward parts.
        token_hidden: Inner number of tokens.
        mixing: See :class:`TokenMixing`.
        patches: See :class:`~hypergen.architectures.idioms.tokens.Patches`.
        positions: See :class:`~hypergen.architectures.idioms.tokens.Positions`.
        pooling: See :class:`~hypergen.architectures.idioms.tokens.Pool`; no class token.
        feed_forward_kind: See :func:`~hypergen.architectures.idioms.attention.feed_forward`.
        norm: Normalisation of the blocks and before the head.
        gains: Factors on the branches.
        activation_name: Name of the activation function of both parts.
        head_layers: Linear layers of the head.
    """

    def __init__(
        self,
        image_size: int,
        channels: int,
        num_classes: int,
        width: int,
        depth: int,
        patch_size: int,
        hidden: int,
        token_hidden: int = 16,
        mixing: str = "transposed",
        patches: str = "conv",
        positions: str = "none",
        pooling: str = "mean",
        feed_forward_kind: str = "mlp",
        norm: str = "layer",
        gains: str = "none",
        activation_name: str = "gelu",
        head_layers: int = 1,
    ) -> None:
        super().__init__()
        self.patches = Patches(patches, image_size, channels, width, patch_size)
        tokens = self.patches.tokens
        self.positions = Positions(positions, tokens, width)
        blocks = [
            MixerBlock(
                TokenMixing(mixing, tokens, width, token_hidden, activation_name),
                width,
                hidden,
                feed_forward_kind,
                norm,
                gains,
                activation_name,
            )
            for _ in range(depth)
        ]
        self.blocks = nn.Sequential(*blocks)
        self.norm, self.pool = token_norm(norm, width), Pool(pooling, width, tokens)
        self.head = dense_layers(self.pool.features, num_classes, head_layers, width, activation_name)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[batch, channels, height, width]`` to logits ``[batch, num_classes]``."""
        return self.head(self.pool(self.norm(self.blocks(self.positions(self.patches(images))))))


class _PoolMixing(nn.Module):
    """Average pooling minus the input (PoolFormer, Yu et al., 2022, arXiv 2111.11418)."""

    def __init__(self, kernel_size: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(kernel_size, stride=1, padding=kernel_size // 2, count_include_pad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x) - x


class _Shift(nn.Module):
    """A fifth of the channels moves one pixel in each direction (ShiftViT, Wang et al., 2022, arXiv 2201.10801)."""

    def forward(self, x: Tensor) -> Tensor:
        parts = list(x.chunk(5, dim=1)) if x.shape[1] >= 5 else [x]
        moves = ((1, 2), (-1, 2), (1, 3), (-1, 3))
        moved = [torch.roll(part, *move) for part, move in zip(parts, moves, strict=False)]
        return torch.cat([*moved, *parts[4:]], dim=1)


def _map_mixing(spelling: str, channels: int, kernel_size: int, activation_name: str) -> nn.Module:
    if spelling == "pool":
        return _PoolMixing(3)
    if spelling == "shift":
        return _Shift()
    if spelling == "identity":
        return nn.Identity()
    depthwise = nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)
    if spelling == "separable":
        inner = nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels, bias=False)
        act = activation(activation_name)
        return nn.Sequential(nn.Conv2d(channels, channels, 1), act, inner, nn.Conv2d(channels, channels, 1))
    return depthwise


class MapMixerBlock(nn.Module):
    """Mixing of positions and a feed-forward part on maps, wired as PoolFormer, ConvMixer or ConvNeXt.

    Args:
        wiring: ``"metaformer"`` (norm, mixing, sum; norm, feed-forward, sum), ``"convmixer"`` (convolution, activation,
            norm on a residual, then a 1×1 convolution), ``"convnext"`` (mixing, norm, feed-forward, one sum).
        mixing: One of :data:`MAP_MIXERS`.
        channels: Channels of the map.
        hidden: Inner width of the feed-forward part.
        kernel_size: Kernel size of the mixing.
        norm: A name in :data:`~hypergen.architectures.idioms.layers.MAP_NORMS`.
        gains: Factors on the branches.
        activation_name: Name of the activation function of both parts.
        linear: Whether the feed-forward part is of linear layers on channels moved last.
    """

    def __init__(
        self,
        wiring: str,
        mixing: str,
        channels: int,
        hidden: int,
        kernel_size: int,
        norm: str,
        gains: str,
        activation_name: str,
        linear: bool,
    ) -> None:
        super().__init__()
        self.wiring, self.linear = wiring, linear
        self.mixing = _map_mixing(mixing, channels, kernel_size, activation_name)
        self.norm1 = map_norm(norm, channels)
        self.norm2 = map_norm(norm if wiring != "convnext" else "none", channels)
        self.gain1 = gain(gains if wiring == "metaformer" else "none", channels, maps=True)
        self.gain2 = gain(gains if wiring != "convmixer" else "none", channels, maps=True)
        self.act = activation(activation_name)
        if wiring == "convmixer":
            self.ff: nn.Module = nn.Conv2d(channels, channels, 1)
        elif linear:
            self.ff = feed_forward("mlp", channels, hidden, activation_name)
        else:
            act = activation(activation_name)
            self.ff = nn.Sequential(nn.Conv2d(channels, hidden, 1), act, nn.Conv2d(hidden, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, channels, height, width]`` to the same."""
        if self.wiring == "convmixer":
            x = x + self.norm1(self.act(self.mixing(x)))
            return self.norm2(self.act(self.ff(x)))
        if self.wiring == "convnext":
            return x + self.gain2(self._feed_forward(self.norm1(self.mixing(x))))
        x = x + self.gain1(self.mixing(self.norm1(x)))
        return x + self.gain2(self._feed_forward(self.norm2(x)))

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.ff(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) if self.linear else self.ff(x)


class MapMixer(nn.Module):
    """PoolFormer, ConvMixer, ConvNeXt and their relatives: patches as a map, one or two stages, a pooled head.

    Args:
        image_size: Height and width of the images.
        channels: Channels of the images.
        num_classes: Number of logits.
        width: Channels of the first stage; a second has half as many again.
        depth: Number of blocks.
        patch_size: Side of a patch.
        hidden_ratio: Inner over outer width of the feed-forward parts.
        wiring: See :class:`MapMixerBlock`; so are the next six.
        mixing: How positions are mixed.
        kernel_size: Kernel size of the mixing.
        norm: Normalisation of the blocks.
        gains: Factors on the branches.
        activation_name: Name of the activation function of both parts.
        linear: Whether feed-forward parts are linear layers.
        two_stages: Whether a strided convolution halves the map half way.
        pooling_first: Whether the map is pooled before the last norm rather than after it.
    """

    def __init__(
        self,
        image_size: int,
        channels: int,
        num_classes: int,
        width: int,
        depth: int,
        patch_size: int,
        hidden_ratio: int = 2,
        wiring: str = "metaformer",
        mixing: str = "pool",
        kernel_size: int = 3,
        norm: str = "layer",
        gains: str = "none",
        activation_name: str = "gelu",
        linear: bool = False,
        two_stages: bool = False,
        pooling_first: bool = False,
    ) -> None:
        super().__init__()
        act = activation(activation_name)
        stem: list[nn.Module] = [nn.Conv2d(channels, width, patch_size, stride=patch_size)]
        if wiring == "convmixer":
            stem += [act, map_norm(norm, width)]
        elif wiring == "convnext":
            stem.append(map_norm(norm, width))
        self.stem = nn.Sequential(*stem)
        blocks: list[nn.Module] = []
        for index in range(depth):
            if two_stages and index == (depth + 1) // 2 and image_size // patch_size >= 4:
                wider = width + width // 2
                blocks += [map_norm(norm, width), nn.Conv2d(width, wider, 2, stride=2)]
                width = wider
            hidden = hidden_ratio * width
            blocks.append(
                MapMixerBlock(wiring, mixing, width, hidden, kernel_size, norm, gains, activation_name, linear)
            )
        self.blocks = nn.Sequential(*blocks)
        self.pooling_first = pooling_first
        self.norm = token_norm("layer", width) if pooling_first else map_norm(norm, width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[batch, channels, height, width]`` to logits ``[batch, num_classes]``."""
        x = self.blocks(self.stem(images))
        if self.pooling_first:
            return self.head(self.norm(x.mean([-2, -1])))
        return self.head(F.adaptive_avg_pool2d(self.norm(x), 1).flatten(1))
