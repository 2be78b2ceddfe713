"""Transformers on images: every way of patching, attending, normalising and pooling that people combine."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hypergen.architectures.idioms.attention import SelfAttention, feed_forward
from hypergen.architectures.idioms.layers import activation, dense_layers, gain, token_norm
from hypergen.architectures.idioms.tokens import Patches, Pool, Positions

NORM_PLACES = ("pre", "post", "branch_end", "sandwich", "inner", "query_key", "parallel", "pre_without_last")
BLOCKS = ("own", "encoder_layer", "encoder")


class Block(nn.Module):
    """Attention and feed-forward, each on a residual.

    Args:
        width: Size of a token.
        attention: The attention part.
        feed_forward_part: The feed-forward part.
        place: One of :data:`NORM_PLACES`: before each part, after each sum, at the end of each branch, at both of its
            ends, inside each part, or before both parts, which then run side by side.
        norm: A name in :data:`~hypergen.architectures.idioms.layers.TOKEN_NORMS`.
        gains: A name in :data:`~hypergen.architectures.idioms.layers.GAINS`.
    """

    def __init__(
        self, width: int, attention: nn.Module, feed_forward_part: nn.Module, place: str, norm: str, gains: str
    ) -> None:
        super().__init__()
        before = place in ("pre", "pre_without_last", "sandwich", "inner", "query_key", "parallel")
        after = place in ("branch_end", "sandwich")
        self.parallel, self.post = place == "parallel", place == "post"
        self.norm1 = token_norm(norm if before or self.post else "none", width)
        self.norm2 = token_norm(norm if (before or self.post) and not self.parallel else "none", width)
        self.attn, self.ff = attention, feed_forward_part
        self.end1 = nn.Sequential(token_norm(norm if after else "none", width), gain(gains, width))
        self.end2 = nn.Sequential(token_norm(norm if after else "none", width), gain(gains, width))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, tokens, width]`` to the same."""
        if self.post:
            x = self.norm1(x + self.end1(self.attn(x)))
            return self.norm2(x + self.end2(self.ff(x)))
        if self.parallel:
            normed = self.norm1(x)
            return x + self.end1(self.attn(normed)) + self.end2(self.ff(normed))
        x = x + self.end1(self.attn(self.norm1(x)))
        return x + self.end2(self.ff(self.norm2(x)))


