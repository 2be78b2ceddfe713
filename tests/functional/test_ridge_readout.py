import pytest
import torch
from torch import nn

from hypergen.errors import ParameterError, UnknownNameError
from hypergen.functional import fit_ridge_head
from hypergen.functional.ridge_readout import STRENGTHS


def labelled_blobs(classes=5, features=8, per_class=40):
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(classes, features, generator=generator) * 3
    labels = torch.arange(classes).repeat_interleave(per_class)
    inputs = centres[labels] + torch.randn(len(labels), features, generator=generator) + 50
    return inputs, labels


def batches_of(inputs, labels, size=32):
    return list(zip(inputs.split(size), labels.split(size), strict=True))


def accuracy(model, inputs, labels):
    return (model(inputs).argmax(1) == labels).double().mean().item()


@pytest.mark.parametrize("bias", [True, False])
def test_solution_is_ridge_regression(bias):
    linear_model = pytest.importorskip("sklearn.linear_model")
    inputs, labels = labelled_blobs()
    inputs = inputs.double()
    model = nn.Linear(8, 5, bias=bias).double()
    result = fit_ridge_head(model, batches_of(inputs, labels), regularization=0.1)
    assert result[:3] == ("", 200, 0.1)
    targets = nn.functional.one_hot(labels).double()
    centred = inputs - inputs.mean(0) if bias else inputs
    alpha = 0.1 * centred.square().sum().item() / 8
    reference = linear_model.Ridge(alpha=alpha, fit_intercept=bias, solver="cholesky")
    reference.fit(inputs.numpy(), (targets if bias else targets - 1 / 5).numpy())
    torch.testing.assert_close(model.weight.detach(), torch.from_numpy(reference.coef_), rtol=1e-7, atol=1e-9)
    if bias:
        torch.testing.assert_close(model.bias.detach(), torch.from_numpy(reference.intercept_), rtol=1e-7, atol=1e-9)


def test_only_the_head_changes_and_it_classifies():
    torch.manual_seed(0)
    inputs, labels = labelled_blobs()
    model = nn.Sequential(nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 5))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = fit_ridge_head(model, [{"input": inputs, "label": labels}])
    assert result[:2] == ("3", 200)
    assert accuracy(model, inputs, labels) > 0.98
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"3.weight", "3.bias"}
    assert all(module.training and not module._forward_hooks for module in model.modules())
    assert model[3].weight.requires_grad and model[3].weight.grad is None


class OutOfOrder(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(8, 5)
        self.first = nn.Linear(8, 8)
        self.unused = nn.Linear(8, 5)

    def forward(self, inputs):
        return self.last(torch.relu(self.first(inputs)))


def test_the_last_layer_called_is_the_head():
    inputs, labels = labelled_blobs()
    assert fit_ridge_head(OutOfOrder(), batches_of(inputs, labels)).name == "last"


def test_samples_of_fewer_dimensions_and_constant_features():
    inputs, labels = labelled_blobs(per_class=1)
    model = nn.Sequential(nn.Linear(8, 100), nn.Tanh(), nn.Linear(100, 5))
    fit_ridge_head(model, [(inputs, labels)])
    assert all(torch.isfinite(value).all() for value in model.parameters())
    dead = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 5))
    nn.init.zeros_(dead[0].weight)
    fit_ridge_head(dead, [(inputs, torch.tensor([0, 1, 2, 4, 4]))])
    assert (dead(inputs).argmax(1) == 4).all()


def test_classes_that_the_data_lacks():
    inputs, labels = labelled_blobs(classes=3)
    with pytest.raises(ParameterError, match="5 outputs, but there are 3 classes"):
        fit_ridge_head(nn.Linear(8, 5), batches_of(inputs, labels))
    model = nn.Linear(8, 5)
    fit_ridge_head(model, batches_of(inputs, labels), num_classes=5)
    assert accuracy(model, inputs, labels) > 0.95


class PerToken(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 5)

    def forward(self, inputs):
        return self.head(torch.stack([inputs, -inputs], 1)).amax(1)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (nn.Sequential(nn.ReLU()), {}, "does not call any nn.Linear"),
        (OutOfOrder(), {"head": "unused"}, "does not call the linear layer 'unused'"),
        (nn.Linear(8, 4), {}, "4 outputs, but labels run from 0 to 4"),
        (nn.Linear(8, 6), {}, "6 outputs, but there are 5 classes"),
        (PerToken(), {}, r"reads \[200, 2, 8\]"),
        (nn.Linear(8, 5), {"regularization": -1.0}, "must not be negative"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(8, 5)), {}, "reparametrised"),
        (nn.Linear(8, 5), {"max_batches": 0}, "no batches"),
    ],
)
def test_errors_leave_the_model_unchanged(model, options, message):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ParameterError, match=message):
        fit_ridge_head(model, [labelled_blobs()], **options)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training and not module._forward_hooks for module in model.modules())


