import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from sklearn.metrics import r2_score

from hypergen.evaluation.properties import baselines as property_baselines
from hypergen.evaluation.properties.baselines import gradient_boosting, nearest, ridge
from hypergen.evaluation.properties.figures import Predictions, kendall_tau, property_rows, r2
from hypergen.evaluation.properties.plots import write_property_plots
from hypergen.evaluation.properties.weight_statistics import STATISTICS, statistics_table, weight_statistics


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    measured = torch.randint(8, (60,), generator=random) / 8  # With ties, as accuracies have.
    return (measured + 0.3 * torch.randn(60, generator=random)).mul(8).round() / 8, measured


def test_measures_are_those_of_scipy_and_scikit_learn(pair):
    predicted, measured = pair
    assert float(kendall_tau(predicted, measured)) == pytest.approx(kendalltau(predicted, measured)[0], abs=1e-6)
    assert float(r2(predicted, measured)) == pytest.approx(r2_score(measured, predicted), abs=1e-5)
    assert float(kendall_tau(torch.ones(60), measured)) == 0


def test_weights_count_networks_as_often_as_they_say(pair):
    predicted, measured = pair
    drawn = torch.randint(60, (60,), generator=torch.Generator().manual_seed(1))
    weights = torch.bincount(drawn, minlength=60)[None].float()
    found, variance = kendall_tau(predicted, measured, weights), r2(predicted, measured, weights)
    assert float(found) == pytest.approx(kendalltau(predicted[drawn], measured[drawn])[0], abs=1e-6)
    assert float(variance) == pytest.approx(r2_score(measured[drawn], predicted[drawn]), abs=1e-5)


def test_rows_and_pictures_compare_the_first_method(pair, tmp_path):
    predicted, measured = (torch.stack([values, -values], 1) for values in pair)
    noise = torch.randn(60, 2, generator=torch.Generator().manual_seed(2))
    methods = {
        "metanetwork": [measured, predicted],
        "statistics": [noise],
        "statistics_per_architecture": [predicted],
        "mean": [torch.zeros(60, 2)],
    }
    found = Predictions("tiny", ("accuracy", "gap"), measured, methods, torch.arange(60) % 2)
    rows = {row.figure: row for row in property_rows(found)}
    tau, together = float(kendall_tau(*pair)), float(kendall_tau((pair[0] + pair[1]) / 2, pair[1]))
    assert rows["kendall_tau_tiny_zoo"].value == pytest.approx(together)
    alone = rows["kendall_tau_tiny_zoo_over_trainings"]
    assert (alone.value, alone.n) == (pytest.approx((1 + tau) / 2), 2)
    # Over the better of the two kinds of statistics.
    assert rows["kendall_tau_tiny_zoo_margin_over_statistics"].value == pytest.approx(together - tau)
    assert rows["gap_kendall_tau_tiny_zoo_statistics_per_architecture"].value == pytest.approx(tau)
    assert rows["kendall_tau_tiny_zoo_mean"].value == 0 and rows["kendall_tau_tiny_zoo"].n == 60
    assert 0 < rows["kendall_tau_tiny_zoo"].std < 0.1
    files = write_property_plots(found, tmp_path)
    assert {file.name for file in files} == {"tiny_zoo_predictions.png", "tiny_zoo_tau.png"}


def test_statistics_describe_every_tensor():
    random = torch.Generator().manual_seed(0)
    tensors = {"weight": torch.randn(3, 4, 5, generator=random), "bias": torch.randn(3, 4, generator=random)}
    described = weight_statistics(tensors)
    assert described.shape == (3, 2, len(STATISTICS))
    by_name = dict(zip(STATISTICS, described[1, 0].tolist(), strict=True))
    weight = tensors["weight"][1]
    assert by_name["norm"] == pytest.approx(float(weight.norm()))
    assert by_name["quantile_0.5"] == pytest.approx(float(weight.flatten().quantile(0.5)))
    assert by_name["spectral_norm"] == pytest.approx(float(torch.linalg.svdvals(weight)[0]), rel=1e-5)


def test_the_table_of_several_architectures_tells_them_apart():
    one, two = {"a": torch.ones(3, 4)}, {"a": torch.ones(2, 4), "b": torch.ones(2, 6)}
    table = statistics_table([one, two])
    assert len(table) == 5 and table.shape[1] == (1 + 2 + 2) * len(STATISTICS) + 2
    assert table[:, -2:].tolist() == [[1, 0]] * 3 + [[0, 1]] * 2
    assert np.isnan(table[:3]).any() and not np.isnan(table[3:]).any()
    assert statistics_table([two]).shape[1] == 3 * len(STATISTICS)


def test_baselines_find_what_they_can_see(monkeypatch):
    settings = ({"max_iter": 1}, {"max_iter": 40, "max_leaf_nodes": 8})  # Of which the second is chosen.
    monkeypatch.setattr(property_baselines, "BOOSTING", settings)
    random = torch.Generator().manual_seed(0)
    weights = torch.randn(300, 5, generator=random)
    properties = torch.stack([weights[:, 0], weights[:, 1].square()], 1)
    train, validation, test = (slice(0, 200), slice(200, 250), slice(250, 300))
    features = weights.numpy()
    boosted = gradient_boosting(
        (features[train], properties[train]), (features[validation], properties[validation]), features[test]
    )
    for number in (0, 1):
        assert kendall_tau(boosted[:, number], properties[test][:, number]) > 0.7
    linear = ridge(weights[train], properties[train], weights[test])
    assert kendall_tau(linear[:, 0], properties[test][:, 0]) > 0.95
    assert abs(kendall_tau(linear[:, 1], properties[test][:, 1])) < 0.4
    assert torch.equal(nearest(weights[train], properties[train], weights[3:5]), properties[3:5])
