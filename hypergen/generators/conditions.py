"""Conditions of zoo generators: a task code, a metric to reach, a text, labelled examples."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from hypergen.errors import GeneratorError

_WORD = re.compile(r"\w+|[^\w\s]")


class ConditionEncoder(ModelMixin, ConfigMixin):
    """Embeds conditions by kind, and adds the kinds up.

    - ``code``: numbers that describe a task.
    - ``metric``: numbers to reach, such as a loss; standardised by the zoo's.
    - ``text``: a description; hashed words and pairs of words, added up.
    - ``examples``: labelled examples of a task, (inputs, labels), as a set: an MLP of each, averaged, as in deep sets.

    A kind of size 0 is not known.

    Args:
        size: Length of the embedding.
        code_size: Numbers in a code.
        metric_size: Metrics.
        text_buckets: Different words and pairs of words that are told apart.
        example_size: Values in one example's input.
        example_labels: Different labels of examples.
        dropout: How often a kind is left out in training. Only with it can kinds be missing afterwards.
    """

    metric_mean: Tensor
    metric_std: Tensor

    @register_to_config
    def __init__(
        self,
        size: int = 256,
        code_size: int = 0,
        metric_size: int = 0,
        text_buckets: int = 0,
        example_size: int = 0,
        example_labels: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict()
        if code_size:
            # Linear: codes that were not seen are sums of those that were (accuracy .97 instead of .94 on digits, 64
            # tasks).
            self.encoders["code"] = nn.Linear(code_size, size)
        for kind, inputs in (("metric", metric_size), ("examples", example_size)):
            if inputs:
                width = inputs + (example_labels if kind == "examples" else 0)
                self.encoders[kind] = nn.Sequential(nn.Linear(width, size), nn.GELU(), nn.Linear(size, size))
        if text_buckets:
            # Linear, too: a text that was not seen says the sum of what its words say. Words that were not seen say
            # next to nothing.
            self.encoders["text"] = nn.Linear(size, size)
            self.words = nn.EmbeddingBag(text_buckets, size, mode="sum")
            nn.init.normal_(self.words.weight, std=0.01)
        self.absent = nn.ParameterDict({kind: nn.Parameter(torch.zeros(size)) for kind in self.encoders})
        self.register_buffer("metric_mean", torch.zeros(metric_size))
        self.register_buffer("metric_std", torch.ones(metric_size))

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of condition that it knows."""
        return tuple(self.encoders)

    def collate(self, conditions: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Check conditions, and put them into tensors.

        Args:
            conditions: Each a mapping from kind to value; all have the same kinds.

        Returns:
            Tensors, ``[len(conditions), …]`` each, for :meth:`forward`.

        Raises:
            GeneratorError: A kind is unknown or missing, or a value does not fit.
        """
        first = set(conditions[0]) if conditions else set()
        for condition in conditions:
            given = set(condition)
            if unknown := sorted(given - set(self.kinds)):
                raise GeneratorError(f"Unknown condition {unknown[0]!r}; this generator knows {_or(self.kinds)}.")
            missing = [kind for kind in self.kinds if kind not in given]
            if missing and not self.config.dropout:
                raise GeneratorError(
                    f"The condition lacks {_or(missing)}, which the generator was always given in training. Pass it."
                )
            if given != first:
                raise GeneratorError(f"Conditions of a batch must have the same kinds; got {first} and {given}.")
        tensors: dict[str, Tensor] = {}
        for kind in first:
            values = [condition[kind] for condition in conditions]
            if kind == "examples":
                tensors["example_inputs"], tensors["example_labels"] = self._examples(values)
            elif kind == "text":
                tensors["text"] = self._words(values)
            else:
                tensors[kind] = _numbers(kind, values, self.config[f"{kind}_size"])
        return tensors

    def at_home(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of :meth:`collate` on the encoder's device, numbers in its type."""
        home = self.metric_mean
        return {
            name: value.to(home) if value.is_floating_point() else value.to(home.device)
            for name, value in tensors.items()
        }

    def forward(self, tensors: Mapping[str, Tensor], count: int | None = None) -> Tensor:
        """Embed conditions.

        Args:
            tensors: What :meth:`collate` gives; kinds may be missing where the encoder has a dropout.
            count: Number of conditions, where there is no tensor to tell.

        Returns:
            ``[batch, size]``.
        """
        batch = len(next(iter(tensors.values()))) if tensors else count or 1
        total = self.metric_mean.new_zeros(batch, self.config.size)
        for kind, encoder in self.encoders.items():
            absent = self.absent[kind].expand(batch, -1)
            embedded = self._embed(kind, encoder, tensors)
            if embedded is None:
                embedded = absent
            elif self.training and self.config.dropout:
                dropped = torch.rand(batch, 1, device=total.device) < self.config.dropout
                embedded = torch.where(dropped, absent, embedded)
            total = total + embedded
        return total

    @torch.no_grad()
    def measure_metrics(self, metrics: Tensor) -> None:
        """Standardise metrics by those of a zoo, ``[networks, metric_size]``."""
        self.metric_mean.copy_(metrics.mean(0))
        self.metric_std.copy_(metrics.std(0).clamp_min(1e-6))

    def _embed(self, kind: str, encoder: nn.Module, tensors: Mapping[str, Tensor]) -> Tensor | None:
        if kind == "examples" and "example_inputs" in tensors:
            inputs, labels = tensors["example_inputs"], tensors["example_labels"]
            known = labels >= 0  # Padding has the label -1.
            one_hot = nn.functional.one_hot(labels.clamp_min(0), self.config.example_labels).to(inputs.dtype)
            each = encoder(torch.cat([inputs, one_hot], -1)) * known[..., None]
            return each.sum(1) / known.sum(1, keepdim=True)
        if kind not in tensors:
            return None
        if kind == "text":
            words = tensors["text"]
            return encoder(self.words(words.clamp_min(0), per_sample_weights=(words >= 0).to(self.words.weight)))
        values = tensors[kind]
        return encoder((values - self.metric_mean) / self.metric_std if kind == "metric" else 2 * values - 1)

    def _words(self, texts: Sequence[Any]) -> Tensor:
        rows = []
        for text in texts:
            if not isinstance(text, str) or not text.strip():
                raise GeneratorError(f"A condition's text must be a string with words; got {text!r}.")
            words = _WORD.findall(text.lower())
            pairs = [" ".join(pair) for pair in zip(words, words[1:], strict=False)]
            # Python's own hash differs between processes.
            rows.append(torch.tensor([zlib.crc32(item.encode()) % self.config.text_buckets for item in words + pairs]))
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)

    def _examples(self, values: Sequence[Any]) -> tuple[Tensor, Tensor]:
        inputs, labels = [], []
        for value in values:
            if not (isinstance(value, (tuple, list)) and len(value) == 2 and len(value[0]) == len(value[1]) > 0):
                raise GeneratorError("A condition's examples must be a pair (inputs [n, …], labels [n]), n at least 1.")
            flat = torch.as_tensor(value[0], dtype=torch.float32).flatten(1)
            numbers = torch.as_tensor(value[1]).long()
            if flat.shape[1] != self.config.example_size:
                raise GeneratorError(
                    f"An example has {flat.shape[1]} values; this generator was trained on {self.config.example_size}."
                )
            if int(numbers.min()) < 0 or int(numbers.max()) >= self.config.example_labels:
                raise GeneratorError(f"Labels of examples must lie from 0 to {self.config.example_labels - 1}.")
            inputs.append(flat)
            labels.append(numbers)
        pad = nn.utils.rnn.pad_sequence
        return pad(inputs, batch_first=True), pad(labels, batch_first=True, padding_value=-1)


