"""What networks are trained for in ``experiment=nowcasting``: tasks on the digits, and unseen ones."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hypergen.data.digits import DigitsDataModule
from hypergen.data.text import TextDataModule


@dataclass(frozen=True)
class Problem:
    """A network and what it is trained for.

    Args:
        name: Name of the task.
        build: Makes the network, under the seed of torch's global generator.
        inputs: [N, …].
        targets: [N], classes; or [N, outputs], numbers.
        loss: ``"cross_entropy"`` or ``"squared_error"``.
        batch_size: Samples per step; None for all of them in every step.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Tensor
    targets: Tensor
    loss: Literal["cross_entropy", "squared_error"]
    batch_size: int | None = None

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of every network: outputs [networks, batch, …] and targets [networks or 1, batch, …]."""
        targets = targets.expand(len(outputs), *targets.shape[1:])
        if self.loss == "squared_error":
            return (outputs - targets).square().flatten(1).mean(1)
        every = F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="none")
        return every.view(targets.shape).mean(1)


class TokenPerceptron(nn.Module):
    """Predicts a token from those before it: embeddings side by side, and a hidden layer."""

    def __init__(self, vocabulary: int, context: int, embedding: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.hidden = nn.Linear(context * embedding, hidden)
        self.output = nn.Linear(hidden, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [batch, context] → logits [batch, vocabulary]."""
        logits: Tensor = self.output(F.gelu(self.hidden(self.embedding(tokens).flatten(-2))))
        return logits


