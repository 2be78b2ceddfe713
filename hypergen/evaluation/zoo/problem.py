"""What the networks of a zoo are for: running, measuring and training many of one layout at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

from hypergen.evaluation.zoo.data import Stacked
from hypergen.symmetry.align.stacked import PermutationGroup


class ZooProblem(Protocol):
    """What the bundle asks of the networks, always of all of a stack at once.

    Attributes:
        symmetry: The permutation groups of the layout; empty where they are not known.
    """

    symmetry: Sequence[PermutationGroup]

    def predictions(self, parameters: Mapping[str, Tensor], split: str) -> Tensor:
        """The predicted class of every sample of a split: [networks, samples], int64."""

    def labels(self, conditions: Tensor, split: str) -> Tensor:
        """The right class of every sample under each condition: [networks, samples], int64."""

    def losses(self, parameters: Mapping[str, Tensor], conditions: Tensor, split: str) -> Tensor:
        """The mean loss of every network: [networks]."""

    def training_steps(
        self, parameters: Mapping[str, Tensor], conditions: Tensor, *, learning_rate: float, seed: int
    ) -> Iterator[Stacked]:
        """Train copies of the networks for their conditions, a step per item, without end."""


class StackedClassification:
    """Classifiers of one layout on data in memory; each network may have labels of its own.

    Args:
        model: A network of the layout; it is only read. With one logit it classifies into two classes.
        data: (inputs [samples, ...], classes [samples]) by split: train, validation, test.
        relabel: Turns conditions [networks, features] into the label of each class, [networks, classes]; by default
            every network is to tell the classes themselves.
        symmetry: The permutation groups of the layout.
        batch_size: Samples per training step, the same ones for all networks.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Mapping[str, tuple[Tensor, Tensor]],
        relabel: Callable[[Tensor], Tensor] | None = None,
        symmetry: Sequence[PermutationGroup] = (),
        batch_size: int = 64,
    ) -> None:
        self.model, self.data, self.relabel = model, dict(data), relabel
        self.symmetry, self.batch_size = symmetry, batch_size

    def labels(self, conditions: Tensor, split: str) -> Tensor:
        """The right class of every sample under each condition: [networks, samples], int64."""
        classes = self.data[split][1]
        if self.relabel is None:
            return classes.expand(len(conditions), -1)
        return self.relabel(conditions).long()[:, classes]

    @torch.no_grad()
    def predictions(self, parameters: Mapping[str, Tensor], split: str) -> Tensor:
        """The predicted class of every sample of a split: [networks, samples], int64."""
        logits = self._logits(parameters, self.data[split][0])
        return (logits[..., 0] > 0).long() if logits.shape[-1] == 1 else logits.argmax(-1)

    @torch.no_grad()
    def losses(self, parameters: Mapping[str, Tensor], conditions: Tensor, split: str) -> Tensor:
        """Mean cross-entropy of every network: [networks]."""
        return _losses(self._logits(parameters, self.data[split][0]), self.labels(conditions, split))

    def training_steps(
        self, parameters: Mapping[str, Tensor], conditions: Tensor, *, learning_rate: float, seed: int
    ) -> Iterator[Stacked]:
        """Train copies of the networks by Adam, a step per item, without end; the first item is before any step."""
        values = {name: value.detach().clone().requires_grad_() for name, value in parameters.items()}
        # Adam works element by element, and the sum of losses has each network's own gradient: they don't mix.
        optimizer = torch.optim.Adam(values.values(), learning_rate, fused=True)
        inputs = self.data["train"][0]
        labels = self.labels(conditions, "train")
        shuffle = torch.Generator().manual_seed(seed)
        while True:
            for batch in torch.randperm(len(inputs), generator=shuffle).split(self.batch_size):
                yield {name: value.detach() for name, value in values.items()}
                with torch.enable_grad():
                    loss = _losses(self._logits(values, inputs[batch]), labels[:, batch]).sum()
                    optimizer.zero_grad()
                    loss.backward()
                optimizer.step()

    def _logits(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Logits [networks, samples, classes]."""
        run = vmap(lambda values: functional_call(self.model, values, (inputs,)), chunk_size=512)
        return run(dict(parameters))


def accuracies(problem: ZooProblem, parameters: Mapping[str, Tensor], conditions: Tensor, split: str) -> Tensor:
    """The share of right predictions of every network: [networks]."""
    hits = problem.predictions(parameters, split) == problem.labels(conditions, split)
    return hits.float().mean(1)


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    if logits.shape[-1] == 1:
        return F.binary_cross_entropy_with_logits(logits[..., 0], labels.float(), reduction="none").mean(1)
    return F.cross_entropy(logits.movedim(-1, 1), labels, reduction="none").mean(1)
