import copy
import pickle

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hypergen.errors import CheckpointError, ParameterError
from hypergen.metanets.nowcasting.callback import NowcastingCallback
from hypergen.metanets.nowcasting.nino import NowcastMLP
from hypergen.metanets.nowcasting.nowcaster import LinearExtrapolation, NowcastNetwork, StateAverage
from hypergen.metanets.nowcasting.optimizer import Nowcaster

INPUTS = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
TARGETS = INPUTS @ torch.randn(4, 2, generator=torch.Generator().manual_seed(1))
SETTINGS = {"period": 10, "interval": 2, "total_steps": 100}


class Broken(StateAverage):
    def bind(self, model, example_inputs=None):
        return lambda history, _: {name: value * float("nan") for name, value in history[-1].items()}


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))


def made(nowcaster: NowcastNetwork | None = None, **settings):
    model = network()
    optimizer = Nowcaster(
        torch.optim.Adam(model.parameters(), 1e-2),
        model,
        nowcaster or LinearExtrapolation(),
        **{**SETTINGS, **settings},
    )
    return model, optimizer


def steps(model, optimizer, count, scheduler=None):
    def closure():
        optimizer.zero_grad()
        loss = (model(INPUTS) - TARGETS).square().mean()
        loss.backward()
        return loss

    losses = []
    for _ in range(count):
        losses.append(optimizer.step(closure).item())
        if scheduler is not None:
            scheduler.step()
    return losses


def same(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_between_jumps_it_is_the_optimizer():
    (model, optimizer), plain = made(), network()
    alone = torch.optim.Adam(plain.parameters(), 1e-2)
    assert steps(model, optimizer, 9) == steps(plain, alone, 9) and same(model, plain)
    steps(model, optimizer, 1)
    steps(plain, alone, 1)
    assert optimizer.ahead.jumps == 1 and not same(model, plain)
    for ours, theirs in zip(optimizer.state.values(), alone.state.values(), strict=True):
        assert torch.equal(ours["exp_avg"], theirs["exp_avg"])  # A jump leaves the moments as they are.


def test_it_jumps_where_the_network_says():
    seen = []

    class Recording(LinearExtrapolation):
        def bind(self, model, example_inputs=None):
            forecast = super().bind(model)

            def recording(history, horizon):
                seen.append((history, horizon))
                return forecast(history, horizon)

            return recording

    model, optimizer = made(Recording())
    before = []
    for _ in range(20):
        steps(model, optimizer, 1)
        before.append(model[0].weight.detach().clone())
    assert [horizon for _, horizon in seen] == [40, 33]
    assert made(horizon=9)[1].ahead.schedule[::9] == [9, 1]
    history = seen[1][0]
    # Its states are 2 steps apart, the last one that of the 20th step before the jump.
    for state, index in zip(history, (11, 13, 15, 17), strict=False):
        assert torch.equal(state["0.weight"][0], before[index])
    expected = LinearExtrapolation().bind(model)(history, 33)["0.weight"][0]
    assert torch.equal(model[0].weight, expected)


@pytest.mark.parametrize(("far", "landed"), [(2.9, 20), (3.1, 5)])
def test_it_backtracks_to_where_the_loss_allows(far, landed):
    losses = iter([1.0, far, far, 3.0])  # Of now, and 20, 10 and 5 intervals ahead.
    model, optimizer = made(horizon=20, tolerance=3.0, loss=lambda: next(losses))
    expected = made(horizon=landed)
    assert steps(model, optimizer, 10) == steps(*expected, 10)
    assert same(model, expected[0]) and optimizer.ahead.jumps == 1


def test_it_stays_where_the_loss_allows_no_jump():
    model, optimizer = made(loss=lambda: 1.0, tolerance=0.5)
    plain = network()
    assert steps(model, optimizer, 10) == steps(plain, torch.optim.Adam(plain.parameters(), 1e-2), 10)
    assert same(model, plain) and (optimizer.ahead.jumps, optimizer.ahead.refused) == (0, 1)


def test_resumes_exactly_with_a_scheduler():
    model, optimizer = made()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 7, 0.5)
    steps(model, optimizer, 27, scheduler)
    saved = pickle.loads(pickle.dumps([each.state_dict() for each in (model, optimizer, scheduler)]))
    assert len(optimizer.ahead.history) == 3
    again, resumed = made()
    restarted = torch.optim.lr_scheduler.StepLR(resumed, 7, 0.5)
    for each, state in zip((again, resumed, restarted), saved, strict=True):
        each.load_state_dict(state)
    assert resumed.param_groups[0]["lr"] == resumed.optimizer.param_groups[0]["lr"] == 1e-2 * 0.5**3
    assert steps(model, optimizer, 20, scheduler) == steps(again, resumed, 20, restarted) and same(model, again)
    assert resumed.ahead.jumps == optimizer.ahead.jumps == 4


def test_frozen_parameters_stay():
    model = network()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    optimizer = Nowcaster(
        torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1),
        model,
        NowcastMLP(hidden=4),
        **SETTINGS,
    )
    steps(model, optimizer, 10)
    assert optimizer.ahead.jumps == 1 and torch.equal(model[0].weight, before)


