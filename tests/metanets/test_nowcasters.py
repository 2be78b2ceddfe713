import pytest
import torch
from torch import nn

from hypergen.metanets.nowcasters import LinearExtrapolation, StateAverage, horizon_schedule, standardise
from hypergen.metanets.trend_nowcaster import TrendMLP

MODEL = nn.Linear(3, 2)


def line(slope: float = 0.1) -> list[dict[str, torch.Tensor]]:
    start = torch.arange(12.0).view(2, 2, 3)
    return [{"weight": start + slope * step, "bias": torch.full((2, 2), 5.0)} for step in range(5)]


def test_the_published_schedule():
    assert horizon_schedule(40, 10) == [40, 33, 26, 21, 16, 11, 8, 5, 3, 1]
    assert horizon_schedule(40, 0) == [40]


def test_lines_are_extrapolated_and_states_averaged():
    history = line()
    ahead = LinearExtrapolation().bind(MODEL)(history, 7)
    torch.testing.assert_close(ahead["weight"], history[-1]["weight"] + 0.7)
    torch.testing.assert_close(ahead["bias"], history[-1]["bias"])
    torch.testing.assert_close(StateAverage().bind(MODEL)(history, 7)["weight"], history[2]["weight"])


def test_histories_are_standardised_per_tensor_and_network():
    scaled, scales = standardise(line())
    assert scaled["weight"].shape == (2, 2, 3, 5) and scales["weight"].shape == (2, 1, 1)
    torch.testing.assert_close(scaled["weight"].flatten(1).std(1), torch.ones(2), atol=1e-4, rtol=0)
    assert not scaled["bias"].any()


def test_an_untrained_trend_predicts_no_change_and_a_scaled_network_a_scaled_one():
    network = TrendMLP(hidden=8)
    history = line()
    assert all(torch.equal(v, history[-1][n]) for n, v in network.bind(MODEL)(history, 3).items())
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    forecast = network.bind(MODEL)
    double = forecast([{n: 2 * v for n, v in state.items()} for state in history], 3)
    for name, value in forecast(history, 3).items():
        torch.testing.assert_close(double[name], 2 * value)


@pytest.mark.parametrize("network", [TrendMLP(hidden=4), LinearExtrapolation(), StateAverage()])
def test_forecasts_differentiate(network):
    history = [{n: v.clone().requires_grad_() for n, v in state.items()} for state in line()]
    sum(value.sum() for value in network.bind(MODEL)(history, 2).values()).backward()
    assert history[-1]["weight"].grad.isfinite().all()
