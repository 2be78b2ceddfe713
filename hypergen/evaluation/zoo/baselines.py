"""The simple methods that could explain what a generator of checkpoints does.

Each is a sampler as a generator is one: conditions, a number of samples for each and a seed in, stacked networks out.
They see what the generator was trained on. What they have to choose (whether to align networks to the first of them,
how many to average, how strongly to regularise) they choose on training conditions that are set aside, by accuracy on
validation samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from hypergen.evaluation.zoo.data import Checkpoints, Stacked, cycle, flatten, select, unflatten
from hypergen.evaluation.zoo.problem import ZooProblem, accuracies
from hypergen.symmetry.align.stacked import align

Sampler = Callable[[Tensor, int, int], Stacked]
"""(conditions [m, features], samples, seed) -> [m * samples, *shape] by parameter, the samples of a condition in a row.
"""

_Setting = TypeVar("_Setting", int, float)

NEIGHBOURS = (1, 2, 3, 5, 8, 13, 21, 34)
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)


def zoo_baselines(problem: ZooProblem, train: Checkpoints, init: Mapping[str, Tensor], seed: int) -> dict[str, Sampler]:
    """Every baseline but the nearest by weight and noise, which need samples or a strength.

    Args:
        problem: What the networks are for.
        train: What the generator was trained on.
        init: Networks before training, [any number, *shape] by parameter.
        seed: Random seed of the split for choosing.
    """
    # From one initialisation units correspond as they are, and matching them anew may harm; from many it is needed.
    frames = [train, aligned_to_first(train, problem)] if problem.symmetry else [train]
    best_mean, _ = _choose(problem, frames, [0], lambda part, _: neighbour_average(part, len(part)), seed)
    best_pair, _ = _choose(problem, frames, [0], lambda part, _: pair_average(part), seed)
    best_near, neighbours = _choose(problem, frames, NEIGHBOURS, neighbour_average, seed)
    best_linear, penalty = _choose(problem, frames, PENALTIES, linear, seed)
    return {
        "init": lambda conditions, samples, seed: cycle(init, len(conditions) * samples),
        "nearest_condition": nearest_condition(train),
        "mean_net": neighbour_average(best_mean, len(train)),
        "pair_average": pair_average(best_pair),
        "neighbour_average": neighbour_average(best_near, neighbours),
        "linear": linear(best_linear, penalty),
        "gaussian": gaussian(best_linear, penalty),
    }


def aligned_to_first(train: Checkpoints, problem: ZooProblem) -> Checkpoints:
    """The same networks, their hidden units in the order of the first one's."""
    first = select(train.parameters, torch.tensor([0]))
    return Checkpoints(align(train.parameters, first, problem.symmetry), train.conditions, train.tasks)


def nearest_condition(train: Checkpoints) -> Sampler:
    """The training networks of the nearest condition as they are, in turn; in an order left to chance."""
    conditions_of, of = train.conditions.unique(dim=0, return_inverse=True)
    counts = of.bincount()
    starts = counts.cumsum(0) - counts

    def sample(conditions: Tensor, samples: int, seed: int) -> Stacked:
        shuffled = torch.randperm(len(of), generator=torch.Generator().manual_seed(seed))
        members = shuffled[of[shuffled].argsort(stable=True)]  # Those of the first condition, of the second, ...
        nearest = _distances(conditions_of, conditions).argmin(1)[:, None]
        chosen = members[starts[nearest] + torch.arange(samples) % counts[nearest]]  # [m, samples]
        return select(train.parameters, chosen.flatten())

    return sample


def pair_average(train: Checkpoints) -> Sampler:
    """Half of each of two networks: those of the nearest two conditions, and of the next two for the next sample.

    Where all share one condition, any two.
    """
    conditions_of, of = train.conditions.unique(dim=0, return_inverse=True)
    # One network of each condition, lest two runs of the nearest task are all that is averaged.
    few = train[_first_of_each(of)] if len(conditions_of) > 1 else train

    def sample(conditions: Tensor, samples: int, seed: int) -> Stacked:
        near = _nearest(few, conditions, 2 * samples, seed)
        halves = flatten(few.parameters)[near].unflatten(1, (samples, 2)).mean(2)  # [m, samples, values]
        return unflatten(halves.flatten(0, 1), train.parameters)

    return sample


def neighbour_average(train: Checkpoints, neighbours: int) -> Sampler:
    """The mean of the networks of the nearest conditions; the same for every sample.

    Args:
        train: What is averaged.
        neighbours: As many conditions; with all of them it is the mean net.
    """
    conditions_of, of = train.conditions.unique(dim=0, return_inverse=True)
    vectors = flatten(train.parameters)
    means = torch.zeros(len(conditions_of), vectors.shape[1]).index_add_(0, of, vectors) / of.bincount()[:, None]

    def sample(conditions: Tensor, samples: int, seed: int) -> Stacked:
        if neighbours >= len(means):
            found = vectors.mean(0).expand(len(conditions), -1)
        else:
            found = means[_distances(conditions_of, conditions).topk(neighbours, largest=False).indices].mean(1)
        return unflatten(found.repeat_interleave(samples, 0), train.parameters)

    return sample


