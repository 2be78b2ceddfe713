"""What is measured of the networks that one method gives for held-out conditions, and what it amounts to.

The criteria of the verdict, in this order; ``above`` means by more than two standard errors, over conditions:

* **memorises**: the distance to the nearest training network, over permutations of hidden units, is less than half of
  what it is for networks that were trained for the held-out conditions (medians).
* **averages**: the networks lie less than half as far from the nearest average of training networks as trained ones
  do (medians), or they bear the signature of averaging: mean accuracy above that of trained networks, with less spread,
  and networks of one condition err more alike than the zoo's do. Averages are taken of the networks that are nearest by
  weight and of those of the nearest conditions, any two of a few, and any number up to all.
* **fails**: the accuracy is not above that of the initialisation.
* **adds noise**: the accuracy is not above that of the training networks of the nearest conditions with so much noise
  added that they are as far from all training networks, or by less than .02.
* **generalises**: none of these. How well, the margin over the best baseline tells.

Zeng et al., *Generative Modeling of Weights: Generalization or Memorization?*, 2025 (arXiv 2506.07998) show that
published generators fall to the second and third; the comparisons are theirs, the thresholds ours.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hypergen.errors import ParameterError
from hypergen.evaluation.zoo.baselines import (
    NEIGHBOURS,
    Sampler,
    aligned_to_first,
    nearest_condition,
    neighbour_average,
    noise_added,
    spread,
)
from hypergen.evaluation.zoo.data import Checkpoints, Stacked, cycle, select
from hypergen.evaluation.zoo.distance import distance_to_averages, nearest, overlap, paired_distances
from hypergen.evaluation.zoo.problem import ZooProblem, accuracies

Verdict = Literal["fails", "memorises", "averages", "adds noise", "generalises"]

NOISE_STRENGTHS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5)
MEMORISED, AVERAGED = 0.5, 0.5
ABOVE_NOISE = 0.02
LEAST_NETWORKS = 32  # Where there are few conditions, so many networks over all of them.
_PAIRED_TASKS = 64


@dataclass(frozen=True)
class Measures:
    """What was measured of the networks of one method.

    Args:
        method: Its name.
        accuracy: On test samples, [conditions, networks of each].
        novelty: Distance to the nearest training network, [networks].
        nearest: That network's index, [networks].
        similarity_to_train: The greatest intersection over union of wrong predictions with a training network,
            [networks].
        from_averages: Distance to the nearest average of training networks, [networks].
        diversity: Distance between two networks of a condition, [pairs].
        similarity_within: Intersection over union of wrong predictions of two networks of a condition, [pairs].
    """

    method: str
    accuracy: Tensor
    novelty: Tensor
    nearest: Tensor
    similarity_to_train: Tensor
    from_averages: Tensor
    diversity: Tensor
    similarity_within: Tensor


class Comparison:
    """Measures methods on held-out conditions, beside networks that were trained for these.

    Args:
        problem: What the networks are for.
        train: What the generator was trained on.
        held_out: Networks trained on what it was not trained on; as many of each condition.
        init: Networks before training, [any number, *shape] by parameter.
        seed: Random seed of the noise.

    Raises:
        ParameterError: Half of the held-out networks or more are among the training networks.
    """

    def __init__(
        self, problem: ZooProblem, train: Checkpoints, held_out: Checkpoints, init: Stacked, seed: int = 0
    ) -> None:
        self.problem, self.train = problem, train
        self.conditions, of = held_out.conditions.unique(dim=0, return_inverse=True)
        self._each = max(2, math.ceil(LEAST_NETWORKS / len(self.conditions)))
        order = of.argsort(stable=True)
        runs = int(of.bincount().min())
        # As many of each condition, for one shape of everything.
        ranks = torch.cat([torch.arange(int(count)) for count in of.bincount()])
        self.runs, self._trained = runs, select(held_out.parameters, order[ranks < runs])
        self._aligned = aligned_to_first(train, problem)
        self._train_predictions = problem.predictions(train.parameters, "test")
        self.trained = self.measure("trained", self._trained)
        if self.trained.novelty.median() <= 1e-6:
            raise ParameterError(
                "Most held-out networks are among the training networks, so nothing could be told from them. Split the "
                "zoo by run or by task."
            )
        self.init = self.accuracy(cycle(init, len(self.conditions) * self._each))
        self.zoo_diversity, self.zoo_similarity = self._zoo_pairs()
        self.noise = self._noise_sweep(nearest_condition(train), seed)

    def accuracy(self, networks: Mapping[str, Tensor]) -> Tensor:
        """Accuracy on test samples, [conditions, networks of each]."""
        each = len(next(iter(networks.values()))) // len(self.conditions)
        repeated = self.conditions.repeat_interleave(each, 0)
        return accuracies(self.problem, networks, repeated, "test").unflatten(0, (len(self.conditions), -1))

    def measure(self, method: str, networks: Stacked) -> Measures:
        """Measure networks: as many of each condition, in a row."""
        labels = self.problem.labels(self.conditions, "test")
        predictions = self.problem.predictions(networks, "test").unflatten(0, (len(labels), -1))
        wrong = predictions != labels[:, None]  # [conditions, networks of each, samples]
        novelty, index = nearest(networks, self.train.parameters, self.problem.symmetry)
        similarity = [
            overlap(of_condition, self._train_predictions != label).max(1).values
            for of_condition, label in zip(wrong, labels, strict=True)
        ]
        diversity, within = self._pairs(networks, wrong)
        averages = distance_to_averages(networks, self.train.parameters, self.problem.symmetry)
        for frame, number in itertools.product((self.train, self._aligned), NEIGHBOURS[1:]):
            near = neighbour_average(frame, number)(self.conditions, wrong.shape[1], 0)
            averages = torch.minimum(averages, paired_distances(networks, near, self.problem.symmetry))
        return Measures(
            method, self._accuracy(networks, wrong), novelty, index, torch.cat(similarity), averages, diversity, within
        )

    def _accuracy(self, networks: Stacked, wrong: Tensor) -> Tensor:
        own_metric = getattr(self.problem, "score", None) is not None
        return self.accuracy(networks) if own_metric else 1 - wrong.float().mean(-1)

    def novelty(self, measures: Measures) -> float:
        """Distance to the nearest training network, over that of trained networks (medians)."""
        return _ratio(measures.novelty, self.trained.novelty)

    def from_averages(self, measures: Measures) -> float:
        """Distance to the nearest average of training networks, over that of trained networks (medians)."""
        return _ratio(measures.from_averages, self.trained.from_averages)

    def similarity_to_train(self, measures: Measures) -> float:
        """Greatest overlap of wrong predictions with a training network, over that of trained networks (means)."""
        return float(measures.similarity_to_train.mean() / self.trained.similarity_to_train.mean())

    def diversity(self, distances: Tensor) -> float:
        """Mean distance between networks of one condition, over the median held-out-to-train distance."""
        return float(distances.mean() / self.trained.novelty.median()) if len(distances) else math.nan

    def noise_at_equal_novelty(self, measures: Measures) -> Tensor:
        """Accuracy of training networks with noise that makes them as novel: [conditions, networks of each].

        Between two strengths of the sweep it is interpolated; beyond the last it is that of the last.
        """
        wanted = measures.novelty.median()
        levels = torch.stack([novelty for _, novelty, _ in self.noise])
        curves = torch.stack([accuracy for _, _, accuracy in self.noise])
        after = int(torch.searchsorted(levels, wanted).clamp(1, len(levels) - 1))
        low, high = levels[after - 1], levels[after]
        share = ((wanted - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
        return torch.lerp(curves[after - 1], curves[after], share)

    def verdict(self, measures: Measures) -> Verdict:
        """What the method amounts to; the criteria stand at the top of this module."""
        if self.novelty(measures) < MEMORISED:
            return "memorises"
        signature = (
            _above(measures.accuracy, self.trained.accuracy)
            and bool(measures.accuracy.std() < self.trained.accuracy.std())
            and bool(measures.similarity_within.mean() > self.zoo_similarity.mean())
        )
        if self.from_averages(measures) < AVERAGED or signature:
            return "averages"
        if not _above(measures.accuracy, self.init):
            return "fails"
        if not _above(measures.accuracy, self.noise_at_equal_novelty(measures), ABOVE_NOISE):
            return "adds noise"
        return "generalises"

    def _pairs(self, networks: Stacked, wrong: Tensor) -> tuple[Tensor, Tensor]:
        """Distances and overlaps of wrong predictions between networks of one condition."""
        each = wrong.shape[1]
        distances, overlaps = [torch.empty(0)], [torch.empty(0)]
        first = torch.arange(len(wrong)) * each
        for i, j in itertools.combinations(range(min(each, 4 if len(wrong) > 8 else 12)), 2):
            one, other = select(networks, first + i), select(networks, first + j)
            distances.append(paired_distances(one, other, self.problem.symmetry))
            overlaps.append(torch.stack([overlap(of[i : i + 1], of[j : j + 1])[0, 0] for of in wrong]))
        return torch.cat(distances), torch.cat(overlaps)

    def _zoo_pairs(self) -> tuple[Tensor, Tensor]:
        """The same between two training networks of one task."""
        pairs = []
        for task in self.train.tasks.unique()[:_PAIRED_TASKS]:
            members = (self.train.tasks == task).nonzero().flatten()
            pairs += [members[[i, i + 1]] for i in range(0, min(len(members), 2 * _PAIRED_TASKS) - 1, 2)]
        pairs = pairs[: 4 * _PAIRED_TASKS]
        if not pairs:
            return torch.empty(0), torch.empty(0)
        index = torch.stack(pairs)
        labels = self.problem.labels(self.train.conditions[index[:, 0]], "test")
        wrong = self._train_predictions[index] != labels[:, None]
        networks = select(self.train.parameters, index.flatten())
        return self._pairs(networks, wrong)

    def _noise_sweep(self, base: Sampler, seed: int) -> list[tuple[float, Tensor, Tensor]]:
        """(strength, median novelty, accuracy [conditions, networks of each]); novelty grows with strength."""
        sweep = []
        scale = spread(self.train.parameters)
        for strength in NOISE_STRENGTHS:
            networks = noise_added(base, scale, strength)(self.conditions, self._each, seed)
            novelty, _ = nearest(networks, self.train.parameters, self.problem.symmetry)
            sweep.append((strength, novelty.median(), self.accuracy(networks)))
        return sweep


def difference(one: Tensor, other: Tensor) -> tuple[float, float]:
    """The difference of mean accuracies and its standard error.

    Args:
        one: [conditions, networks of each].
        other: [conditions, networks of each]; compared condition by condition where there are several.
    """
    if len(one) > 1:
        differences = one.mean(1) - other.mean(1)
        return float(differences.mean()), float(differences.std() / len(differences) ** 0.5)
    variances: Sequence[Tensor] = [side.var() / side.numel() for side in (one, other) if side.numel() > 1]
    return float(one.mean() - other.mean()), float(sum(variances, torch.zeros(())) ** 0.5)


def _above(one: Tensor, other: Tensor, by: float = 0.0) -> bool:
    mean, error = difference(one, other)
    return mean > max(2 * error, by)


def _ratio(one: Tensor, other: Tensor) -> float:
    return float(one.median() / other.median())
