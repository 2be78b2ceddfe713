"""Hyperparameters in, weights out: regularisation tuned while one network trains.

``python -m experiments.hypernetwork_systems.hyperparameters`` tunes three hyperparameters of a perceptron on 200 of
scikit-learn's digits, the weight decay of two layers and the noise on images: jointly and online (Self-Tuning Networks,
MacKay et al., 2019, arXiv 1903.03088) and over the whole range first (stochastic hyperparameter optimisation, Lorraine
and Duvenaud, 2018, arXiv 1802.09419). Baselines with the same number of steps in all: grid search and random search.
The last line is the figures as JSON.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Sequence

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from hypergen import HyperNetwork
from hypergen.data import DigitsDataModule
from hypergen.evaluation.results import Results, Row

_IMAGES, _BATCH, _SIZE = 200, 50, 3
_RATES = (1e-3, 3e-3, 1e-2)
_SPREAD = 0.1  # of the hyperparameters that the online network is trained around
_DECAYS = ("0.weight", "2.weight")
Data = tuple[Tensor, Tensor]


def network() -> nn.Module:
    """Images ``[batch, 64]`` to logits."""
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def data() -> tuple[Data, Data, Data]:
    """Training, validation and test images and labels."""
    module = DigitsDataModule()
    train, validation, test = ((x.flatten(1), y) for x, y in map(module.tensors, ("train", "validation", "test")))
    return (train[0][:_IMAGES], train[1][:_IMAGES]), validation, test


def regularised(
    weights: dict[str, Tensor], hyper: Tensor, images: Tensor, labels: Tensor, draw: torch.Generator
) -> Tensor:
    """The training loss at hyperparameters from 0 to 1: decays from 1e-5 to 1, noise from 0 to 2."""
    noisy = images + 2 * hyper[2] * torch.randn(images.shape, generator=draw)
    loss = F.cross_entropy(functional_call(network(), weights, (noisy,)), labels)
    return loss + sum(10 ** (5 * hyper[i] - 5) * weights[name].square().sum() for i, name in enumerate(_DECAYS))


def score(weights: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy without regularisation."""
    return F.cross_entropy(functional_call(network(), weights, (images,)), labels)


def by_search(settings: Sequence[Tensor], steps: int, rate: float, seed: int) -> tuple[float, float]:
    """Validation and test loss of the best of networks that are trained at one setting each, ``steps`` in all."""
    train, validation, test = data()
    found = []
    for hyper in settings:
        torch.manual_seed(seed)
        draw = torch.Generator().manual_seed(seed)
        weights = {name: value.detach().requires_grad_() for name, value in network().named_parameters()}
        optimizer = torch.optim.Adam(weights.values(), rate)
        for _ in range(steps // len(settings)):
            chosen = torch.randint(_IMAGES, (_BATCH,), generator=draw)
            optimizer.zero_grad()
            regularised(weights, hyper, train[0][chosen], train[1][chosen], draw).backward()
            optimizer.step()
        with torch.no_grad():
            found.append((score(weights, *validation).item(), score(weights, *test).item()))
    return min(found)


def by_hypernetwork(online: bool, steps: int, rate: float, seed: int) -> tuple[float, float, list[list[float]]]:
    """Validation and test loss, and the course of the hyperparameters."""
    train, validation, test = data()
    torch.manual_seed(seed)
    draw = torch.Generator().manual_seed(seed)
    model = HyperNetwork(network(), _SIZE)
    hyper = torch.full((_SIZE,), 0.5, requires_grad=True)
    optimizer, tuner = torch.optim.Adam(model.parameters(), rate), torch.optim.Adam([hyper], 0.01)
    course = []
    for step in range(steps):
        centre = hyper.detach()
        drawn = centre + _SPREAD * torch.randn(_SIZE, generator=draw) if online else torch.rand(_SIZE, generator=draw)
        drawn = drawn.clamp(0, 1)
        chosen = torch.randint(_IMAGES, (_BATCH,), generator=draw)
        optimizer.zero_grad()
        weights = model.generate(condition=drawn)
        regularised(weights, drawn, train[0][chosen], train[1][chosen], draw).backward()
        optimizer.step()
        if step >= (steps // 10 if online else steps * 9 // 10):
            tuner.zero_grad()
            score(model.generate(condition=hyper.clamp(0, 1)), *validation).backward()
            tuner.step()
            with torch.no_grad():
                hyper.clamp_(0, 1)
        if step % max(1, steps // 20) == 0:
            course.append([round(value, 3) for value in hyper.tolist()])
    with torch.no_grad():
        weights = model.generate(condition=hyper)
        return score(weights, *validation).item(), score(weights, *test).item(), course


def main(arguments: Sequence[str] | None = None) -> Results:
    """Run, print a table and, last, its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4000, help="of each way, in all")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    grid = [torch.tensor(point) for point in itertools.product((0.0, 0.5), (0.0, 0.5), (0.0, 0.5))]
    losses: dict[str, list[float]] = {"online": [], "stochastic": [], "grid_search": [], "random_search": []}
    courses = []
    for seed in range(options.seeds):
        settings = list(torch.rand(len(grid), _SIZE, generator=torch.Generator().manual_seed(1000 + seed)))
        best: dict[str, tuple[float, float]] = dict.fromkeys(losses, (math.inf, math.inf))
        course: list[list[float]] = []
        for rate in _RATES:
            validation, test, way = by_hypernetwork(True, options.steps, rate, seed)
            if validation < best["online"][0]:
                best["online"], course = (validation, test), way
            best["stochastic"] = min(best["stochastic"], by_hypernetwork(False, options.steps, rate, seed)[:2])
            best["grid_search"] = min(best["grid_search"], by_search(grid, options.steps, rate, seed))
            best["random_search"] = min(best["random_search"], by_search(settings, options.steps, rate, seed))
        courses.append(course)
        for name, (_, test) in best.items():
            losses[name].append(test)
    searched = [min(pair) for pair in zip(losses["grid_search"], losses["random_search"], strict=True)]
    rows = [Row.from_values(f"{name}_test_loss", values, better="lower") for name, values in losses.items()]
    for name in ("online", "stochastic"):
        differences = [own - best for own, best in zip(losses[name], searched, strict=True)]
        rows.append(Row.from_values(f"{name}_over_the_better_search", differences, aim=0.0, better="lower"))
    results = Results("hyperparameters", 0, tuple(rows), {"steps": options.steps, "courses": courses})
    results.print_table(Console())
    print(results.to_json())
    return results


if __name__ == "__main__":
    main()