def _numbers(kind: str, values: Sequence[Any], size: int) -> Tensor:
    rows = [torch.as_tensor(value, dtype=torch.float32).flatten() for value in values]
    for row in rows:
        if len(row) != size or not bool(row.isfinite().all()):
            raise GeneratorError(
                f"A condition's {kind} must be {size} finite number{'s' * (size != 1)}; got {row.tolist()[:12]} "
                f"({len(row)} of them)."
            )
    return torch.stack(rows)


def _or(kinds: Sequence[str]) -> str:
    return " and ".join(repr(kind) for kind in kinds) or "none"


def numbers_of(conditions: Sequence[Mapping[str, object]], sizes: Mapping[str, int]) -> Tensor:
    """Conditions that are numbers, such as codes and metrics, in rows.

    Args:
        conditions: Numbers by kind, one mapping for each network.
        sizes: How many numbers each kind has; kinds of size 0 are not known.

    Returns:
        ``[conditions, sum of sizes]``, in the order of ``sizes``.

    Raises:
        GeneratorError: A kind is unknown or missing, or has another size.
    """
    known = {kind: size for kind, size in sizes.items() if size}
    rows = []
    for condition in conditions:
        if unknown := sorted(set(condition) - set(known)):
            names = " and ".join(known) or "none"
            raise GeneratorError(f"Unknown condition {unknown[0]!r}; this generator knows {names}.")
        if missing := [kind for kind in known if kind not in condition]:
            raise GeneratorError(f"The condition lacks {missing[0]!r}. Pass it.")
        row = [torch.as_tensor(condition[kind], dtype=torch.float32).flatten() for kind in known]
        for kind, value in zip(known, row, strict=True):
            if len(value) != known[kind]:
                raise GeneratorError(f"A condition's {kind} must be {known[kind]} numbers; got {value.tolist()}.")
        rows.append(torch.cat(row) if row else torch.zeros(0))
    return torch.stack(rows)