class AttentionReader(nn.Module):
    """Predicts a token from those before it: one head of attention, whose query is the last of them."""

    def __init__(self, vocabulary: int, context: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.places = nn.Parameter(0.1 * torch.randn(context, width))
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(2 * width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [batch, context] → logits [batch, vocabulary]."""
        embedded = self.embedding(tokens) + self.places
        last = embedded[..., -1, :]
        scores = (self.key(embedded) @ self.query(last).unsqueeze(-1)).squeeze(-1) / last.shape[-1] ** 0.5
        read = (scores.softmax(-1).unsqueeze(-2) @ self.value(embedded)).squeeze(-2)
        logits: Tensor = self.output(torch.cat([last, F.gelu(read)], -1))
        return logits


def perceptron(widths: Sequence[int], activation: type[nn.Module] = nn.ReLU, norm: bool = False) -> nn.Sequential:
    """Linear layers of these widths, the input's and output's among them."""
    layers: list[nn.Module] = []
    for inputs, outputs in zip(widths[:-2], widths[1:-1], strict=True):
        layers += [nn.Linear(inputs, outputs), *([nn.LayerNorm(outputs)] if norm else []), activation()]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


def digits_problems(number: int, seed: int, images: int = 300) -> list[Problem]:
    """Tasks on images of digits: classes of classes, pixels by their place, pixels by those before.

    Args:
        number: How many.
        seed: Random seed of relabellings, images, architectures and batch sizes.
        images: Training images that each task is about at most.
    """
    draw = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    pixels, labels = DigitsDataModule().tensors("train")
    pixels = pixels.flatten(1)
    levels = ((pixels - pixels.min()) / (pixels.max() - pixels.min()) * 16).round().long()
    found = []
    for index in range(number):
        chosen = torch.randperm(len(pixels), generator=generator)[:images]
        batch = draw.choice([None, None, 64])
        kind = ("classes", "pixels", "tokens")[index % 3]
        if kind == "classes":
            classes = draw.choice([2, 4, 10])
            relabelled = torch.randint(classes, (10,), generator=generator)
            relabelled[torch.randperm(10, generator=generator)[:classes]] = torch.arange(classes)
            widths = [64, *draw.choice([[16], [32], [24, 24], [16, 16, 16]]), classes]
            activation, norm = draw.choice([nn.ReLU, nn.Tanh, nn.SiLU]), draw.random() < 0.4
            inputs, targets = pixels[chosen], relabelled[labels[chosen]]
            made = _perceptron(widths, activation, norm)
            found.append(Problem(f"{kind}-{index}", made, inputs, targets, "cross_entropy", batch))
        elif kind == "pixels":
            count = draw.choice([3, 4])
            codes = torch.eye(count).repeat_interleave(64, 0) * 2
            inputs = torch.cat([_grid(8, 8).repeat(count, 1) * 3, codes], 1)
            widths = [2 + count, *draw.choice([[24, 24], [16, 16, 16], [32, 32]]), 1]
            made = _perceptron(widths, draw.choice([nn.Tanh, nn.SiLU, nn.ReLU]), False)
            targets = pixels[chosen[:count]].reshape(-1, 1)
            found.append(Problem(f"{kind}-{index}", made, inputs, targets, "squared_error", batch))
        else:
            windows = levels[chosen].unfold(1, 9, 1).reshape(-1, 9)
            windows = windows[torch.randperm(len(windows), generator=generator)[:images]]
            embedding, hidden = draw.choice([(4, 24), (6, 32), (8, 24)])
            made = _tokens(17, 8, embedding, hidden)
            found.append(Problem(f"{kind}-{index}", made, windows[:, :8], windows[:, 8], "cross_entropy", batch))
    return found


def unseen_problems() -> list[Problem]:
    """Three tasks on other data, for networks of other shapes than a nowcaster learns from; the aims are about them.

    They were chosen before anything was run on them. ``wine``: the maker of scikit-learn's 178 wines, all of which
    every step sees. ``diabetes``: how scikit-learn's 442 patients fared, standardised, of which every step sees 64.
    ``topics``: the next character in the standard library's help on Python, of which an :class:`AttentionReader` sees
    64 places in every step.
    """
    from pydoc_data.topics import topics

    from sklearn.datasets import load_diabetes, load_wine

    wine, diabetes = load_wine(), load_diabetes()
    fared = _standardised(diabetes.target)[:, None]
    characters = [ord(c) for topic in sorted(topics) for c in topics[topic] if ord(c) < 128]
    vocabulary, codes = torch.tensor(characters).unique(return_inverse=True)
    windows = codes[:200_000].unfold(0, 9, 1)
    windows = windows[torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))]
    wines = _perceptron([13, 18, 3], nn.SiLU, False)
    patients = _perceptron([10, 26, 26, 1], nn.Tanh, False)
    reader = partial(AttentionReader, len(vocabulary), 8, 16)
    return [
        Problem("wine", wines, _standardised(wine.data), torch.tensor(wine.target), "cross_entropy"),
        Problem("diabetes", patients, _standardised(diabetes.data), fared, "squared_error", batch_size=64),
        Problem("topics", reader, windows[:, :8], windows[:, 8], "cross_entropy", batch_size=64),
    ]


def earlier_problems() -> list[Problem]:
    """Three tasks on other data that nowcasters were looked at on while they were made; no aim is about them.

    ``picture``: the colours of scikit-learn's flower by their places, an implicit representation. ``cancer``:
    200 patients of scikit-learn's breast cancer data. Every step sees all of those. ``text``: the next character in
    the sources of the standard library, of which every step sees 64 places.
    """
    from sklearn.datasets import load_breast_cancer, load_sample_image

    picture = torch.tensor(load_sample_image("flower.jpg")[:420:30, 100:520:30].copy()).float() / 127.5 - 1
    tables = load_breast_cancer()
    numbers = _standardised(tables.data)[:200]
    data = TextDataModule(context=8, stride=1)
    windows = data.characters("train")[:200_000].unfold(0, 9, 1)
    windows = windows[torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))]
    colours = _perceptron([2, 28, 28, 28, 3], nn.Tanh, False)
    patients = _perceptron([30, 20, 20, 2], nn.GELU, False)
    characters = _tokens(data.vocabulary, 8, 6, 28)
    return [
        Problem("picture", colours, _grid(14, 14) * 3, picture.view(-1, 3), "squared_error"),
        Problem("cancer", patients, numbers, torch.tensor(tables.target)[:200], "cross_entropy"),
        Problem("text", characters, windows[:, :8], windows[:, 8], "cross_entropy", batch_size=64),
    ]


def _standardised(values: Any) -> Tensor:
    return torch.tensor((values - values.mean(0)) / values.std(0)).float()


def _perceptron(widths: Sequence[int], activation: type[nn.Module], norm: bool) -> Callable[[], nn.Module]:
    return lambda: perceptron(widths, activation, norm)


def _tokens(vocabulary: int, context: int, embedding: int, hidden: int) -> Callable[[], nn.Module]:
    return lambda: TokenPerceptron(vocabulary, context, embedding, hidden)


def _grid(rows: int, columns: int) -> Tensor:
    """Places [rows × columns, 2] from -1 to 1."""
    axes = torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns)
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).view(-1, 2)
