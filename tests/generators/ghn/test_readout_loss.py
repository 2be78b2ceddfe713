import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hypergen.architectures import ImageClassifierSpace, TrainingStream
from hypergen.data import MultiTaskImageDataModule, ProceduralImageDataModule
from hypergen.generators.ghn.meta_batches import MetaBatches
from hypergen.generators.ghn.model import GraphHypernetwork
from hypergen.generators.ghn.readout_loss import HeadInputs, left_out_error
from hypergen.generators.ghn.training import GraphHypernetworkTraining


def blobs(samples=60, features=20, classes=4, distance=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(samples) % classes
    inputs = torch.randn(samples, features, generator=generator, dtype=torch.float64)
    inputs[:, :classes] += distance * F.one_hot(labels, classes)
    return inputs, labels


@pytest.mark.parametrize("features", [20, 200])
def test_error_is_that_of_solving_without_each_sample(features):
    linear_model = pytest.importorskip("sklearn.linear_model")
    inputs, labels = blobs(features=features)
    error, accuracy = left_out_error(inputs, labels + 7)
    centred = inputs - inputs.mean(0)
    alpha = 0.1 * (centred @ centred.T).trace().item() / min(60, features)
    targets = F.one_hot(labels).double()
    total, right = 0.0, 0
    for i in range(60):
        kept = [j for j in range(60) if j != i]
        predicted = linear_model.Ridge(alpha).fit(inputs[kept], targets[kept]).predict(inputs[i : i + 1])[0]
        total += ((predicted - targets[i].numpy()) ** 2).sum()
        right += int(predicted.argmax() == labels[i])
    assert error.item() == pytest.approx(total / (targets - targets.mean(0)).square().sum().item(), rel=1e-6)
    assert accuracy == pytest.approx(right / 60)


def test_error_of_noise_is_that_of_guessing_and_separated_classes_have_none():
    assert left_out_error(*blobs(distance=0.0, features=200))[0] > 0.95
    error, accuracy = left_out_error(*blobs(distance=50.0))
    assert error < 0.15 and accuracy == 1.0
    # Of any scale, shifted, and of constant features.
    inputs, labels = blobs()
    torch.testing.assert_close(left_out_error(1e3 * inputs + 5, labels)[0], left_out_error(inputs, labels)[0])
    assert left_out_error(torch.ones(60, 3), labels)[0].isfinite()


def test_gradient_lowers_the_error():
    inputs, labels = blobs(distance=1.0, features=40)
    weight = torch.eye(40, dtype=torch.float64).requires_grad_()
    before = left_out_error(inputs @ weight, labels)[0]
    before.backward()
    after = left_out_error(inputs @ (weight - 5.0 * weight.grad), labels)[0]
    assert after < before - 0.01


class Averaged(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 10, 1)

    def forward(self, images):
        return self.head(self.body(images)).mean((2, 3))


def test_features_are_what_the_head_reads():
    images = torch.randn(5, 1, 8, 8)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))
    taken = HeadInputs(plain)
    assert torch.equal(taken.take(plain(images)), plain[2](plain[1](plain[0](images))))
    averaged = Averaged()
    taken = HeadInputs(averaged)
    assert torch.equal(taken.take(averaged(images)), averaged.body(images).mean((2, 3)))
    without = nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten())
    logits = without(images)
    assert HeadInputs(without).take(logits) is logits


def test_training_through_the_readout_learns_bodies_and_leaves_heads():
    torch.manual_seed(0)
    data = MultiTaskImageDataModule({"shapes": ProceduralImageDataModule("shapes", 6, 60, image_size=8)}, 8, 1)
    sizes = {"hidden": 16, "reach": 2, "layers": 1, "heads": 2, "rank": 16, "steered_rank": 8, "width": 16}
    generator = GraphHypernetwork(**sizes, graphs="canonical", readout="ridge")
    training = GraphHypernetworkTraining(
        generator, data, 40, learning_rate=1e-2, table_learning_rate=1e-1, warmup_steps=1, augment=True,
        through_readout=True,
    )  # fmt: skip
    training.log = training.log_dict = lambda *_, **__: None
    optimizer = training.configure_optimizers()["optimizer"]
    space = ImageClassifierSpace(families=("mlp",), depth=(2, 2), mlp_width=(16, 32), num_classes=10)
    images, labels = data.tensors("train")
    batches = MetaBatches(TrainingStream(space), 2, data.parts("train"), 2, 60, labels.numpy(), 4, graphs="canonical")
    losses = []
    for step, batch in zip(range(60), batches, strict=False):
        assert all(len(labels[own].unique()) == 4 for own in batch.samples)
        loss = training.training_step(batch, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-15:]) < sum(losses[:15]) - 0.5
