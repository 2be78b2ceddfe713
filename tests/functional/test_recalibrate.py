import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hypergen.errors import ParameterError
from hypergen.functional import calibrate_batch_norm


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same_state(model, before):
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_statistics_are_those_of_all_batches_together():
    inputs = torch.randn(10, 3, 5, 5) * torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1) + 100
    model = nn.BatchNorm2d(3)
    result = calibrate_batch_norm(model, inputs.split([4, 3, 2, 1]))
    # The batch of one sample is left out.
    values = inputs[:9].double().transpose(0, 1).flatten(1)
    assert result == (1, 9)
    torch.testing.assert_close(model.running_mean, values.mean(1).float())
    torch.testing.assert_close(model.running_var, values.var(1).float())
    assert model.num_batches_tracked == 3


def test_deep_layers_see_normalised_inputs():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()
    inputs = torch.randn(1000, 4) * 9 + 5
    assert calibrate_batch_norm(model, [inputs]) == (2, 1000)
    outputs = model(inputs)
    torch.testing.assert_close(outputs.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(outputs.var(0), torch.ones(4), atol=1e-2, rtol=0)


def test_only_running_statistics_change():
    model = nn.Sequential(
        nn.Linear(4, 6),
        nn.BatchNorm1d(6, momentum=None),
        nn.Dropout(0.5),
        nn.BatchNorm1d(6, track_running_stats=False),
        nn.BatchNorm1d(6, momentum=0.3),
    )
    model[4].eval()
    flags = [module.training for module in model.modules()]
    before = state(model)
    result = calibrate_batch_norm(model, DataLoader(TensorDataset(torch.randn(20, 4), torch.zeros(20)), batch_size=8))
    assert result == (2, 20)
    assert [module.training for module in model.modules()] == flags
    assert [model[1].momentum, model[3].momentum, model[4].momentum] == [None, 0.1, 0.3]
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    assert changed == {f"{index}.{name}" for index in (1, 4) for name in buffers}
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_dropout_is_off():
    model = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(2))
    inputs = torch.ones(50, 2)
    calibrate_batch_norm(model, [inputs])
    assert torch.equal(model[1].running_mean, torch.ones(2))
    assert torch.equal(model[1].running_var, torch.zeros(2))


class Keyword(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.unused = nn.BatchNorm1d(3)

    def forward(self, *, pixels):
        return self.norm(self.norm(pixels))


def test_dictionaries_shared_and_unused_layers():
    model = Keyword()
    batches = [{"pixels": torch.randn(8, 3), "labels": torch.zeros(8)} for _ in range(5)]
    assert calibrate_batch_norm(model, batches, max_batches=2) == (1, 16)
    assert model.norm.num_batches_tracked == 4
    assert model.unused.num_batches_tracked == 0


def test_no_batch_norm_reads_no_batch():
    assert calibrate_batch_norm(nn.Linear(2, 2), iter(())) == (0, 0)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "no batches"),
        ([["words"]], "no input tensor"),
        ([torch.randn(4, 2), torch.full((4, 2), torch.inf)], "batch norm '0' are not finite"),
    ],
)
def test_errors_leave_the_model_unchanged(batches, message):
    model = nn.Sequential(nn.BatchNorm1d(2))
    before = state(model)
    with pytest.raises(ParameterError, match=message):
        calibrate_batch_norm(model, batches)
    assert_same_state(model, before)
    assert model[0].training and model[0].momentum == 0.1 and not model[0]._forward_hooks


def test_an_error_in_the_forward_pass_leaves_the_model_unchanged():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))
    before = state(model)
    with pytest.raises((RuntimeError, ValueError)):
        calibrate_batch_norm(model, [torch.randn(4, 2), torch.randn(4, 3)])
    assert_same_state(model, before)
