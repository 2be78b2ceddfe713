import json

import pytest

from hypergen.evaluation import EVALUATED_SPLITS, Baselines, ImageData, compute_baselines, load_baselines
from hypergen.evaluation.image_classifiers.baseline_training import (
    BaselineTask,
    count_default_steps,
    train_with_tuned_rate,
)


def test_training_helps_and_more_of_it_helps_more(baselines, splits):
    for (split, _), record in baselines.records.items():
        assert record.default < 0.35 < record.default_ridge_head
        assert record.default < record.trained[1].accuracy
        assert set(record.trained) == ({1, 5} if split == "test" else {1})
        if split == "test":
            assert record.trained[1].accuracy < record.trained[5].accuracy
    assert set(baselines.steps) == {architecture.name for architecture in splits["test"]}
    for entry in baselines.steps.values():
        assert entry.reaches and 0 < entry.count.steps < 120
        first = next(step for step, accuracy in entry.count.curve if accuracy >= 0.9)
        assert first == entry.count.steps


def test_file_round_trip(baselines, tmp_path):
    path = tmp_path / "baselines.json"
    baselines.write(path)
    again = load_baselines(path)
    assert (again.protocol, again.data) == (baselines.protocol, baselines.data)
    assert list(again.records) == list(baselines.records)
    for key, record in baselines.records.items():
        assert again.records[key].default == pytest.approx(record.default, abs=1e-6)
        assert again.records[key].trained.keys() == record.trained.keys()
    assert {name: entry.count.steps for name, entry in again.steps.items()} == {
        name: entry.count.steps for name, entry in baselines.steps.items()
    }


def test_workers_and_interruption_change_nothing(baselines, images, splits, protocol):
    half = {split: architectures[:1] for split, architectures in splits.items()}
    started = compute_baselines(images, half, protocol, workers=0)
    resumed = compute_baselines(images, splits, protocol, workers=2, resume=started)
    assert resumed.records == baselines.records
    assert list(resumed.records) == list(baselines.records)
    assert resumed.steps == baselines.steps


def test_what_does_not_fit_is_refused(baselines, images, splits, protocol, make_mlp):
    fingerprint = images.fingerprint()
    baselines.require(fingerprint, splits)
    other = make_mlp(widths=[40])
    with pytest.raises(ValueError, match=rf"wide/{other.name}.*image_classifiers.trained_baselines"):
        baselines.require(fingerprint, {"wide": [other]})
    swapped = ImageData(images.test, images.validation, images.train)
    with pytest.raises(ValueError, match="other images"):
        baselines.require(swapped.fingerprint(), splits)
    with pytest.raises(ValueError, match="cannot be resumed"):
        compute_baselines(swapped, splits, protocol, workers=0, resume=Baselines(fingerprint, protocol))


def test_bad_files_are_refused(tmp_path):
    path = tmp_path / "baselines.json"
    with pytest.raises(FileNotFoundError, match="hypergen.evaluation.image_classifiers.trained_baselines"):
        load_baselines(path)
    for content in ("{", json.dumps({"records": []}), json.dumps([])):
        path.write_text(content)
        with pytest.raises(ValueError, match="not a file of baselines"):
            load_baselines(path)


def test_a_network_that_cannot_learn_is_left_out(images, protocol, make_mlp):
    narrow = make_mlp(widths=[1], norm="none")
    entry = count_default_steps(images, BaselineTask("test", narrow, protocol))
    assert not entry.reaches and entry.count is None


def test_training_that_blows_up_counts_nothing(images, splits, protocol):
    wild = type(protocol)(learning_rates=(1e30,), epochs=(1,))
    result = train_with_tuned_rate(splits["no_norm"][0], images, wild, [1], rates_kept=1)
    assert result[1].accuracy == 0


def test_the_shipped_baselines_belong_to_the_shipped_splits(images):
    from hypergen.architectures import load_split

    shipped = load_baselines()
    splits = {split: load_split(split) for split in EVALUATED_SPLITS}
    shipped.require(images.fingerprint(), splits)
    assert len(shipped.records) == 500
    assert sum(entry.reaches for entry in shipped.steps.values()) == 20
