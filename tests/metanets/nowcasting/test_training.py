import pytest
import torch
from torch import nn

from hypergen.metanets.nowcasting.training import NowcastingTraining, Trajectory
from hypergen.metanets.nowcasting.trend import TrendMLP


def decaying(states: int = 30, runs: int = 6) -> Trajectory:
    """Weights that approach a limit exponentially, at one rate."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(5, 3)
    states_of = {}
    for name, parameter in model.named_parameters():
        limit, start = (torch.randn(runs, *parameter.shape, generator=generator) for _ in range(2))
        times = torch.arange(states).view(-1, *[1] * start.dim())
        states_of[name] = limit + (start - limit) * 0.9**times
    return Trajectory(model, states_of)


def trained(steps: int) -> tuple[TrendMLP, NowcastingTraining]:
    torch.manual_seed(0)
    network = TrendMLP(horizons=8, hidden=16)
    module = NowcastingTraining(network, [decaying()], steps=steps, smoothing=0)
    optimizer = module.configure_optimizers()["optimizer"]
    module.log = lambda *_, **__: None
    for batch in module.train_dataloader():
        optimizer.zero_grad()
        module.training_step(batch, 0).backward()
        optimizer.step()
    return network, module


def test_it_learns_where_training_leads():
    network, _ = trained(150)
    trajectory = decaying()
    history = [{name: states[i] for name, states in trajectory.states.items()} for i in range(5, 10)]
    future = {name: states[9 + 4] for name, states in trajectory.states.items()}
    predicted = network.bind(trajectory.model)(history, 4)
    error = sum((predicted[name] - future[name]).square().sum() for name in future)
    still = sum((history[-1][name] - future[name]).square().sum() for name in future)
    assert error < 0.1 * still


def test_the_same_seed_trains_the_same_network():
    first, second = trained(5)[0], trained(5)[0]
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_courses_that_are_too_short_are_refused():
    with pytest.raises(ValueError, match="more than 5 states"):
        NowcastingTraining(TrendMLP(), [decaying(states=5)])
    with pytest.raises(ValueError, match="no trajectories"):
        NowcastingTraining(TrendMLP(), [])
