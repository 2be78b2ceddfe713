import pytest
import torch

from experiments.hypernetwork_systems import continual, hyperparameters, implicit, pareto


def test_hypervolume_is_the_area_that_is_dominated():
    reference = torch.tensor([1.0, 1.0])
    assert pareto.hypervolume(torch.tensor([[0.5, 0.5]]), reference) == pytest.approx(0.25)
    steps = torch.tensor([[0.25, 0.75], [0.5, 0.25], [0.6, 0.6], [2.0, 0.0]])  # one dominated, one outside
    assert pareto.hypervolume(steps, reference) == pytest.approx(0.75 * 0.25 + 0.5 * 0.5)


def test_a_front_trades_one_loss_for_the_other():
    found = pareto.run(seed=0, steps=60, share=0.2)
    assert set(found) == {"separate", "hypernetwork", "share"} and found["share"] > 0.5


def test_the_penalty_keeps_what_was_written_for_earlier_tasks():
    kept_then, kept = continual.with_hypernetwork(0, 60, strength=1.0)
    _, lost = continual.with_hypernetwork(0, 60, strength=0.0)
    assert (kept_then - kept)[:-1].abs().max() < 0.03
    assert kept.mean() > lost.mean() + 0.05
    tasks = continual.tasks("test")
    assert [set(labels.tolist()) for _, labels in tasks] == [{0, 1}] * 5


def test_pictures_that_were_not_seen_are_drawn_in_one_pass():
    assert implicit.ratio(torch.full((3, 64), 0.6), torch.full((3, 64), 0.5)) == pytest.approx(20.0, abs=1e-3)
    hyper = implicit.train_hypernetwork(150, 2e-3, [64], seed=0)
    images = implicit.pictures("test")[:50]
    with torch.no_grad():
        values = dict(hyper.generate_stacked(images))
    found = implicit.curve(values, images, 3e-3)
    guessing = implicit.ratio(images.mean(0, keepdim=True).expand(50, -1), images)
    assert found[0] > guessing and found[10] > found[0]


def test_online_tuning_follows_the_loss_on_validation_images():
    validation, test, course = hyperparameters.by_hypernetwork(True, 200, 3e-3, seed=0)
    assert 0 < validation < 1.5 and 0 < test < 1.5
    assert course[0] == [0.5, 0.5, 0.5] and course[-1] != course[0]
    assert all(0 <= value <= 1 for point in course for value in point)
    settings = [torch.tensor([0.0, 0.0, 0.0]), torch.tensor([1.0, 1.0, 1.0])]
    best = hyperparameters.by_search(settings, 200, 3e-3, seed=0)
    assert best < hyperparameters.by_search(settings[1:], 200, 3e-3, seed=0)