def test_what_is_not_finite_is_refused():
    model, optimizer = made(Broken())
    plain = network()
    with pytest.warns(UserWarning, match="after step 10 has NaN"):
        steps(model, optimizer, 10)
    steps(plain, torch.optim.Adam(plain.parameters(), 1e-2), 10)
    assert (optimizer.ahead.jumps, optimizer.ahead.refused) == (0, 1) and same(model, plain)


def test_a_history_that_is_not_finite_is_refused():
    model, optimizer = made()
    steps(model, optimizer, 3)
    with torch.no_grad():
        model[0].bias[0] = float("inf")
    with pytest.warns(UserWarning, match="history after step 10 has NaN"):
        steps(model, optimizer, 7)
    assert optimizer.ahead.refused == 1


def test_half_precision_is_forecast_in_single():
    model = network().bfloat16()
    optimizer = Nowcaster(torch.optim.SGD(model.parameters(), 0.1), model, LinearExtrapolation(), **SETTINGS)
    for step in range(10):
        for parameter in model.parameters():
            parameter.data.fill_(1 + step / 16)
        optimizer.step()
    # Forty intervals of two steps each, from 25/16.
    assert all(bool((parameter == 1.5625 + 40 * 0.125).all()) for parameter in model.parameters())
    assert model[0].weight.dtype is torch.bfloat16


def test_parameter_groups_are_the_optimizers():
    model = network()
    optimizer = Nowcaster(torch.optim.SGD(model[0].parameters(), 0.1), model, StateAverage(), **SETTINGS)
    optimizer.add_param_group({"params": list(model[2].parameters()), "lr": 0.2})
    assert [group["lr"] for group in optimizer.optimizer.param_groups] == [0.1, 0.2]
    optimizer.param_groups[1]["lr"] = 0.3
    assert optimizer.optimizer.param_groups[1]["lr"] == 0.3


@pytest.mark.parametrize(
    "settings", [{"interval": 3}, {"period": 4, "interval": None}, {"total_steps": 0}, {"horizon": 41}]
)
def test_settings_that_do_not_fit_are_refused(settings):
    with pytest.raises(ValueError, match="period|total_steps|horizon"):
        made(**settings)


def test_other_models_and_states_are_refused():
    model, optimizer = made()
    with pytest.raises(ParameterError, match="do not belong to the model"):
        Nowcaster(torch.optim.Adam(network().parameters()), model, StateAverage())
    with pytest.raises(CheckpointError, match="There is no file"):
        Nowcaster(torch.optim.Adam(model.parameters()), model, "absent.pt")
    steps(model, optimizer, 5)
    state = optimizer.state_dict()
    with pytest.raises(CheckpointError, match="without a nowcaster"):
        optimizer.load_state_dict(optimizer.optimizer.state_dict())
    _, other = made(period=20)
    with pytest.raises(CheckpointError, match="period 10 and interval 2, this one has 20"):
        other.load_state_dict(state)
    wrong = copy.deepcopy(state)
    wrong["nowcaster"]["history"][0]["0.weight"] = torch.zeros(5, 4)
    fresh_model, fresh = made()
    with pytest.raises(ParameterError, match="'0.weight' has shape \\(5, 4\\)"):
        fresh.load_state_dict(wrong)
    assert not fresh.state and fresh.ahead.steps == 0
    model[2] = nn.Linear(6, 3)
    with pytest.raises(ParameterError, match="'2.weight' has shape \\(3, 6\\), expected \\(2, 6\\)"):
        optimizer.ahead.advance()
        optimizer.ahead.advance()


class Regression(pl.LightningModule):
    def __init__(self, wrapped: bool):
        super().__init__()
        self.model, self.wrapped = network(), wrapped

    def training_step(self, batch, batch_idx):
        return (self.model(batch[0]) - batch[1]).square().mean()

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.model.parameters(), 1e-2)
        return Nowcaster(optimizer, self.model, LinearExtrapolation(), **SETTINGS) if self.wrapped else optimizer


def fitted(folder, max_steps, wrapped, ckpt_path=None, accumulate=1):
    module = Regression(wrapped)
    callback = NowcastingCallback(LinearExtrapolation(), module.model, **SETTINGS)
    trainer = pl.Trainer(
        max_steps=max_steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[] if wrapped else [callback], default_root_dir=folder,
        accumulate_grad_batches=accumulate,
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=32), ckpt_path=ckpt_path)
    trainer.save_checkpoint(folder / "last.ckpt")
    return module, callback


@pytest.mark.filterwarnings("ignore")
def test_in_lightning_as_an_optimizer_and_as_a_callback(tmp_path):
    model, optimizer = made()
    steps(model, optimizer, 27)
    for wrapped in (True, False):
        module, callback = fitted(tmp_path, 27, wrapped)
        assert same(module.model, model)
        assert wrapped or callback.ahead.jumps == 2
        fitted(tmp_path, 15, wrapped)
        resumed, _ = fitted(tmp_path, 27, wrapped, ckpt_path=tmp_path / "last.ckpt")
        assert same(resumed.model, model)


@pytest.mark.filterwarnings("ignore")
def test_the_callback_counts_steps_not_batches(tmp_path):
    _, callback = fitted(tmp_path, 10, wrapped=False, accumulate=2)
    assert callback.ahead.steps == 10
