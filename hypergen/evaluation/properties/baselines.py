"""The simplest predictors of a network's properties from its weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from hypergen.evaluation.properties.figures import kendall_tau
from hypergen.evaluation.properties.weight_statistics import statistics_table
from hypergen.evaluation.zoo.data import flatten
from hypergen.metanets.probes import Probes
from hypergen.metanets.property_prediction.training import MeasuredNetworks

Parts = tuple[Sequence[MeasuredNetworks], ...]  # To learn from, to select on, to predict.

_BINS = 64  # No worse than 255 for a thousand networks, and two times faster.
# From few leaves to many; what is best depends on how many networks there are.
BOOSTING: tuple[dict[str, float], ...] = (
    {"max_leaf_nodes": 4, "learning_rate": 0.1, "max_iter": 200, "min_samples_leaf": 5},
    {"max_leaf_nodes": 8, "learning_rate": 0.05, "max_iter": 200},
    {"max_leaf_nodes": 31, "learning_rate": 0.05, "max_iter": 100, "min_samples_leaf": 10},
)


def baseline_predictions(parts: Parts, probes: Probes) -> dict[str, Tensor]:
    """What simple methods predict.

    Args:
        parts: Networks by architecture, in the same order in each: to learn from, to select settings on and then learn
            from, too, and to predict.
        probes: Untrained, for boosted trees that read responses to random inputs beside the statistics.

    Returns:
        ``[networks, properties]`` by method: ``statistics`` (of weights, with boosted trees), with several
        architectures ``statistics_per_architecture`` (trees of each one's own), ``statistics_and_random_probes``,
        ``nearest`` (network of the architecture, in its weights), ``mean`` (of the architecture), and with one
        architecture ``ridge`` (regression on the weights).
    """
    tables = [statistics_table([each.tensors for each in part]) for part in parts]
    responses = [np.concatenate([_responses(probes, each) for each in part]) for part in parts]
    alone = [tuple([each] for each in trio) for trio in zip(*parts, strict=True)]
    found = {
        "statistics": _boosted(parts, tables),
        "statistics_and_random_probes": _boosted(
            parts, [np.concatenate(pair, 1) for pair in zip(tables, responses, strict=True)]
        ),
        "nearest": torch.cat([_on_weights(each, nearest) for each in alone]),
        "mean": torch.cat([_on_weights(each, mean) for each in alone]),
    }
    if len(alone) == 1:
        return found | {"ridge": _on_weights(parts, ridge)}
    own = [_boosted(each, [statistics_table([part[0].tensors]) for part in each]) for each in alone]
    return found | {"statistics_per_architecture": torch.cat(own)}


def gradient_boosting(
    train: tuple[np.ndarray, Tensor], validation: tuple[np.ndarray, Tensor], features: np.ndarray
) -> Tensor:
    """Predict properties by boosted trees (scikit-learn's histogram-based ones).

    Settings are chosen by Kendall's tau on the validation networks; then the trees learn from both.

    Args:
        train: Features ``[networks, columns]``, NaN where missing, and properties ``[networks, properties]``.
        validation: The same for the validation split.
        features: Features of the networks to predict.

    Returns:
        ``[networks, properties]``.
    """
    from sklearn.ensemble import HistGradientBoostingRegressor

    every = np.concatenate([train[0], validation[0]])
    predictions = []
    for known, selecting in zip(train[1].T, validation[1].T, strict=True):
        taus = []
        for settings in BOOSTING:
            trees = HistGradientBoostingRegressor(random_state=0, max_bins=_BINS, **settings).fit(
                train[0], known.numpy()
            )
            taus.append(float(kendall_tau(torch.from_numpy(trees.predict(validation[0])), selecting)))
        trees = HistGradientBoostingRegressor(random_state=0, max_bins=_BINS, **BOOSTING[int(np.argmax(taus))])
        trees.fit(every, torch.cat([known, selecting]).numpy())
        predictions.append(torch.from_numpy(trees.predict(features)).float())
    return torch.stack(predictions, 1)


def ridge(weights: Tensor, properties: Tensor, wanted: Tensor) -> Tensor:
    """Predict properties by ridge regression on flat weights; its strength is chosen by leaving one out.

    Args:
        weights: ``[networks, values]``.
        properties: ``[networks, properties]``.
        wanted: Weights of the networks to predict.

    Returns:
        ``[networks, properties]``.
    """
    from sklearn.linear_model import RidgeCV

    model = RidgeCV(np.logspace(-2, 5, 15), alpha_per_target=True).fit(weights.numpy(), properties.numpy())
    return torch.from_numpy(model.predict(wanted.numpy())).float()


def nearest(weights: Tensor, properties: Tensor, wanted: Tensor) -> Tensor:
    """The properties of the network with the nearest weights; arguments as for :func:`ridge`."""
    return properties[torch.cdist(wanted, weights).argmin(1)]


def mean(weights: Tensor, properties: Tensor, wanted: Tensor) -> Tensor:
    """The mean properties; arguments as for :func:`ridge`."""
    return properties.mean(0).expand(len(wanted), -1)


def _boosted(parts: Parts, tables: Sequence[np.ndarray]) -> Tensor:
    train, validation = (torch.cat([each.properties for each in part]) for part in parts[:2])
    return gradient_boosting((tables[0], train), (tables[1], validation), tables[2])


def _on_weights(parts: Parts, method: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    (train,), (validation,), (test,) = parts
    known = torch.cat([flatten(train.tensors), flatten(validation.tensors)])
    return method(known, torch.cat([train.properties, validation.properties]), flatten(test.tensors))


@torch.no_grad()
def _responses(probes: Probes, networks: MeasuredNetworks) -> np.ndarray:
    parts = torch.arange(len(networks)).split(128)
    return torch.cat([probes(networks.network, networks[some].tensors) for some in parts]).numpy()
