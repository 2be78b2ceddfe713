import pytest
import torch
from torch import nn

from hypergen.metanets.nowcasting.equivariant import EquivariantNowcaster
from hypergen.metanets.nowcasting.nowcaster import (
    LinearExtrapolation,
    StateAverage,
    halvings,
    horizon_schedule,
    standardise,
)
from hypergen.metanets.nowcasting.trend import TrendMLP

MODEL = nn.Linear(3, 2)


def line(slope: float = 0.1) -> list[dict[str, torch.Tensor]]:
    start = torch.arange(12.0).view(2, 2, 3)
    return [{"weight": start + slope * step, "bias": torch.full((2, 2), 5.0)} for step in range(5)]


def test_the_published_schedule():
    assert horizon_schedule(40, 10) == [40, 33, 26, 21, 16, 11, 8, 5, 3, 1]
    assert horizon_schedule(40, 0) == [40]


def test_halvings():
    assert halvings(13) == [13, 6, 3, 1]


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


def test_an_untrained_trend_is_linear_and_a_scaled_network_has_a_scaled_one():
    network = TrendMLP(hidden=8)
    history = line()
    linear = LinearExtrapolation().bind(MODEL)(history, 3)
    for name, value in network.bind(MODEL)(history, 3).items():
        torch.testing.assert_close(value, linear[name])
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    forecast = network.bind(MODEL)
    double = forecast([{n: 2 * v for n, v in state.items()} for state in history], 3)
    for name, value in forecast(history, 3).items():
        torch.testing.assert_close(double[name], 2 * value)
    mirrored = forecast([{n: -v for n, v in state.items()} for state in history], 3)
    torch.testing.assert_close(mirrored["weight"], -forecast(history, 3)["weight"])
    assert not torch.allclose(forecast(history, 3)["weight"], linear["weight"])
    assert torch.equal(forecast(history, 3)["bias"], history[-1]["bias"])  # What stood still stays.


@pytest.mark.parametrize("network", [TrendMLP(hidden=4), LinearExtrapolation(), StateAverage()])
def test_forecasts_differentiate(network):
    history = [{n: v.clone().requires_grad_() for n, v in state.items()} for state in line()]
    sum(value.sum() for value in network.bind(MODEL)(history, 2).values()).backward()
    assert history[-1]["weight"].grad.isfinite().all()


def test_neurons_interact_and_permuted_ones_are_predicted_alike():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    network = EquivariantNowcaster(hidden=8)
    base = {name: value.detach()[None].double() for name, value in model.named_parameters()}
    history = [
        {name: value + 0.01 * step * torch.randn_like(value) for name, value in base.items()} for step in range(5)
    ]
    forecast = network.double().bind(model, torch.zeros(1, 4))
    assert all(torch.equal(value, history[-1][name]) for name, value in forecast(history, 3).items())
    nn.init.normal_(network.factors)
    order = torch.tensor([3, 1, 5, 0, 2, 4])

    def permuted(state):
        hidden = {"0.weight": state["0.weight"][:, order], "0.bias": state["0.bias"][:, order]}
        return {**state, **hidden, "2.weight": state["2.weight"][:, :, order]}

    first, second = forecast(history, 3), forecast([permuted(state) for state in history], 3)
    for name, value in permuted(first).items():
        torch.testing.assert_close(second[name], value, atol=1e-9, rtol=1e-9)
    other = [{**state, "2.weight": state["2.weight"] * (1 + 0.1 * step)} for step, state in enumerate(history)]
    assert not torch.allclose(forecast(other, 3)["0.weight"], first["0.weight"])
