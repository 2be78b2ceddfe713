"""What the networks of a zoo are for: running, measuring and training many of one layout at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hypergen.evaluation.zoo.data import Stacked
from hypergen.functional.stacked_outputs import StackedOutputs
from hypergen.symmetry.align.stacked import PermutationGroup

_CALIBRATION_SAMPLES = 256


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
        score: Metric that takes the place of accuracy: (outputs [samples, classes], labels [samples]) to a number, the
            greater the better.

    Statistics of batch norms are estimated for every network from the first training samples.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Mapping[str, tuple[Tensor, Tensor]],
        relabel: Callable[[Tensor], Tensor] | None = None,
        symmetry: Sequence[PermutationGroup] = (),
        batch_size: int = 64,
        score: Callable[[Tensor, Tensor], Any] | None = None,
    ) -> None:
        self.data, self.relabel, self.score = dict(data), relabel, score
        self._outputs = StackedOutputs(model, self.data["train"][0][:_CALIBRATION_SAMPLES])
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
        logits = self._outputs(parameters, self.data[split][0])
        return (logits[..., 0] > 0).long() if logits.shape[-1] == 1 else logits.argmax(-1)

    @torch.no_grad()
    def losses(self, parameters: Mapping[str, Tensor], conditions: Tensor, split: str) -> Tensor:
        """Mean cross-entropy of every network: [networks]."""
        return _losses(self._outputs(parameters, self.data[split][0]), self.labels(conditions, split))

    @torch.no_grad()
    def scores(self, parameters: Mapping[str, Tensor], conditions: Tensor, split: str) -> Tensor:
        """The metric of every network: the given one, or else accuracy, [networks]."""
        if self.score is None:
            return (self.predictions(parameters, split) == self.labels(conditions, split)).float().mean(1)
        outputs = self._outputs(parameters, self.data[split][0])
        pairs = zip(outputs, self.labels(conditions, split), strict=True)
        return torch.tensor([float(self.score(one, labels)) for one, labels in pairs])

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
                    loss = _losses(self._outputs.by_batch(values, inputs[batch]), labels[:, batch]).sum()
                    optimizer.zero_grad()
                    loss.backward()
                optimizer.step()


def accuracies(problem: ZooProblem, parameters: Mapping[str, Tensor], conditions: Tensor, split: str) -> Tensor:
    """The share of right predictions of every network, or the problem's own metric: [networks]."""
    if getattr(problem, "score", None) is not None:
        return problem.scores(parameters, conditions, split)  # type: ignore[attr-defined]
    hits = problem.predictions(parameters, split) == problem.labels(conditions, split)
    return hits.float().mean(1)


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    if logits.shape[-1] == 1:
        return F.binary_cross_entropy_with_logits(logits[..., 0], labels.float(), reduction="none").mean(1)
    return F.cross_entropy(logits.movedim(-1, 1), labels, reduction="none").mean(1)
