import itertools
import json

import pytest
import torch

from hypergen.architectures import SPLITS, ImageClassifierSpace, TrainingStream, load_split, load_split_space
from hypergen.architectures.language_models import LANGUAGE_MODEL_SPLITS
from hypergen.architectures.split_files import held_out_names
from hypergen.architectures.splits import draw_splits, write_splits

WIDEST = {"mlp": 128, "vit": 64, "mixer": 64, "dense": 16}


@pytest.mark.parametrize("name", SPLITS)
def test_a_hundred_networks_that_run(name):
    architectures = load_split(name)
    assert len(architectures) == 100
    for architecture in architectures[:20]:
        assert architecture.build()(torch.randn(2, 1, 8, 8)).shape == (2, 10)


def test_no_architecture_is_in_two_splits():
    assert len(held_out_names()) == 100 * len(SPLITS) + 10 * len(LANGUAGE_MODEL_SPLITS)


def test_files_are_what_their_command_writes():
    drawn = draw_splits(size=10)
    for name in SPLITS:
        assert load_split(name)[:10] == drawn[name]
        assert load_split_space(name).to_json()["image_size"] == 8


def test_wide():
    for architecture in load_split("wide"):
        ratio = architecture.width / WIDEST.get(architecture.family, 48)
        assert 1.5 <= ratio <= 3, architecture


def test_deep():
    assert all(6 < architecture.depth <= 15 for architecture in load_split("deep"))
    assert all(architecture.width <= WIDEST.get(architecture.family, 48) for architecture in load_split("deep"))


def test_no_norm():
    norms = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.GroupNorm, torch.nn.LayerNorm)
    for architecture in load_split("no_norm"):
        assert not any(isinstance(module, norms) for module in architecture.build().modules())


def test_new_family():
    assert {architecture.family for architecture in load_split("new_family")} == {"inverted_bottleneck"}


@pytest.mark.parametrize("name", ["validation", "test"])
def test_in_distribution_splits_show_nothing_new(name):
    for architecture in load_split(name):
        assert architecture.family != "inverted_bottleneck"
        assert architecture.config["norm"] != "none"
        assert architecture.depth <= 6
        assert architecture.width <= WIDEST.get(architecture.family, 48)


def test_training_stream_is_deterministic_and_endless():
    stream = TrainingStream(ImageClassifierSpace(), offset=5)
    first = list(itertools.islice(stream, 10))
    assert first == [TrainingStream(ImageClassifierSpace())[5 + index] for index in range(10)]
    assert stream[10**7].family
    with pytest.raises(IndexError, match="counted from 0"):
        stream[-1]


def test_training_stream_skips_held_out_architectures():
    space = ImageClassifierSpace()
    held_out = frozenset(space.sample(seed).name for seed in range(10))
    shown = [TrainingStream(space, held_out=held_out)[index] for index in range(10)]
    assert not held_out & {architecture.name for architecture in shown}


def test_the_seeds_of_the_test_split_are_skipped():
    # The architectures of the test split are the ones of these seeds: the stream must show others there.
    shown = {
        architecture.name
        for architecture in itertools.islice(TrainingStream(load_split_space("test"), offset=2_000_000_000), 100)
    }
    assert not shown & held_out_names()


def test_splits_in_another_folder(tmp_path):
    write_splits(tmp_path, size=3)
    assert load_split("test", root=tmp_path) == load_split("test")[:3]
    assert json.loads((tmp_path / "test.json").read_text())["seed"] == 2_000_000_000


def test_clear_errors(tmp_path):
    with pytest.raises(ValueError, match="unknown split 'train'"):
        load_split("train")
    with pytest.raises(FileNotFoundError, match="python -m hypergen.architectures.splits"):
        load_split("test", root=tmp_path)
    (tmp_path / "test.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        load_split("test", root=tmp_path)
    (tmp_path / "test.json").write_text("{}")
    with pytest.raises(ValueError, match="not a split file"):
        load_split("test", root=tmp_path)
