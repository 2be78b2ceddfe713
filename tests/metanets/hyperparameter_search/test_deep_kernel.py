import pytest
import torch

from hypergen.errors import HypergenError

pytest.importorskip("gpytorch")
from hypergen.metanets.hyperparameter_search.deep_kernel import DeepKernelForecast, Trainings  # noqa: E402

BLOCKS = 5


def trainings(number, seed, told=None):
    """Trainings whose next gain is a setting, or ``told`` by one of four features of weights."""
    draw = torch.Generator().manual_seed(seed)
    settings = torch.rand(number, 2, generator=draw, dtype=torch.float64)
    weights = torch.randn(number, 4, generator=draw, dtype=torch.float64)
    gain = settings[:, 0] if told is None else weights[:, told]
    done = torch.randint(0, BLOCKS, (number,), generator=draw)
    curves = torch.arange(1, BLOCKS + 1) * gain[:, None]
    values = curves.gather(1, done[:, None]).squeeze(1)
    return Trainings(settings, curves.masked_fill(torch.arange(BLOCKS) >= done[:, None], torch.nan), weights), values


def test_forecasts_trainings_that_it_has_not_seen():
    forecast = DeepKernelForecast(2, BLOCKS)
    found, values = trainings(60, 0)
    forecast.fit(Trainings(found.settings, found.curves, found.weights[:, :0]), values, steps=50)
    held_out, expected = trainings(200, 1)
    mean, _ = forecast.predict(Trainings(held_out.settings, held_out.curves, held_out.weights[:, :0]))
    assert (mean - expected).square().mean() < 0.05 * expected.var()


def test_reads_what_only_weights_tell():
    found, values = trainings(80, 0, told=2)
    first = torch.full_like(found.curves, torch.nan)  # Without curves, which tell it, too.
    values = found.weights[:, 2]
    reads, does_not = DeepKernelForecast(2, BLOCKS, 4, components=4), DeepKernelForecast(2, BLOCKS, 0)
    reads.fit(Trainings(found.settings, first, found.weights), values, steps=50)
    does_not.fit(Trainings(found.settings, first, found.weights[:, :0]), values, steps=50)
    other, _ = trainings(100, 1, told=2)
    none = torch.full_like(other.curves, torch.nan)
    errors = [
        (forecast.predict(Trainings(other.settings, none, weights))[0] - other.weights[:, 2]).square().mean()
        for forecast, weights in ((reads, other.weights), (does_not, other.weights[:, :0]))
    ]
    assert errors[0] < 0.2 * errors[1]


def test_a_value_taken_in_is_what_is_forecast_and_weights_may_be_unknown():
    found, values = trainings(30, 0)
    found.weights[::3] = torch.nan
    forecast = DeepKernelForecast(2, BLOCKS, 4)
    forecast.fit(found, values, steps=40)
    mean, deviation = forecast.predict(found)
    assert mean.isfinite().all() and deviation.isfinite().all()
    assert (mean - values).abs().max() < 0.3
    new, value = trainings(1, 7)
    before = forecast.predict(new)
    whole = Trainings(*(torch.cat([a, b]) for a, b in zip(vars(found).values(), vars(new).values(), strict=True)))
    forecast.condition(whole, torch.cat([values, value]))
    after = forecast.predict(new)
    assert (after[0] - value).abs() <= (before[0] - value).abs() + 1e-9 and after[1] < before[1]


def test_a_seed_repeats_a_forecast_and_leaves_the_global_generator_alone():
    found, values = trainings(20, 0)
    state = torch.get_rng_state()
    means = []
    for seed in (3, 3, 4):
        forecast = DeepKernelForecast(2, BLOCKS, 4, seed=seed)
        forecast.fit(found, values, steps=5)
        means.append(forecast.predict(found)[0])
    assert torch.equal(means[0], means[1]) and not torch.equal(means[0], means[2])
    assert torch.equal(state, torch.get_rng_state())


def test_what_cannot_be_learned_from_is_named():
    forecast = DeepKernelForecast(2, BLOCKS, 4)
    found, values = trainings(3, 0)
    for use in (lambda: forecast.predict(found), lambda: forecast.condition(found, values)):
        with pytest.raises(HypergenError, match="call fit first"):
            use()
    with pytest.raises(HypergenError, match="finite"):
        forecast.fit(found, values * torch.nan)
    with pytest.raises(HypergenError, match="finite"):
        forecast.fit(found, values[:0])
    assert not forecast.fitted