def linear(train: Checkpoints, penalty: float) -> Sampler:
    """Ridge regression from the condition to the weights; the same for every sample."""
    predict, _ = _ridge(train, penalty)

    def sample(conditions: Tensor, samples: int, seed: int) -> Stacked:
        return unflatten(predict(conditions).repeat_interleave(samples, 0), train.parameters)

    return sample


def gaussian(train: Checkpoints, penalty: float) -> Sampler:
    """A Gaussian of full covariance around the linear prediction; where conditions don't vary, around the mean."""
    predict, residuals = _ridge(train, penalty)

    def sample(conditions: Tensor, samples: int, seed: int) -> Stacked:
        generator = torch.Generator().manual_seed(seed)
        means = predict(conditions).repeat_interleave(samples, 0)
        # Combinations of the residuals have their covariance, which itself would have values² entries.
        draws = torch.randn(len(means), len(residuals), generator=generator) / max(len(residuals) - 1, 1) ** 0.5
        return unflatten(means + draws @ residuals, train.parameters)

    return sample


def noise_added(base: Sampler, scale: Mapping[str, Tensor], strength: float) -> Sampler:
    """The networks of another sampler with Gaussian noise.

    Args:
        base: Where the networks come from.
        scale: The unit of the noise by parameter, such as :func:`spread`.
        strength: Strength of the noise, in that unit.
    """

    def sample(conditions: Tensor, samples: int, seed: int) -> Stacked:
        generator = torch.Generator().manual_seed(seed)
        return {
            name: value + strength * scale[name] * torch.randn(value.shape, generator=generator)
            for name, value in base(conditions, samples, seed).items()
        }

    return sample


def spread(train: Mapping[str, Tensor]) -> Stacked:
    """The standard deviation of each parameter tensor's values."""
    return {name: value.std() for name, value in train.items()}


def _ridge(train: Checkpoints, penalty: float) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """The prediction, and the residuals on the training networks [networks, values]."""
    vectors = flatten(train.parameters)
    centre, unit = _standardisation(train.conditions)
    inputs, mean = (train.conditions - centre) / unit, vectors.mean(0)
    gram = inputs.T @ inputs + penalty * torch.eye(inputs.shape[1])
    weights = torch.linalg.solve(gram, inputs.T @ (vectors - mean))

    def predict(conditions: Tensor) -> Tensor:
        return mean + (conditions - centre) / unit @ weights

    return predict, vectors - predict(train.conditions)


def _choose(
    problem: ZooProblem,
    frames: Sequence[Checkpoints],
    settings: Sequence[_Setting],
    make: Callable[[Checkpoints, _Setting], Sampler],
    seed: int,
) -> tuple[Checkpoints, _Setting]:
    """The frame and setting whose networks are best on a fifth of the conditions, fitted on the others.

    Where there is one condition only, the last frame and the first setting.

    Args:
        problem: What the networks are for.
        frames: The training networks, with their hidden units in one order or another.
        settings: Settings to choose from.
        make: The sampler of networks and a setting.
        seed: Random seed of which conditions are set aside.
    """
    of = frames[0].conditions.unique(dim=0, return_inverse=True)[1]
    order = torch.randperm(int(of.max()) + 1, generator=torch.Generator().manual_seed(seed))
    aside = torch.isin(of, order[: len(order) // 5])
    if not aside.any():
        return frames[-1], settings[0]
    conditions = frames[0].conditions[aside].unique(dim=0)
    pairs = [(frame, setting) for frame in frames for setting in settings]
    best = [
        accuracies(problem, make(frame[~aside], setting)(conditions, 1, seed), conditions, "validation").mean()
        for frame, setting in pairs
    ]
    return pairs[int(torch.stack(best).argmax())]


def _first_of_each(groups: Tensor) -> Tensor:
    """The index of the first member of every group: [groups]."""
    order = torch.arange(len(groups), dtype=torch.long)
    first = torch.full((int(groups.max()) + 1,), len(groups))
    return first.scatter_reduce(0, groups, order, "amin")


def _nearest(train: Checkpoints, conditions: Tensor, number: int, seed: int) -> Tensor:
    """Indices of the networks of the nearest conditions, equally near ones in random order: [m, number]."""
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    near = _distances(train.conditions[order], conditions).sort(dim=1, stable=True).indices
    return order[near[:, torch.arange(number) % len(train)]]


def _distances(known: Tensor, conditions: Tensor) -> Tensor:
    """Between standardised conditions: [m, networks]."""
    centre, unit = _standardisation(known)
    return torch.cdist((conditions - centre) / unit, (known - centre) / unit)


def _standardisation(conditions: Tensor) -> tuple[Tensor, Tensor]:
    spread = conditions.std(0, unbiased=False)
    return conditions.mean(0), torch.where(spread > 0, spread, torch.ones(()))
