"""Small networks whose groups are written down by hand, and networks that set traps for the rules."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

VECTORS = torch.zeros(2, 6)
TOKENS = torch.zeros(2, 5, 12)
IMAGES = torch.zeros(2, 3, 8, 8)
WORDS = torch.zeros(2, 5, dtype=torch.int64)


class Net(nn.Module):
    """A network of named parts and a function of them."""

    def __init__(self, forward, **parts):
        super().__init__()
        self.function = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *args):
        return self.function(self, *args)


def table(*shape):
    return nn.Parameter(torch.zeros(*shape))


def conv(ins, outs, kernel=1, **options):
    return nn.Conv2d(ins, outs, kernel, padding=kernel // 2, bias=False, **options)


def mlp():
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))


def cnn():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 2)
    )


def resnet():
    def forward(self, x):
        x = self.stem(x)
        x = x + self.second(F.relu(self.norm(self.first(x))))
        x = F.relu(self.down(x) + self.third(x))
        return self.head(x.mean((2, 3)))

    return Net(
        forward, stem=conv(3, 4, 3), first=conv(4, 6), norm=nn.BatchNorm2d(6), second=conv(6, 4), down=conv(4, 8),
        third=conv(4, 8, 3), head=nn.Linear(8, 2),
    )  # fmt: skip


def grouped():
    return nn.Sequential(
        conv(3, 6), nn.ReLU(), conv(6, 12, 3, groups=3), nn.GroupNorm(3, 12), conv(12, 2), nn.AdaptiveAvgPool2d(1)
    )


def depthwise():
    return nn.Sequential(conv(3, 4), conv(4, 8, 3, groups=4), nn.BatchNorm2d(8), conv(8, 2))


def squeeze_excitation():
    def forward(self, x):
        x = self.stem(x)
        gate = torch.sigmoid(self.up(F.silu(self.down(x.mean((2, 3), keepdim=True)))))
        return self.head((x * gate).flatten(2).mean(2))

    return Net(forward, stem=conv(3, 8, 3), down=conv(8, 4), up=conv(4, 8), head=nn.Linear(8, 2))


def dense_net():
    def forward(self, x):
        x = self.stem(x)
        x = torch.cat([x, self.first(x)], 1)
        x = torch.cat([x, self.second(x)], 1)
        return self.head(self.norm(x))

    return Net(
        forward, stem=conv(3, 4), first=conv(4, 2, 3), second=conv(6, 2), norm=nn.BatchNorm2d(8), head=conv(8, 2)
    )


def u_net():
    def forward(self, x):
        wide = F.relu(self.wide(x))
        deep = F.relu(self.deep(F.max_pool2d(wide, 2)))
        return self.head(torch.cat([self.up(deep), wide], 1))

    return Net(
        forward, wide=conv(3, 4, 3), deep=conv(4, 6, 3), up=nn.ConvTranspose2d(6, 4, 2, 2, bias=False), head=conv(8, 1)
    )


class Attention(nn.Module):
    """Fused queries, keys and values, as timm has them."""

    def __init__(self, norm=False):
        super().__init__()
        self.qkv, self.proj = nn.Linear(12, 36), nn.Linear(12, 12, bias=False)
        self.norm = nn.LayerNorm(4) if norm else nn.Identity()

    def forward(self, x):
        q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
        attention = (self.norm(q) @ k.transpose(-2, -1) * 0.5).softmax(-1)
        return self.proj((attention @ v).transpose(1, 2).reshape(x.shape))


def vit():
    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        x = x + self.attention(self.norm(x))
        return self.head(x[:, 0])

    return Net(
        forward, patches=nn.Conv2d(3, 12, 4, 4, bias=False), token=table(1, 1, 12), positions=table(1, 5, 12),
        norm=nn.LayerNorm(12, bias=False), attention=Attention(), head=nn.Linear(12, 2),
    )  # fmt: skip


def packed_attention():
    return Net(
        lambda self, x: self.head(self.attention(*[self.stem(x)] * 3, need_weights=False)[0]),
        stem=nn.Linear(12, 12, bias=False),
        attention=nn.MultiheadAttention(12, 3, batch_first=True),
        head=nn.Linear(12, 2),
    )


def grouped_queries():
    """Four heads of queries for two of keys and values, with rotary positions."""

    def rotated(x):
        first, second = x.chunk(2, -1)
        angles = torch.arange(5.0).outer(torch.arange(1.0, 3.0)).repeat(1, 2)
        return x * angles.cos() + torch.cat([-second, first], -1) * angles.sin()

    def forward(self, x):
        x = self.stem(x)
        q = rotated(self.q(x).view(2, 5, 4, 4).transpose(1, 2))
        k = rotated(self.k(x).view(2, 5, 2, 4).transpose(1, 2))
        v = self.v(x).view(2, 5, 2, 4).transpose(1, 2)
        k, v = (t[:, :, None].expand(-1, -1, 2, -1, -1).reshape(2, 4, 5, 4) for t in (k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.head(self.out(mixed.transpose(1, 2).reshape(2, 5, 16)))

    sizes = {"stem": (12, 12), "q": (12, 16), "k": (12, 8), "v": (12, 8), "out": (16, 12), "head": (12, 2)}
    return Net(forward, **{name: nn.Linear(*size, bias=False) for name, size in sizes.items()})


def tied_language_model():
    def forward(self, words):
        x = self.table(words)
        return F.linear(x + self.down(F.gelu(self.up(x))), self.table.weight)

    return Net(forward, table=nn.Embedding(9, 4), up=nn.Linear(4, 6), down=nn.Linear(6, 4))


def lstm():
    def forward(self, words):
        states, _ = self.lstm(self.table(words))
        return self.head(states[:, -1])

    return Net(
        forward, table=nn.Embedding(9, 4), lstm=nn.LSTM(4, 3, 2, batch_first=True, bidirectional=True),
        head=nn.Linear(6, 2),
    )  # fmt: skip


def gated():
    def forward(self, x):
        gate, value = self.up(x).chunk(2, -1)
        return self.down(F.silu(gate) * value)

    return Net(forward, up=nn.Linear(6, 8), down=nn.Linear(4, 2))


# Traps: what is mixed along an axis may not vary with it, and what does not fit stays as it is.


def heads_as_positions():
    def forward(self, x):
        x = self.stem(x).view(2, 3, 4)
        return self.head((x @ x.transpose(1, 2)).softmax(-1) @ x)

    return Net(forward, stem=nn.Linear(6, 12), head=nn.Linear(4, 2))


def products_of_heads():
    def forward(self, x):
        x = self.stem(x).view(2, 3, 4)
        return self.head((x @ x.transpose(1, 2)).flatten(1))

    return Net(forward, stem=nn.Linear(6, 12), head=nn.Linear(9, 2))


def products_of_heads_by_einsum():
    def forward(self, x):
        x = self.stem(x).view(2, 3, 4)
        return self.head(torch.einsum("bhd,bkd->bhk", x, x).flatten(1))

    return Net(forward, stem=nn.Linear(6, 12), head=nn.Linear(9, 2))


def scattered_features():
    """Rows of a second table where the words tell, as images are put among words."""

    def forward(self, words):
        x = self.table(words)
        return self.head(x.masked_scatter((words < 4)[..., None].expand_as(x), self.features))

    return Net(forward, table=nn.Embedding(9, 4), features=table(10, 4), head=nn.Linear(4, 2))


def softmax_over_heads():
    return Net(
        lambda self, x: self.head(self.stem(x).view(2, 3, 4).softmax(1).flatten(1)),
        stem=nn.Linear(6, 12), head=nn.Linear(12, 2),
    )  # fmt: skip


def running_sum_over_heads():
    return Net(
        lambda self, x: self.head(self.stem(x).view(2, 3, 4).cumsum(1).flatten(1)),
        stem=nn.Linear(6, 12), head=nn.Linear(12, 2),
    )  # fmt: skip


def shared_within_heads():
    return Net(
        lambda self, x: self.head(self.stem(x).view(2, 5, 3, 4) * self.scale).mean((1, 2)),
        stem=nn.Linear(12, 12), scale=table(4), head=nn.Linear(4, 2),
    )  # fmt: skip


def shifted_channels():
    return Net(lambda self, x: self.head(self.stem(x).roll(1, 1)), stem=conv(3, 6), head=conv(6, 2))


def two_factorisations():
    def forward(self, x):
        x = self.stem(x)
        return self.head(x.view(2, 4, 6).softmax(1).view(2, 24) + x.view(2, 6, 4).cumsum(2).view(2, 24))

    return Net(forward, stem=nn.Linear(6, 24), head=nn.Linear(24, 2))


def written_in_place():
    def forward(self, x):
        y = torch.zeros(2, 8)
        y[:, :4] = self.first(x)
        y[:, 4:].add_(self.second(x))
        return self.head(y.relu_())

    return Net(forward, first=nn.Linear(6, 4), second=nn.Linear(6, 4), head=nn.Linear(8, 2))


def ensemble():
    def forward(self, x):
        members = torch.func.vmap(lambda weight, bias: F.linear(self.stem(x), weight, bias))
        return members(self.weight, self.bias).mean(0)

    return Net(forward, stem=nn.Linear(6, 4), weight=table(3, 2, 4), bias=table(3, 2))


def pairs_of_heads():
    def forward(self, x):
        y = self.stem(x).view(2, 3, 4)
        return self.head((y[:, :, None] * y[:, None]).flatten(1))

    return Net(forward, stem=nn.Linear(6, 12), head=nn.Linear(36, 2))


def features_per_layer():
    """Each layer has features of its own in one table and in one projection, as in Gemma 3n."""

    def forward(self, words):
        x = self.words(words)
        own = self.stem(x).view(2, 5, 3, 4) + self.table(words).view(2, 5, 3, 4)
        for number, layer in enumerate(self.layers):
            x = x + layer(own[:, :, number])
        return self.head(x)

    layers = nn.ModuleList([nn.Linear(4, 12) for _ in range(3)])
    return Net(
        forward, words=nn.Embedding(9, 12), table=nn.Embedding(9, 12), stem=nn.Linear(12, 12),
        layers=layers, head=nn.Linear(12, 2),
    )  # fmt: skip


def written_through_a_view():
    def forward(self, x):
        y = self.stem(x)
        y.view(2, 2, 4)[:, 0] += self.bias
        return self.head(y)

    return Net(forward, stem=nn.Linear(6, 8), bias=table(4), head=nn.Linear(8, 2))


def sorted_channels():
    return Net(lambda self, x: self.head(self.stem(x).sort(-1)[0]), stem=nn.Linear(6, 4), head=nn.Linear(4, 2))


def without_a_rule():
    return Net(
        lambda self, x: self.head(torch.linalg.inv(self.stem(x).view(2, 3, 3)).flatten(1)),
        stem=nn.Linear(6, 9), head=nn.Linear(9, 2),
    )  # fmt: skip


def norm_of_queries():
    return Net(
        lambda self, x: self.head(self.attention(self.stem(x))),
        stem=nn.Linear(12, 12), attention=Attention(norm=True), head=nn.Linear(12, 2),
    )  # fmt: skip


def weight_normalised():
    net = mlp()
    nn.utils.parametrizations.weight_norm(net[0])
    return net


def einsum():
    def forward(self, x):
        q, k, v = (torch.einsum("bnd,dhw->bhnw", x, weight) for weight in (self.q, self.k, self.v))
        weights = torch.einsum("bhnw,bhmw->bhnm", q, k).softmax(-1)
        return torch.einsum("bhnm,bhmw,hwo->bno", weights, v, self.out)

    return Net(forward, q=table(12, 3, 4), k=table(12, 3, 4), v=table(12, 3, 4), out=table(3, 4, 2))


def two_blocks_in_one():
    """Channels shuffled between groups, and split in halves again, as ShuffleNet does."""

    def forward(self, x):
        x = self.stem(x)
        for layer in self.layers:
            kept, changed = x.chunk(2, 1)
            x = F.channel_shuffle(torch.cat([kept, layer(changed)], 1), 2)
        return self.head(x)

    return Net(forward, stem=conv(3, 8), layers=nn.ModuleList([conv(4, 4), conv(4, 4)]), head=conv(8, 2))


NETWORKS = {
    mlp: VECTORS, cnn: IMAGES, resnet: IMAGES, grouped: IMAGES, depthwise: IMAGES, squeeze_excitation: IMAGES,
    dense_net: IMAGES, u_net: IMAGES, vit: IMAGES, packed_attention: TOKENS, grouped_queries: TOKENS,
    tied_language_model: WORDS, lstm: WORDS, gated: VECTORS,
    heads_as_positions: VECTORS, products_of_heads: VECTORS, products_of_heads_by_einsum: VECTORS,
    scattered_features: WORDS, softmax_over_heads: VECTORS, running_sum_over_heads: VECTORS,
    shared_within_heads: TOKENS, shifted_channels: IMAGES, two_factorisations: VECTORS, written_in_place: VECTORS,
    written_through_a_view: VECTORS, sorted_channels: VECTORS, without_a_rule: VECTORS, norm_of_queries: TOKENS,
    ensemble: VECTORS, pairs_of_heads: VECTORS, features_per_layer: WORDS,
    weight_normalised: VECTORS, einsum: TOKENS, two_blocks_in_one: IMAGES,
}  # fmt: skip
