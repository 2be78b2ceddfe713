import pytest
import torch
from torch import nn

from hypergen.evaluation import StepsProtocol
from hypergen.evaluation import steps as steps_module
from hypergen.evaluation.image_data import ImageData
from hypergen.evaluation.short_training import derived_seed, steps_per_epoch, training_steps
from hypergen.evaluation.steps import check_points, count_steps, ever_reaches, select_learning_rate, steps_to


def test_check_points():
    points = list(check_points(1000))
    assert points[:21] == list(range(21))
    assert points[-1] == 1000
    assert all(
        0 < later - earlier <= max(1, 0.05 * earlier + 1) for earlier, later in zip(points, points[1:], strict=False)
    )
    assert list(check_points(3)) == [0, 1, 2, 3]


def test_steps_to():
    accuracies = iter([(0, 0.1), (1, 0.96), (2, 0.5), (3, 0.99)])
    assert steps_to(accuracies, 0.95) == 1
    assert next(accuracies) == (2, 0.5)  # Nothing was trained in vain.
    assert steps_to(iter([(0, 0.95)]), 0.95) == 0
    assert steps_to(iter([(0, 0.1)]), 0.95) is None


@pytest.fixture
def toy(monkeypatch):
    """Networks whose accuracy is written down: per split and learning rate, what is measured at each step."""

    def install(curves):
        made = []

        def fake(model, data, split, *, learning_rate, seed, cap):
            for step, value in enumerate(curves[split][learning_rate]):
                if step > cap:
                    return
                made.append((split, learning_rate, step))
                yield step, value

        monkeypatch.setattr(steps_module, "accuracies_while_training", fake)
        return made

    return install


def test_fewest_steps_on_validation_are_counted_on_test(toy):
    toy(
        {
            "validation": {0.1: [0, 0, 0, 1] + [1] * 30, 0.2: [0, 0, 1] + [1] * 30},
            "test": {0.1: [1] * 30, 0.2: [0, 0, 0, 0, 0.96] + [1] * 30},
        }
    )
    protocol = StepsProtocol(learning_rates=(0.1, 0.2), cap=30, curve_steps=6)
    count = count_steps(lambda: None, None, protocol, seed=0)
    assert (count.learning_rate, count.steps) == (0.2, 4)
    assert count.curve[-1] == (6, 1)


def test_ties_are_broken_by_accuracy_in_the_first_steps(toy):
    # Both are there before training; the greater rate throws it away.
    toy({"validation": {0.2: [0.96] + [0.2] * 30, 0.1: [0.96] + [0.97] * 30}})
    assert select_learning_rate(lambda: None, None, StepsProtocol(learning_rates=(0.2, 0.1)), seed=0) == 0.1


def test_without_a_rate_that_gets_there_the_nearest_one_is_taken(toy):
    toy(
        {
            "validation": {0.1: [0.1, 0.2], 0.2: [0.1, 0.6], 0.3: [0.1]},
            "test": {rate: [0.3] for rate in (0.1, 0.2, 0.3)},
        }
    )
    protocol = StepsProtocol(learning_rates=(0.1, 0.2, 0.3))
    count = count_steps(lambda: None, None, protocol, seed=0)
    assert (count.learning_rate, count.steps) == (0.2, None)
    assert not ever_reaches(lambda: None, None, protocol, seed=0)


def test_a_rate_that_has_lost_is_not_trained_on(toy):
    made = toy({"validation": {0.1: [0] * 30 + [1] * 500, 0.2: [0] * 500}})
    select_learning_rate(lambda: None, None, StepsProtocol(learning_rates=(0.1, 0.2)), seed=0)
    assert max(step for _, rate, step in made if rate == 0.2) == 30


def test_real_training_on_a_toy():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 2
    images = (labels * 2 - 1.0).reshape(-1, 1, 1, 1) + 0.1 * torch.randn(200, 1, 1, 1, generator=generator)
    data = ImageData((images, labels), (images, labels), (images, labels))

    def make(weight):
        model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False))
        with torch.no_grad():
            model[1].weight.copy_(torch.tensor([[-weight], [weight]]))
        return model

    protocol = StepsProtocol(learning_rates=(0.01, 0.1), cap=40, curve_steps=0)
    assert count_steps(lambda: make(1.0), data, protocol, seed=0).steps == 0
    # Adam moves each weight by the learning rate per step: -0.35 turns positive in the fourth step at 0.1, and the
    # momentum does not matter because every gradient has the same sign.
    count = count_steps(lambda: make(-0.35), data, protocol, seed=0)
    assert (count.learning_rate, count.steps) == (0.1, 4)
    assert count_steps(lambda: make(-100.0), data, protocol, seed=0).steps is None
    assert count_steps(lambda: make(float("nan")), data, protocol, seed=0).steps is None


def test_training_is_seeded_and_stops_when_it_blows_up():
    images, labels = torch.randn(130, 1, 1, 4, generator=torch.Generator().manual_seed(0)), torch.arange(130) % 3

    def run(seed, rate=1e-2, steps=7):
        model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        nn.init.ones_(model[1].weight)
        nn.init.zeros_(model[1].bias)
        made = training_steps(model, images, labels, learning_rate=rate, seed=seed)
        done = [next(made, None) for _ in range(steps)]
        return done, model[1].weight.detach()

    assert run(0)[0] == [1, 2, 3, 4, 5, 6, 7]
    assert torch.equal(run(0)[1], run(0)[1]) and not torch.equal(run(0)[1], run(1)[1])
    assert run(0, rate=1e38)[0][-1] is None
    assert (steps_per_epoch(130), steps_per_epoch(129), steps_per_epoch(128)) == (3, 2, 2)
    assert derived_seed(0, "a") != derived_seed(0, "b") != derived_seed(1, "b")
