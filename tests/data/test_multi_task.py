import pytest
import torch
from torch import nn

from hypergen.data import DigitsDataModule, MultiTaskImageDataModule, ProceduralImageDataModule
from hypergen.data.augmentation import jittered
from hypergen.data.multi_task import as_images


@pytest.fixture(scope="module")
def data():
    shapes = ProceduralImageDataModule("shapes", 3, 16, image_size=16)
    return MultiTaskImageDataModule({"shapes": shapes, "digits": DigitsDataModule()}, 16, max_train=40)


def test_classes_are_counted_on_and_images_brought_to_one_shape(data):
    images, labels = data.tensors("train")
    assert images.shape == (80, 3, 16, 16) and images.isfinite().all() and data.num_classes == 13
    (_, between), (start, end) = data.parts("train")
    assert (between, start, end) == (40, 40, 80)
    assert set(labels[:40].tolist()) == {0, 1, 2} and set(labels[40:].tolist()) == set(range(3, 13))
    assert torch.equal(images[40:, 0], images[40:, 2])  # grey, repeated
    assert not torch.equal(images[:40, 0], images[:40, 2])
    assert [end - start for start, end in data.parts("test")] == [12, 360]


def test_loss_is_over_the_classes_of_the_data_set(data):
    logits, labels = torch.randn(5, 13), torch.tensor([4, 3, 12, 7, 3])
    own, counted = data.task.own(logits, labels)
    assert torch.equal(own, logits[:, 3:]) and counted.tolist() == [1, 0, 9, 4, 0]
    own, counted = data.task.own(logits, torch.tensor([2, 0]))
    assert torch.equal(own, logits[:, :3]) and counted.tolist() == [2, 0]


def test_wrong_arguments_are_refused():
    digits = {"digits": DigitsDataModule()}
    with pytest.raises(ValueError, match="num_classes=11, but there are 10: 10 of digits"):
        MultiTaskImageDataModule(digits, num_classes=11)
    with pytest.raises(ValueError, match="tasks is empty"):
        MultiTaskImageDataModule({})
    with pytest.raises(ValueError, match="channels must be"):
        MultiTaskImageDataModule(digits, channels=2)
    with pytest.raises(ValueError, match="unknown kind 'cats'"):
        ProceduralImageDataModule("cats")
    with pytest.raises(ValueError, match="between 2 and 12"):
        ProceduralImageDataModule("shapes", 13)
    with pytest.raises(ValueError, match="images_per_class must be at least 4"):
        ProceduralImageDataModule("shapes", images_per_class=2)


@pytest.mark.parametrize("kind", ["shapes", "textures", "strokes", "colours", "letters"])
def test_drawn_classes_are_alike_within_and_unlike_between(kind):
    data = ProceduralImageDataModule(kind, 4, 60, image_size=16)
    splits = data.load()
    images, labels = splits["train"]
    assert images.shape == (240, 3, 16, 16) and 0 <= images.min() and images.max() <= 1
    assert labels.bincount().tolist() == [60] * 4 and splits["test"][1].bincount().tolist() == [15] * 4
    assert torch.equal(images, ProceduralImageDataModule(kind, 4, 60, image_size=16).load()["train"][0])
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(128, 4),
    )  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    inputs, targets = data.tensors("train")
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs), targets).backward()
        optimizer.step()
    inputs, targets = data.tensors("test")
    assert (net.eval()(inputs).argmax(1) == targets).float().mean() > 0.6  # .25 by chance


def test_images_take_another_shape():
    images = torch.arange(2 * 3 * 4 * 4.0).reshape(2, 3, 4, 4)
    grey = as_images(images, 1, 4)
    assert torch.equal(grey, images.mean(1, keepdim=True))
    assert torch.equal(as_images(grey, 3, 4)[:, 1], grey[:, 0])
    assert torch.equal(as_images(images, 3, 2)[0, 0, 0, 0], images[0, 0, :2, :2].mean())
    assert as_images(images, 3, 8).shape == (2, 3, 8, 8) and as_images(images, 3, 4) is images


def test_jitter_is_one_draw_for_all_images():
    images = torch.randn(1, 3, 16, 16).expand(5, -1, -1, -1)
    draws = [jittered(images, torch.Generator().manual_seed(seed)) for seed in range(12)]
    assert all(torch.equal(draw[0], draw[4]) for draw in draws)
    assert {float((draw.mean() * images.mean()).sign()) for draw in draws} == {1.0, -1.0}
    for draw in draws:  # the same pixels, moved and scaled
        ratio = draw.norm() / images.norm()
        assert 0.6 < ratio < 1.5
        torch.testing.assert_close(draw.abs().flatten().sort()[0], (ratio * images).abs().flatten().sort()[0])
    assert torch.equal(draws[3], jittered(images, torch.Generator().manual_seed(3)))


def test_a_meta_batch_takes_the_samples_of_a_network_from_one_data_set():
    from hypergen.architectures import ImageClassifierSpace, TrainingStream
    from hypergen.generators.ghn.meta_batches import MetaBatches

    batches = MetaBatches(TrainingStream(ImageClassifierSpace()), 4, [(0, 30), (30, 50)], 6, 16)
    sources = set()
    for step in range(6):
        _, samples = batches.draw(step)
        assert samples.shape == (6, 16)
        for own in samples:
            assert own.max() < 30 or own.min() >= 30
            sources.add(bool(own[0] < 30))
        assert (batches.draw(step)[1] == samples).all()
    assert sources == {True, False}
