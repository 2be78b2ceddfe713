"""How well properties of networks were predicted, with the spread over the networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hypergen.evaluation.results import Row

_RESAMPLES = 1000


@dataclass(frozen=True)
class Predictions:
    """What methods predicted of a zoo's test networks.

    Args:
        zoo: Its name.
        properties: Their names.
        measured: ``[networks, properties]``.
        methods: By name, what each of its trainings predicted, ``[networks, properties]``. The first method is the one
            that is compared with the others.
        groups: For each network the number of its architecture.
    """

    zoo: str
    properties: Sequence[str]
    measured: Tensor
    methods: Mapping[str, Sequence[Tensor]]
    groups: Tensor

    @property
    def main(self) -> str:
        """The method that is compared with the others."""
        return next(iter(self.methods))


def kendall_tau(predicted: Tensor, measured: Tensor, weights: Tensor | None = None) -> Tensor:
    """Kendall's rank correlation (tau-b); 0 where all predictions are equal, as they rank nothing.

    Args:
        predicted: ``[networks]``.
        measured: ``[networks]``.
        weights: How often each network counts, ``[resamples, networks]``.

    Returns:
        ``[resamples]``, or one value without weights.
    """
    if weights is None:
        return kendall_tau(predicted, measured, torch.ones(1, len(predicted)))[0]
    weights = weights.double()
    order = [(values[:, None] - values[None]).sign().double() for values in (predicted, measured)]

    def pairs(values: Tensor) -> Tensor:
        return ((weights @ values) * weights).sum(1)

    known = (pairs(order[0].abs()) * pairs(order[1].abs())).sqrt()
    return pairs(order[0] * order[1]) / known.clamp(min=1e-12)


def r2(predicted: Tensor, measured: Tensor, weights: Tensor | None = None) -> Tensor:
    """The share of the variance that is explained; arguments as for :func:`kendall_tau`."""
    if weights is None:
        return r2(predicted, measured, torch.ones(1, len(predicted)))[0]
    weights = weights / weights.sum(1, keepdim=True)
    mean = weights @ measured
    return 1 - weights @ (predicted - measured).square() / (weights @ measured.square() - mean.square())


def mean_prediction(trainings: Sequence[Tensor]) -> Tensor:
    """What a method's trainings predict together: ``[networks, properties]``."""
    return torch.stack(list(trainings)).mean(0)


def property_rows(predictions: Predictions, seed: int = 0) -> list[Row]:
    """Kendall's tau and r² of every method and property, and margins in tau over the statistics of weights.

    A method's trainings predict together, by their mean; the ``…_over_trainings`` rows tell of each alone, with their
    mean and deviation. All other deviations are over resamples of the test networks (bootstrap), the same ones for all
    methods, so those of margins are of paired differences.

    Args:
        predictions: Predictions of one zoo.
        seed: Random seed of resampling.

    Returns:
        Rows by the names ``[PROPERTY_]MEASURE_ZOO_zoo[_METHOD]``; the first property and the first method have none.
    """
    networks = len(predictions.measured)
    draws = torch.randint(networks, (_RESAMPLES, networks), generator=torch.Generator().manual_seed(seed))
    counts = torch.zeros(_RESAMPLES, networks).scatter_add_(1, draws, torch.ones(draws.shape))
    weights = torch.cat([torch.ones(1, networks), counts])  # The first row is the networks themselves.
    rows = []
    for number, name in enumerate(predictions.properties):
        prefix, suffix = f"{name}_" if number else "", f"{predictions.zoo}_zoo"
        measured = predictions.measured[:, number]
        taus: dict[str, Tensor] = {}
        for method, trainings in predictions.methods.items():
            ending = suffix if method == predictions.main else f"{suffix}_{method}"
            together = mean_prediction(trainings)[:, number]
            taus[method] = kendall_tau(together, measured, weights)
            rows.append(_row(f"{prefix}kendall_tau_{ending}", taus[method], networks))
            rows.append(_row(f"{prefix}r2_{ending}", r2(together, measured, weights), networks))
            if len(trainings) > 1:
                alone = [float(kendall_tau(each[:, number], measured)) for each in trainings]
                rows.append(Row.from_values(f"{prefix}kendall_tau_{ending}_over_trainings", alone))
        best = max((name for name in taus if name in _STATISTICS), key=lambda name: float(taus[name][0]), default=None)
        if best is not None:
            margin = taus[predictions.main] - taus[best]
            rows.append(_row(f"{prefix}kendall_tau_{suffix}_margin_over_statistics", margin, networks))
    return rows


# With the boosted trees of each architecture's own where they are better than those for all.
_STATISTICS = ("statistics", "statistics_per_architecture")


def _row(figure: str, values: Tensor, networks: int) -> Row:
    return Row(figure, float(values[0]), float(values[1:].std()), networks)
