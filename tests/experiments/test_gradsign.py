import pytest
import torch
from torch import nn

from experiments.architecture_ranking.gradsign import gradient_scores


@pytest.fixture
def batch():
    random = torch.Generator().manual_seed(0)
    return torch.randn(7, 4, generator=random), torch.randint(0, 3, (7,), generator=random)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 3)).train()


def test_scores_are_those_of_one_sample_after_the_other(batch):
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    scores = gradient_scores(model, *batch, together=3)
    assert model.training and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    gradients = []
    for sample, label in zip(*batch, strict=True):
        loss = nn.functional.cross_entropy(model.eval()(sample[None]), label[None])
        gradients.append(torch.cat([value.flatten() for value in torch.autograd.grad(loss, list(model.parameters()))]))
    each = torch.stack(gradients)
    assert scores.gradsign == pytest.approx(each.sign().sum(0).abs().sum().item())
    assert scores.gradient_norm == pytest.approx(each.mean(0).norm().item(), rel=1e-4)


def test_samples_that_agree_score_highest(batch):
    inputs, labels = batch
    alike = gradient_scores(network(), inputs[:1].expand(7, -1), labels[:1].expand(7))
    assert alike.gradsign > gradient_scores(network(), inputs, labels).gradsign
