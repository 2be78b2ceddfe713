import pickle
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hypergen.architectures import ImageClassifierSpace, TrainingStream, load_split
from hypergen.data import DigitsDataModule
from hypergen.generators.ghn import meta_batches
from hypergen.generators.ghn.meta_batches import MetaBatchDataModule, MetaBatches, trace_architecture

POOL, IMAGES = 5, 50


@pytest.fixture(scope="module")
def space():
    return ImageClassifierSpace(families=("mlp",), depth=(1, 2), mlp_width=(16, 24))


@pytest.fixture
def untraced(monkeypatch):
    """Architectures as they are, with a list of those that were traced."""
    traced = []
    monkeypatch.setattr(meta_batches, "trace_architecture", lambda a, *_: traced.append(a) or a)
    return traced


def batches(space, **arguments):
    return MetaBatches(
        TrainingStream(space),
        **{"pool": POOL, "parts": [(0, IMAGES)], "networks": 4, "samples_per_network": 6, **arguments},
    )


def content(batch):
    return batch.step, batch.numbers, batch.samples.tolist(), batch.networks


def assert_same_draw(one, other):
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_draw_depends_on_seed_and_step_alone(space):
    one = batches(space)
    expected = one.draw(7)
    np.random.seed(1)
    torch.manual_seed(1)
    one.draw(8)
    assert_same_draw(expected, one.draw(7))
    assert_same_draw(expected, batches(space, start=5).draw(7))
    for other in (one.draw(8), batches(space, seed=1).draw(7)):
        assert not np.array_equal(expected[1], other[1])


def test_draws_use_the_whole_pool_and_all_images(space):
    numbers, images = zip(*(batches(space).draw(step) for step in range(40)), strict=True)
    assert np.unique(numbers).tolist() == list(range(POOL))
    assert np.unique(images).tolist() == list(range(IMAGES))
    assert numbers[0].shape == (4,) and images[0].shape == (4, 6)
    # Networks of a step see images of their own.
    assert not np.array_equal(images[0][0], images[0][1])


def test_resuming_at_a_step_gives_what_was_missed(space, untraced):
    uninterrupted = list(islice(batches(space), 12))
    resumed = list(islice(batches(space, start=5), 7))
    assert [b.step for b in uninterrupted] == list(range(12))
    assert [content(b) for b in resumed] == [content(b) for b in uninterrupted[5:]]
    # The new process has been sent nothing yet.
    assert set(resumed[0].traced) == set(resumed[0].numbers)


def test_iterating_again_starts_again(space, untraced):
    again = batches(space)
    assert [content(b) for b in islice(again, 3)] == [content(b) for b in islice(again, 3)]


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_exactly_the_global_batch(space, untraced, world_size):
    ranks = [islice(batches(space, rank=rank, world_size=world_size), 6) for rank in range(world_size)]
    for whole, *parts in zip(islice(batches(space), 6), *ranks, strict=True):
        assert all(part.step == whole.step and part.networks == whole.networks == 4 for part in parts)
        assert all(len(part.numbers) == 4 // world_size for part in parts)
        shared = sorted((n, i) for part in parts for n, i in zip(part.numbers, part.samples.tolist(), strict=True))
        assert shared == sorted(zip(whole.numbers, whole.samples.tolist(), strict=True))


def test_networks_that_ranks_cannot_share_are_refused(space):
    with pytest.raises(ValueError, match="networks_per_step=4 can't be shared out over 3 processes"):
        batches(space, world_size=3)


def test_architectures_are_traced_once_and_before_use(space, untraced):
    known = {}
    for batch in islice(batches(space), 15):
        assert not set(batch.traced) & set(known)
        known |= batch.traced
        assert set(batch.numbers) <= set(known)
    assert len(untraced) == len(known) == POOL
    assert known == {number: TrainingStream(space)[number] for number in range(POOL)}


@pytest.fixture(scope="module")
def make_data(space):
    digits = DigitsDataModule()

    def made(**arguments):
        return MetaBatchDataModule(
            digits,
            space,
            **{"networks_per_step": 4, "samples_per_network": 6, "architectures": 4, "num_workers": 0, **arguments},
        )

    return made


@pytest.fixture(scope="module")
def sequence(make_data):
    return list(islice(make_data().train_dataloader(), 9))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_give_the_same_sequence(make_data, sequence, workers):
    loader = iter(make_data(num_workers=workers).train_dataloader())
    known = {}
    for expected in sequence:
        batch = next(loader)
        assert content(batch) == content(expected)
        # Each architecture comes once per process, with or ahead of its first use, whichever worker traced it.
        assert {n: t.architecture for n, t in batch.traced.items()} == {
            n: t.architecture for n, t in expected.traced.items()
        }
        assert not set(batch.traced) & set(known)
        known |= batch.traced
        assert set(batch.numbers) <= set(known)
    del loader
    for batch in sequence:
        for number, traced in batch.traced.items():
            assert torch.equal(known[number].features.attributes, traced.features.attributes)
            assert known[number].features.slots == traced.features.slots


def test_loader_starts_at_the_step_and_place_of_its_trainer(make_data, sequence):
    data = make_data()
    data.trainer = SimpleNamespace(global_step=4, global_rank=1, world_size=2)
    batch = next(iter(data.train_dataloader()))
    assert batch.step == 4 and batch.numbers == sequence[4].numbers[1::2]
    assert np.array_equal(batch.samples, sequence[4].samples[1::2])


def test_images_are_training_images(make_data, sequence):
    count = len(make_data().data.tensors("train")[0])
    assert all(batch.samples.min() >= 0 and batch.samples.max() < count for batch in sequence)


def test_traced_architectures_travel_whole(space):
    traced = trace_architecture(space.sample(3))
    copy = pickle.loads(pickle.dumps(traced))
    assert copy.architecture == traced.architecture and copy.features.slots == traced.features.slots
    for name in ("operations", "attributes", "distances", "slot_nodes", "slot_sites"):
        assert torch.equal(getattr(copy.features, name), getattr(traced.features, name)), name
    assert torch.equal(copy.features.layout.rows, traced.features.layout.rows)


def test_tracing_makes_no_parameters(space):
    traced = trace_architecture(space.sample(3))
    names = {name for name, _ in traced.architecture.build().named_parameters()}
    assert {slot.name for slot in traced.features.slots} == names


def test_validation_uses_the_shipped_split_of_its_space(make_data):
    data = MetaBatchDataModule(make_data().data, ImageClassifierSpace(), validation_architectures=2)
    assert [item.architecture for item in data.val_dataloader()] == load_split("validation")[:2]


def test_validation_in_another_space_shows_that_space(make_data):
    space = ImageClassifierSpace(families=("mlp", "vit"), max_parameters=30_000)

    def architectures():
        data = MetaBatchDataModule(make_data().data, space, validation_architectures=3)
        return [item.architecture for item in data.val_dataloader()]

    assert architectures() == architectures()
    assert len(set(architectures())) == 3 and all(a.family in ("mlp", "vit") for a in architectures())
    # A wide space does not draw the same twice.
    assert not set(architectures()) & {TrainingStream(space)[number] for number in range(20)}