class Transformer(nn.Module):
    """A transformer on patches, rows or columns of an image.

    Args:
        image_size: Height and width of the images.
        channels: Channels of the images.
        num_classes: Number of logits.
        width: Size of a token.
        depth: Number of blocks.
        heads: Attention heads; they divide ``width``.
        hidden: Inner width of the feed-forward parts.
        patch_size: Side of a patch; it divides ``image_size``.
        patches: See :class:`~hypergen.architectures.idioms.tokens.Patches`.
        positions: See :class:`~hypergen.architectures.idioms.tokens.Positions`.
        pooling: See :class:`~hypergen.architectures.idioms.tokens.Pool`.
        block: ``"own"``, a list of :class:`torch.nn.TransformerEncoderLayer`, or :class:`torch.nn.TransformerEncoder`.
        projection: See :class:`~hypergen.architectures.idioms.attention.SelfAttention`; so are the next two.
        mixing: How products are written.
        bias: Whether queries, keys and values have biases.
        feed_forward_kind: See :func:`~hypergen.architectures.idioms.attention.feed_forward`.
        place: See :class:`Block`.
        norm: Normalisation of the blocks and before the head.
        gains: Factors on the branches.
        causal: Whether a token sees the ones before it only.
        activation_name: Name of the activation function of the feed-forward parts.
        head_layers: Linear layers of the head.
        batch_first: Whether PyTorch's layers take the batch first.
        dropout: After the positions; 0 for none.
    """

    def __init__(
        self,
        image_size: int,
        channels: int,
        num_classes: int,
        width: int,
        depth: int,
        heads: int,
        hidden: int,
        patch_size: int,
        patches: str = "conv",
        positions: str = "learned",
        pooling: str = "mean",
        block: str = "own",
        projection: str = "fused",
        mixing: str = "fused_kernel",
        bias: bool = True,
        feed_forward_kind: str = "mlp",
        place: str = "pre",
        norm: str = "layer",
        gains: str = "none",
        causal: bool = False,
        activation_name: str = "gelu",
        head_layers: int = 1,
        batch_first: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.patches = Patches(patches, image_size, channels, width, patch_size, norm)
        extra = int(pooling == "class_token")
        tokens = self.patches.tokens + extra
        self.class_token = nn.Parameter(0.02 * torch.randn(1, 1, width)) if extra else None
        self.positions = Positions(positions, tokens, width, extra)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.batch_first = block == "own" or batch_first
        if block == "own":
            inner = {"inner": "output", "query_key": "query_key"}.get(place, "none")
            # A norm of ScaleNorm or an affine map inside the attention would be no norm.
            inner_norm = norm if norm in ("layer", "rms", "layer_by_hand", "rms_by_hand") else "layer"
            blocks = [
                Block(
                    width,
                    SelfAttention(width, heads, tokens, projection, mixing, bias, positions, causal, inner, inner_norm),
                    feed_forward(feed_forward_kind, width, hidden, activation_name, norm),
                    place,
                    norm,
                    gains,
                )
                for _ in range(depth)
            ]
            self.blocks: nn.Module = nn.Sequential(*blocks)
        else:

            def layer() -> nn.TransformerEncoderLayer:
                return nn.TransformerEncoderLayer(
                    width,
                    heads,
                    hidden,
                    dropout=0.1,
                    activation="gelu" if activation_name == "gelu" else "relu",
                    batch_first=batch_first,
                    norm_first=place != "post",
                )

            if block == "encoder":
                self.blocks = nn.TransformerEncoder(layer(), depth, enable_nested_tensor=False)
            else:
                self.blocks = nn.Sequential(*[layer() for _ in range(depth)])
        self.norm = token_norm("none" if place in ("post", "pre_without_last") else norm, width)
        self.pool = Pool(pooling, width, tokens)
        act = activation_name if head_layers > 1 else "relu"
        self.head = dense_layers(self.pool.features, num_classes, head_layers, width, act)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[batch, channels, height, width]`` to logits ``[batch, num_classes]``."""
        x = self.patches(images)
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], dim=1)
        x = self.dropout(self.positions(x))
        x = self.blocks(x) if self.batch_first else self.blocks(x.transpose(0, 1)).transpose(0, 1)
        return self.head(self.pool(self.norm(x)))


class Recurrent(nn.Module):
    """A recurrent network over the rows, columns or patches of an image.

    Args:
        image_size: Height and width of the images.
        channels: Channels of the images.
        num_classes: Number of logits.
        width: Hidden units (of each direction).
        depth: Layers.
        cell: ``"lstm"``, ``"gru"``, ``"rnn"`` or ``"rnn_relu"``.
        patches: ``"none"`` for raw rows of pixels, or as in :class:`~hypergen.architectures.idioms.tokens.Patches`.
        patch_size: Side of a patch.
        bidirectional: Whether a second pass runs backwards.
        pooling: ``"hidden"`` for the last state that the layer returns, or what
            :class:`~hypergen.architectures.idioms.tokens.Pool` takes.
        head_layers: Linear layers of the head.
        norm: Before the head, as in :func:`~hypergen.architectures.idioms.layers.token_norm`.
        batch_first: Whether the layer takes the batch first.
        activation_name: Inside the head.
    """

    def __init__(
        self,
        image_size: int,
        channels: int,
        num_classes: int,
        width: int,
        depth: int,
        cell: str = "lstm",
        patches: str = "none",
        patch_size: int = 2,
        bidirectional: bool = False,
        pooling: str = "last",
        head_layers: int = 1,
        norm: str = "none",
        batch_first: bool = True,
        activation_name: str = "relu",
    ) -> None:
        super().__init__()
        self.patches = None if patches == "none" else Patches(patches, image_size, channels, width, patch_size)
        features = channels * image_size if self.patches is None else width
        tokens = image_size if self.patches is None else self.patches.tokens
        options = {"num_layers": depth, "batch_first": batch_first, "bidirectional": bidirectional}
        if cell == "lstm":
            self.rnn: nn.RNNBase = nn.LSTM(features, width, **options)
        elif cell == "gru":
            self.rnn = nn.GRU(features, width, **options)
        else:
            self.rnn = nn.RNN(features, width, nonlinearity="relu" if cell == "rnn_relu" else "tanh", **options)
        self.batch_first, self.pooling = batch_first, pooling
        out = width * (2 if bidirectional else 1)
        self.pool = Pool("last" if pooling == "hidden" else pooling, out, tokens)
        features = width if pooling == "hidden" else self.pool.features
        self.norm = token_norm(norm, features)
        self.head = dense_layers(features, num_classes, head_layers, width, activation_name)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[batch, channels, height, width]`` to logits ``[batch, num_classes]``."""
        x = images.transpose(1, 2).flatten(2) if self.patches is None else self.patches(images)
        states, last = self.rnn(x if self.batch_first else x.transpose(0, 1))
        if self.pooling == "hidden":
            pooled = (last[0] if isinstance(last, tuple) else last)[-1]
        else:
            pooled = self.pool(states if self.batch_first else states.transpose(0, 1))
        return self.head(self.norm(pooled))


class PixelMLP(nn.Module):
    """A perceptron on flattened pixels, as tutorials vary it.

    Args:
        image_size: Height and width of the images.
        channels: Channels of the images.
        num_classes: Number of logits.
        width: Units of the hidden layers.
        depth: Hidden layers.
        wiring: ``"plain"``, ``"residual"``, ``"dense"`` (concatenated inputs), ``"gated"`` (GLU), ``"highway"``.
        norm: ``"none"``, ``"batch"`` before the activation, ``"batch_after"``, ``"layer"``, ``"input"`` (batch norm of
            the pixels alone).
        activation_name: Name of the activation function of the hidden layers.
        dropout: Behind each; 0 for none.
    """

    def __init__(
        self,
        image_size: int,
        channels: int,
        num_classes: int,
        width: int,
        depth: int,
        wiring: str = "plain",
        norm: str = "none",
        activation_name: str = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.wiring = wiring
        features = channels * image_size**2
        self.input_norm = nn.BatchNorm1d(features) if norm == "input" else nn.Identity()
        self.stem = nn.Linear(features, width) if wiring in ("residual", "highway") else nn.Identity()
        features = width if wiring in ("residual", "highway") else features
        layers, gates = [], []
        for _ in range(depth):
            parts: list[nn.Module] = [nn.Linear(features, 2 * width if wiring == "gated" else width)]
            if wiring == "gated":
                parts.append(nn.GLU(dim=-1))
            if norm == "batch":
                parts.append(nn.BatchNorm1d(width))
            if norm == "layer":
                parts.append(nn.LayerNorm(width))
            if wiring != "gated":
                parts.append(activation(activation_name))
            if norm == "batch_after":
                parts.append(nn.BatchNorm1d(width))
            if dropout:
                parts.append(nn.Dropout(dropout))
            layers.append(nn.Sequential(*parts))
            if wiring == "highway":
                gates.append(nn.Linear(width, width))
            features = features + width if wiring == "dense" else width
        self.layers, self.gates = nn.ModuleList(layers), nn.ModuleList(gates)
        self.head = nn.Linear(features, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[batch, channels, height, width]`` to logits ``[batch, num_classes]``."""
        x = self.stem(self.input_norm(images.view(images.size(0), -1)))
        for index, layer in enumerate(self.layers):
            y = layer(x)
            if self.wiring == "highway":
                gate = torch.sigmoid(self.gates[index](x))
                y = gate * y + (1 - gate) * x
            elif self.wiring == "residual":
                y = x + y
            elif self.wiring == "dense":
                y = torch.cat([x, y], dim=1)
            x = y
        return self.head(x)
