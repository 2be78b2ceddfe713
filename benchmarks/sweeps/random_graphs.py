"""Random small networks of reshapes, transposes, cuts, concatenations, products, attention and residual sums.

Each is a list of steps on tensors whose sizes are few and often alike, so that axes meet in ways that nobody wrote on
purpose. The same seed gives the same network.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

SIZES = (2, 3, 4, 6, 8, 12)
_MOST_ELEMENTS = 3000
_MOST_READ = 4
Step = Callable[["RandomNetwork", list[Tensor]], "Tensor | list[Tensor]"]


class RandomNetwork(nn.Module):
    """A network that runs steps one after another; each appends tensors to those that later ones may read.

    Args:
        seed: Random seed of the steps.
        length: Number of steps.
    """

    def __init__(self, seed: int, length: int = 9) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.tables = nn.ParameterList()
        self.steps: list[Step] = []
        self.words: list[str] = []
        self.generator = torch.Generator().manual_seed(seed)
        rank = self.random.choice((2, 3, 3, 4))
        self.example = self._normal(2, *(self.random.choice(SIZES[:4]) for _ in range(rank - 1)))
        values = [self.example]
        self._add(_linear, values, values[0])
        for _ in range(length):
            for _ in range(20):
                make = self.random.choices(_MAKERS, _WEIGHTS)[0]
                # Mostly what was made last: else little of it reaches the output.
                number = max(len(values) - 1 - int(self.random.expovariate(0.7)), 1)
                if self._add(make, values, values[number]):
                    break
        steps = len(self.steps)
        for value in values[1:][-_MOST_READ:]:
            self._add(_head, values, value)
        self.heads = len(self.steps) - steps

    def _add(self, make: Callable[..., Step | None], values: list[Tensor], value: Tensor) -> bool:
        count = len(self.tables)
        number = next(i for i, other in enumerate(values) if other is value)
        try:
            step = make(self, values, number)
            result = None if step is None else step(self, values)
        except (RuntimeError, IndexError, ValueError):
            result = None
        made = result if isinstance(result, list) else [result]
        fitting = all(
            isinstance(one, Tensor) and 0 < one.numel() <= _MOST_ELEMENTS and one.dim() <= 5 and one.isfinite().all()
            for one in made
        )
        if result is None or step is None or not fitting:
            self.tables = self.tables[:count]
            return False
        values += made
        self.steps.append(step)
        self.words.append(
            f"{make.__name__.strip('_')}({number}: {list(value.shape)}) → {[list(m.shape) for m in made]}"
        )
        return True

    def table(self, *shape: int) -> int:
        """A new parameter; its number."""
        self.tables.append(nn.Parameter(self._normal(*shape) / max(shape[-1], 1) ** 0.5))
        return len(self.tables) - 1

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=self.generator)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Run all steps; the outputs are what the heads make of the last tensors."""
        values = [x]
        for step in self.steps:
            result = step(self, values)
            values += result if isinstance(result, list) else [result]
        return tuple(values[-self.heads :])

    def __repr__(self) -> str:
        """The steps, a line each."""
        return "\n".join([f"input {list(self.example.shape)}", *self.words])


def _linear(net: RandomNetwork, values: list[Tensor], i: int) -> Step:
    ins, outs = values[i].shape[-1], net.random.choice(SIZES)
    weight, bias = net.table(outs, ins), net.table(outs)
    plain = net.random.random() < 0.3
    return lambda n, v: F.linear(v[i], n.tables[weight], None if plain else n.tables[bias])


def _linear_there(net: RandomNetwork, values: list[Tensor], i: int) -> Step:
    """Back to the shape of an older tensor, and the sum of both."""
    inner, size = net.random.choice(SIZES), values[i].shape[-1]
    one, bias, two = net.table(inner, size), net.table(inner), net.table(size, inner)
    return lambda n, v: v[i] + F.linear(torch.relu(F.linear(v[i], n.tables[one], n.tables[bias])), n.tables[two])