def test_bad_data():
    inputs, labels = labelled_blobs()
    for batch, message in (
        (inputs, "no labels"),
        ((inputs, labels.float()), "class indices"),
        ((inputs, nn.functional.one_hot(labels)), "class indices"),
        ((inputs * torch.inf, labels), "not finite"),
        ((inputs, labels - 1), "labels run from -1"),
        ((inputs, labels[1:]), "one label per sample"),
    ):
        with pytest.raises(ParameterError, match=message):
            fit_ridge_head(nn.Linear(8, 5), [batch])
    same = torch.cat([inputs[:, :4], inputs[:, :4]], dim=1)
    with pytest.raises(ParameterError, match="regularization=0"):
        fit_ridge_head(nn.Linear(8, 5), [(same, labels)], regularization=0)
    with pytest.raises(UnknownNameError, match="'lsat'.*'last'"):
        fit_ridge_head(OutOfOrder(), [(inputs, labels)], head="lsat")


def pixelwise(*between):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 12, 3), nn.ReLU(), nn.Conv2d(12, 3, 1), *between, nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


@pytest.mark.parametrize("between", [(), (nn.ReLU(),)], ids=["mean", "mean of the positive part"])
def test_a_pointwise_convolution_whose_outputs_are_averaged_is_a_head(between):
    model = pixelwise(*between)
    images = torch.randn(60, 1, 8, 8)
    labels = torch.randint(3, (60,))
    assert fit_ridge_head(model, [(images, labels)])[:2] == ("2", 60)
    features = model[:2](images).mean((2, 3)).detach()
    head = nn.Linear(12, 3)
    fit_ridge_head(head, [(features, labels)])
    torch.testing.assert_close(model[2].weight.flatten(1), head.weight)
    torch.testing.assert_close(model[2].bias, head.bias)


def test_a_linear_layer_at_each_token_whose_outputs_are_averaged_is_a_head():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.head(self.body(x).tanh()).mean(1)

    model, tokens, labels = Tokens(), torch.randn(40, 5, 4), torch.randint(3, (40,))
    assert fit_ridge_head(model, [(tokens, labels)]).name == "head"
    expected = nn.Linear(6, 3)
    fit_ridge_head(expected, [(model.body(tokens).tanh().mean(1).detach(), labels)])
    torch.testing.assert_close(model.head.weight, expected.weight)


def test_a_pointwise_convolution_whose_outputs_are_not_averaged_is_none():
    model = pixelwise()
    model[3] = nn.AdaptiveMaxPool2d(1)
    before = model[2].weight.clone()
    with pytest.raises(ParameterError, match=r"reads \[60, 12, 6, 6\] for 60 samples"):
        fit_ridge_head(model, [(torch.randn(60, 1, 8, 8), torch.randint(3, (60,)))])
    assert torch.equal(model[2].weight, before)


@pytest.mark.parametrize("bias", [True, False])
def test_error_on_samples_left_out_is_that_of_solving_without_each(bias):
    linear_model = pytest.importorskip("sklearn.linear_model")
    inputs, labels = labelled_blobs()
    inputs, labels = inputs.double()[::6][:30], labels[::6][:30]
    result = fit_ridge_head(nn.Linear(8, 5, bias=bias).double(), [(inputs, labels)], regularization=0.1)
    centred = inputs - inputs.mean(0) if bias else inputs
    alpha = 0.1 * (centred.T @ centred).diagonal().mean().item()
    targets = nn.functional.one_hot(labels, 5).double() - (0 if bias else 1 / 5)
    errors, right = [], []
    for i in range(30):
        kept = [j for j in range(30) if j != i]
        solved = linear_model.Ridge(alpha, fit_intercept=bias).fit(inputs[kept], targets[kept])
        predicted = solved.predict(inputs[i : i + 1])[0]
        errors.append(((predicted - targets[i].numpy()) ** 2).mean())
        right.append(predicted.argmax() == labels[i].item())
    assert result.left_out_error == pytest.approx(sum(errors) / 30, rel=1e-4)  # features are kept in float32
    assert result.left_out_accuracy == pytest.approx(sum(right) / 30)


def test_strength_is_chosen_on_samples_left_out():
    torch.manual_seed(0)
    labels = torch.arange(5).repeat(8)
    features = torch.randn(40, 38)  # about as many as samples: where a weak ridge is worst
    features[:, :5] += 2 * nn.functional.one_hot(labels, 5)
    model = nn.Linear(38, 5)
    errors = {s: fit_ridge_head(model, [(features, labels)], regularization=s).left_out_error for s in STRENGTHS}
    chosen = fit_ridge_head(model, [(features, labels)])
    assert chosen.regularization == min(errors, key=errors.get)
    assert chosen.left_out_error == min(errors.values())
    assert errors[STRENGTHS[0]] > 1.02 * chosen.left_out_error  # so that the choice matters