def _rearranged_residual(net: RandomNetwork, values: list[Tensor], i: int) -> Step | None:
    """A sum with what is computed along one axis and comes back with its elements in another order."""
    dims = values[i].dim()
    if dims < 3:
        return None
    dim = net.random.randrange(1, dims)
    size = values[i].shape[dim]
    inner = net.random.choice((size, size, *SIZES))
    one, two = net.table(inner, size), net.table(size, inner)
    bias = net.table(size)
    order = list(range(1, dims))
    net.random.shuffle(order)
    straight = net.random.random() < 0.3

    def forward(n: RandomNetwork, v: list[Tensor]) -> Tensor:
        moved = v[i].movedim(dim, -1)
        hidden = torch.relu(F.linear(moved, n.tables[one])) if inner != size else moved
        out = F.linear(hidden, n.tables[two], n.tables[bias]).movedim(-1, dim)
        return v[i] + (out if straight else out.permute(0, *order).reshape(v[i].shape))

    return forward


def _linear_at(net: RandomNetwork, values: list[Tensor], i: int) -> Step:
    """A linear layer along any axis, with which later ones see channels before positions."""
    dim, outs = net.random.randrange(1, values[i].dim()), net.random.choice((*SIZES, 16))
    weight, bias = net.table(outs, values[i].shape[dim]), net.table(outs)
    return lambda n, v: torch.relu(F.linear(v[i].movedim(dim, -1), n.tables[weight], n.tables[bias])).movedim(-1, dim)


def _grouped(net: RandomNetwork, values: list[Tensor], i: int) -> Step | None:
    if values[i].dim() != 3:
        return None
    channels = values[i].shape[1]
    groups = net.random.choice([g for g in (1, 2, 3, 4, 6) if channels % g == 0])
    outs, kernel = groups * net.random.choice((1, 2, 3)), net.random.choice((1, 1, 3))
    weight, bias = net.table(outs, channels // groups, kernel), net.table(outs)
    return lambda n, v: F.conv1d(v[i], n.tables[weight], n.tables[bias], padding=kernel // 2, groups=groups)


def _einsum(net: RandomNetwork, values: list[Tensor], i: int) -> Step | None:
    letters = "abcde"[: values[i].dim()]
    summed = net.random.sample(letters[1:], net.random.randint(1, 2))
    kept = [letter for letter in letters[1:] if letter not in summed and net.random.random() < 0.5]
    own = [*kept, *summed, "x"]
    net.random.shuffle(own)
    sizes = {**dict(zip(letters, values[i].shape, strict=True)), "x": net.random.choice(SIZES)}
    out = [letter for letter in (*letters, "x") if letter not in summed]
    net.random.shuffle(out)
    weight = net.table(*(sizes[letter] for letter in own))
    equation = f"{letters},{''.join(own)}->{''.join(out)}"
    return lambda n, v: torch.einsum(equation, v[i], n.tables[weight])


def _attention(net: RandomNetwork, values: list[Tensor], i: int) -> Step | None:
    if values[i].dim() != 3:
        return None
    batch, length, width = values[i].shape
    heads, each = net.random.choice((1, 2, 3)), net.random.choice((2, 3, 4))
    packing, spelling, masked = net.random.randrange(4), net.random.randrange(3), net.random.random() < 0.3
    weight, bias, out = net.table(3 * heads * each, width), net.table(3 * heads * each), net.table(width, heads * each)

    def attend(n: RandomNetwork, v: list[Tensor]) -> Tensor:
        packed = F.linear(v[i], n.tables[weight], n.tables[bias])
        if packing == 0:
            query, key, value = packed.view(batch, length, 3, heads, each).permute(2, 0, 3, 1, 4).unbind(0)
        elif packing == 1:
            query, key, value = packed.view(batch, length, heads, 3 * each).transpose(1, 2).chunk(3, -1)
        elif packing == 2:
            query, key, value = (
                p.reshape(batch, length, heads, each).transpose(1, 2) for p in packed.split(heads * each, -1)
            )
        else:
            rows = packed.view(batch, length, heads, each, 3).permute(4, 0, 2, 1, 3)
            query, key, value = rows[0], rows[1], rows[2]
        if spelling == 0:
            mixed = F.scaled_dot_product_attention(query, key, value, is_causal=masked)
        else:
            scores = query @ key.mT if spelling == 1 else torch.einsum("bhqc,bhkc->bhqk", query, key)
            if masked:
                scores = scores.masked_fill(torch.ones(length, length, dtype=torch.bool).triu(1), -1e9)
            mixed = (scores / each**0.5).softmax(-1) @ value
        return v[i] + F.linear(mixed.transpose(1, 2).reshape(batch, length, heads * each), n.tables[out])

    return attend


def _factors(net: RandomNetwork, count: int) -> list[int]:
    shape: list[int] = []
    while count > 1 and len(shape) < 4:
        divisors = [d for d in range(2, min(count, 24) + 1) if count % d == 0]
        if not divisors or (len(shape) == 3):
            break
        shape.append(net.random.choice(divisors))
        count //= shape[-1]
    return [*shape, count] if count > 1 else shape


def _reshape(net: RandomNetwork, values: list[Tensor], i: int) -> Step | None:
    rest = _factors(net, values[i][0].numel())
    batch = values[i].shape[0]
    if net.random.random() < 0.3:
        net.random.shuffle(rest)
    return lambda n, v: v[i].reshape(batch, *rest)


def _merge(net: RandomNetwork, values: list[Tensor], i: int) -> Step | None:
    if values[i].dim() < 3:
        return None
    dim = net.random.randrange(1, values[i].dim() - 1)
    return lambda n, v: v[i].flatten(dim, dim + 1)


def _split_axis(net: RandomNetwork, values: list[Tensor], i: int) -> Step | None:
    dim = net.random.randrange(1, values[i].dim())
    size = values[i].shape[dim]
    divisors = [d for d in range(2, size) if size % d == 0]
    if not divisors:
        return None
    outer = net.random.choice(divisors)
    return lambda n, v: v[i].unflatten(dim, (outer, size // outer))


def _permute(net: RandomNetwork, values: list[Tensor], i: int) -> Step | None:
    order = list(range(1, values[i].dim()))
    net.random.shuffle(order)
    return lambda n, v: v[i].permute(0, *order)


def _as_shape_of(net: RandomNetwork, values: list[Tensor], i: int) -> Step | None:
    """Sum, product or concatenation with another tensor in its shape, the elements rearranged as they come."""
    fitting = [j for j, other in enumerate(values) if j != i and j and other.numel() == values[i].numel()]
    if not fitting:
        return None
    j, kind = net.random.choice(fitting), net.random.randrange(3)
    dim = net.random.randrange(1, values[j].dim())

    def both(n: RandomNetwork, v: list[Tensor]) -> Tensor:
        other = v[i].reshape(v[j].shape)
        return v[j] + other if kind == 0 else v[j] * other if kind == 1 else torch.cat([v[j], other], dim)

    return both


def _cut(net: RandomNetwork, values: list[Tensor], i: int) -> Step | None:
    dim = net.random.randrange(1, values[i].dim())
    size, kind = values[i].shape[dim], net.random.randrange(4)
    if size < 2:
        return None
    at = net.random.randrange(1, size)
    if kind == 0:
        return lambda n, v: list(v[i].split([at, size - at], dim))
    if kind == 1 and size <= 6:
        return lambda n, v: list(v[i].unbind(dim))
    if kind == 2 and size % 2 == 0:
        return lambda n, v: list(v[i].chunk(2, dim))
    where: tuple[Any, ...] = (
        *[slice(None)] * dim,
        net.random.choice((slice(at), slice(at, None), slice(None, None, 2))),
    )
    return lambda n, v: v[i][where]


def _join(net: RandomNetwork, values: list[Tensor], i: int) -> Step | None:
    alike = [j for j, other in enumerate(values) if other.shape == values[i].shape]
    numbers = [i, *(net.random.choice(alike) for _ in range(net.random.randint(1, 2)))]
    net.random.shuffle(numbers)
    dim, stacked = net.random.randrange(1, values[i].dim()), net.random.random() < 0.3
    return lambda n, v: (torch.stack if stacked else torch.cat)([v[j] for j in numbers], dim)


def _reduce(net: RandomNetwork, values: list[Tensor], i: int) -> Step | None:
    if values[i].dim() < 3:
        return None
    dim, kind, keep = net.random.randrange(1, values[i].dim()), net.random.randrange(3), net.random.random() < 0.3
    reduce = (torch.mean, torch.sum, torch.amax)[kind]
    return lambda n, v: reduce(v[i], dim, keepdim=keep)


def _gate(net: RandomNetwork, values: list[Tensor], i: int) -> Step | None:
    """Multiplication by a mean along an axis, as in squeeze and excitation."""
    if values[i].dim() < 3:
        return None
    dim = net.random.randrange(1, values[i].dim())
    return lambda n, v: v[i] * torch.sigmoid(v[i].mean(dim, keepdim=True))


def _normalise(net: RandomNetwork, values: list[Tensor], i: int) -> Step | None:
    value, kind = values[i], net.random.randrange(5)
    dim = net.random.randrange(1, value.dim())
    if kind == 0:
        weight = net.table(value.shape[-1])
        return lambda n, v: F.layer_norm(v[i], v[i].shape[-1:], n.tables[weight])
    if kind == 1 and value.dim() > 2:
        channels = value.shape[1]
        groups = net.random.choice([g for g in (1, 2, 3, 4) if channels % g == 0])
        weight = net.table(channels)
        return lambda n, v: F.group_norm(v[i], groups, n.tables[weight])
    if kind == 2:
        return lambda n, v: v[i].softmax(dim)
    if kind == 3:
        return lambda n, v: F.normalize(v[i], dim=dim)
    return lambda n, v: v[i].cumsum(dim)


def _pointwise(net: RandomNetwork, values: list[Tensor], i: int) -> Step | None:
    fitting = [j for j, other in enumerate(values) if j and _broadcasts(other.shape, values[i].shape)]
    j, kind = net.random.choice(fitting), net.random.randrange(4)
    if kind == 0:
        return lambda n, v: v[i] + v[j]
    if kind == 1:
        return lambda n, v: v[i] * v[j]
    return (lambda n, v: torch.tanh(v[i])) if kind == 2 else (lambda n, v: torch.relu(v[i]) - v[j])


def _broadcasts(one: torch.Size, other: torch.Size) -> bool:
    return len(one) == len(other) and all(a in (1, b) for a, b in zip(one, other, strict=True))


def _with_table(net: RandomNetwork, values: list[Tensor], i: int) -> Step | None:
    """A parameter in the shape of the trailing axes, as it is or rearranged, added or multiplied."""
    count = net.random.randint(1, values[i].dim() - 1)
    shape = list(values[i].shape[-count:])
    other = _factors(net, math.prod(shape)) or shape
    number, times = net.table(*(other if net.random.random() < 0.5 else shape)), net.random.random() < 0.5
    return lambda n, v: v[i] * n.tables[number].reshape(shape) if times else v[i] + n.tables[number].reshape(shape)


def _product(net: RandomNetwork, values: list[Tensor], i: int) -> Step | None:
    """A product of two tensors of the network, as of queries and keys."""
    if values[i].dim() < 3:
        return None
    fitting = [
        j
        for j, other in enumerate(values)
        if j and other.dim() == values[i].dim() and other.shape[:-1] == values[i].shape[:-1]
    ]
    j, twice = net.random.choice(fitting), net.random.random() < 0.5
    return lambda n, v: (v[i].mT @ v[j]) if not twice else v[i] @ (v[i].mT @ v[j]).tanh()


def _pick(net: RandomNetwork, values: list[Tensor], i: int) -> Step | None:
    dim, kind = net.random.randrange(1, values[i].dim()), net.random.randrange(4)
    size = values[i].shape[dim]
    places = torch.tensor([net.random.randrange(size) for _ in range(net.random.choice((1, 2, size)))])
    if kind == 0:
        return lambda n, v: v[i].index_select(dim, places)
    if kind == 1:
        where = (*[slice(None)] * dim, places)
        return lambda n, v: v[i][where]
    if kind == 2:
        shape = [len(places) if d == dim else s for d, s in enumerate(values[i].shape)]
        index = places.reshape([-1 if d == dim else 1 for d in range(values[i].dim())]).expand(shape)
        return lambda n, v: v[i].gather(dim, index)
    return lambda n, v: v[i].flip(dim) if size % 2 else v[i].roll(1, dim)


def _repeat(net: RandomNetwork, values: list[Tensor], i: int) -> Step | None:
    dim, kind = net.random.randrange(1, values[i].dim()), net.random.randrange(4)
    times = [2 if d == dim else 1 for d in range(values[i].dim())]
    if kind == 0:
        return lambda n, v: v[i].repeat(times)
    if kind == 1:
        return lambda n, v: v[i].repeat_interleave(2, dim)
    if kind == 2:
        return lambda n, v: v[i].unsqueeze(dim).expand(*v[i].shape[:dim], 2, *v[i].shape[dim:])
    return lambda n, v: F.pad(v[i], (1, 0) if dim == v[i].dim() - 1 else (0, 0, 1, 0))


def _glu(net: RandomNetwork, values: list[Tensor], i: int) -> Step | None:
    even = [dim for dim in range(1, values[i].dim()) if values[i].shape[dim] % 2 == 0]
    if not even:
        return None
    dim = net.random.choice(even)
    return lambda n, v: F.glu(v[i], dim)


def _shuffle(net: RandomNetwork, values: list[Tensor], i: int) -> Step | None:
    """Channels (groups, n) in the order (n, groups)."""
    channels = values[i].shape[1]
    groups = [g for g in range(2, channels) if channels % g == 0]
    if not groups or values[i].dim() < 3:
        return None
    count = net.random.choice(groups)
    return lambda n, v: v[i].unflatten(1, (count, channels // count)).transpose(1, 2).flatten(1, 2)


def _head(net: RandomNetwork, values: list[Tensor], i: int) -> Step:
    """All to two numbers: a mean over some axes, then a product."""
    value = values[i]
    dims = [dim for dim in range(1, value.dim() - 1) if net.random.random() < 0.7]
    kept = value.mean(dims) if dims else value
    flat = net.random.random() < 0.5 and kept.dim() > 2
    weight = net.table(2, kept[0].numel() if flat else kept.shape[-1])

    def head(n: RandomNetwork, v: list[Tensor]) -> Tensor:
        own = v[i].mean(dims) if dims else v[i]
        return F.linear(own.flatten(1) if flat else own, n.tables[weight])

    return head


_CHOICES = {
    _linear: 3, _linear_there: 2, _rearranged_residual: 3, _linear_at: 2,
    _grouped: 2, _einsum: 2, _attention: 1.5, _reshape: 2, _merge: 1.5, _split_axis: 2,
    _permute: 2, _as_shape_of: 2, _cut: 1.5, _join: 1.5, _reduce: 1, _gate: 1, _normalise: 1.5, _pointwise: 2,
    _with_table: 1.5, _product: 1.5, _pick: 0.7, _repeat: 1, _glu: 0.7, _shuffle: 0.7,
}  # fmt: skip
_MAKERS, _WEIGHTS = list(_CHOICES), list(_CHOICES.values())
