import multiprocessing
import os
import signal
import time
from dataclasses import replace

import pytest
import torch

from hypergen.architectures import Architecture
from hypergen.errors import CheckpointError, HypergenError, UnknownNameError
from hypergen.zoo import Zoo
from hypergen.zoo.build.build import build_zoo
from hypergen.zoo.build.engines import LocalEngine, make_engine
from hypergen.zoo.build.plan import Task, ZooPlan, binary_relabellings, permuted_labels


def architecture(*widths, classes=3):
    shape = {"image_size": 4, "channels": 1, "num_classes": classes}
    return Architecture("mlp", {**shape, "widths": list(widths), "norm": "none"})


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    splits = {}
    for split, count in (("train", 60), ("validation", 20), ("test", 20)):
        images = torch.randn(count, 1, 4, 4, generator=generator)
        splits[split] = images, images.flatten(1)[:, :3].argmax(1)
    return splits


PLAN = ZooPlan(
    [architecture(4), architecture(5, 3)],
    6,
    steps=(6, 12),
    save_every=3,
    learning_rate=(1e-3, 1e-1),
    weight_decay=(1e-4, 1e-1),
    init_scale=(0.5, 2),
    data_fraction=(0.3, 1),
    group_size=2,
    batch_size=8,
)


def build(folder, data, plan=PLAN, **options):
    return build_zoo(folder, plan, data, data_name="toy", progress=False, **options)


def contents(zoo):
    """Everything of a zoo but where it lies."""
    states = {uid: zoo.state_dict(position) for position, uid in enumerate(zoo.column("uid"))}
    rows = {row["uid"]: {**row, "shard": None, "row": None} for row in zoo.index.to_pylist()}
    return states, rows


def assert_same(one, other):
    (states, rows), (other_states, other_rows) = contents(one), contents(other)
    assert rows == other_rows  # with the sha256 of every checkpoint
    torch.testing.assert_close(states, other_states, rtol=0, atol=0)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("zoo") / "zoo"
    build(folder, data)
    return Zoo(folder)


def test_every_network_of_the_plan_is_there(undisturbed):
    assert len(undisturbed.layouts) == 2 and len(set(undisturbed.column("run"))) == 12
    recipes = {recipe.run: recipe for group in PLAN.groups() for recipe in group.recipes}
    expected = {(run, step) for run, recipe in recipes.items() for step in range(0, recipe.steps + 1, 3)}
    assert set(zip(undisturbed.column("run"), undisturbed.column("step"), strict=True)) == expected
    for row in undisturbed.index.to_pylist():
        recipe = recipes[row["run"]]
        for name in ("learning_rate", "weight_decay", "init_scale", "data_fraction", "steps"):
            assert row[f"hyperparameters.{name}"] == getattr(recipe, name)
        assert (row["init_seed"], row["data_seed"]) == (recipe.init_seed, recipe.data_seed)
        assert 0 <= row["validation.accuracy"] <= 1 and row["test.loss"] > 0


def test_networks_are_rebuilt_from_what_the_zoo_says(undisturbed, data):
    position = undisturbed.column("step").index(6)
    metadata = undisturbed.layout_of(position).metadata
    network = Architecture.from_json(metadata["architecture"]).build()
    network.load_state_dict(undisturbed.state_dict(position))
    images, labels = data["test"]
    accuracy = (network.eval()(images).argmax(1) == labels).float().mean().item()
    assert accuracy == pytest.approx(undisturbed.column("test.accuracy")[position])
    assert metadata["data"] == "toy"


def test_building_again_changes_nothing(undisturbed, data):
    before = sorted(file.name for file in (undisturbed.folder / "shards").iterdir())
    report = build(undisturbed.folder, data)
    assert (report.trained, report.networks, report.checkpoints) == (0, 12, len(undisturbed))
    assert sorted(file.name for file in (undisturbed.folder / "shards").iterdir()) == before


def test_a_larger_plan_adds_networks(tmp_path, data, undisturbed):
    build(tmp_path / "zoo", data, replace(PLAN, networks=3))
    report = build(tmp_path / "zoo", data)
    assert report.networks == 12
    zoo = Zoo(tmp_path / "zoo")
    assert sorted(zoo.column("uid")) == sorted(undisturbed.column("uid"))


class Stops(LocalEngine):
    """Is interrupted in the middle of the third group."""

    def train(self, groups, data, settings, on_step):
        for number, event in enumerate(super().train(groups, data, settings, on_step)):
            if number == 13:
                raise KeyboardInterrupt
            yield event


def test_a_stopped_build_goes_on(tmp_path, data, undisturbed):
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "zoo", data, engine=Stops())
    half = Zoo(tmp_path / "zoo").verify()
    assert 0 < len(half) < len(undisturbed)
    report = build(tmp_path / "zoo", data)
    assert 0 < report.trained < 12
    assert_same(Zoo(tmp_path / "zoo"), undisturbed)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_build_leaves_a_readable_zoo_and_goes_on(tmp_path, data, undisturbed):
    folder = tmp_path / "zoo"
    seen = 0
    for delay in (0.03, 0.08, 0.12, 0.1):
        process = multiprocessing.get_context("fork").Process(target=build, args=(folder, data))
        process.start()
        time.sleep(delay)
        process.kill()
        process.join()
        assert process.exitcode in (-signal.SIGKILL, 0)
        if (folder / "zoo.json").exists():
            zoo = Zoo(folder).verify()
            assert len(zoo) >= seen
            seen = len(zoo)
    build(folder, data)
    assert_same(Zoo(folder), undisturbed)


def test_diverged_networks_are_reported_once_and_not_tried_again(tmp_path, data):
    plan = replace(PLAN, architectures=[architecture(4)], learning_rate=1e30, optimizer="sgd", save_every=3)
    report = build(tmp_path / "zoo", data, plan)
    assert len(report.diverged) == 6
    assert set(Zoo(tmp_path / "zoo").column("step")) == {0}
    again = build(tmp_path / "zoo", data, plan)
    assert again.trained == 0 and again.diverged == report.diverged


def test_tasks_and_seeds_are_shared_as_the_plan_says(tmp_path, data):
    tasks = [Task("a", (0, 1, 1), "train"), Task("b", (1, 0, 0), "test", "not the first")]
    plan = ZooPlan(
        [architecture(4, classes=1)], 8, 3, 3, tasks=tasks, shared_init=True, data_orders=2, batch_size=8, group_size=3
    )
    build(tmp_path / "zoo", data, plan)
    zoo = Zoo(tmp_path / "zoo")
    assert zoo.tasks["b"] == {"labels": [1, 0, 0], "text": "not the first"}
    last = zoo.last()
    pairs = list(zip(last.column("task"), last.column("data_seed"), strict=True))
    assert len(set(pairs)) == 4 and all(pairs.count(pair) == 2 for pair in pairs)
    assert set(zoo.column("init_seed")) == {0}
    start = zoo.select(step=0).stack()
    assert all((value == value[:1]).all() for value in start.values())
    assert dict(zip(last.column("task"), last.column("split_task"), strict=True)) == {"a": "train", "b": "test"}


def test_relabellings():
    tasks = binary_relabellings(4, 14, held_out=4)
    assert len({task.labels for task in tasks}) == 14 and [task.split for task in tasks].count("test") == 4
    assert all(0 < sum(task.labels) < 4 for task in tasks)
    with pytest.raises(ValueError, match="14 binary"):
        binary_relabellings(4, 15)
    orders = permuted_labels(3, 6)
    assert orders[0].labels == (0, 1, 2) and len({task.labels for task in orders}) == 6
    with pytest.raises(ValueError, match="6 orders"):
        permuted_labels(3, 7)


def test_impossible_plans_are_refused():
    for change, message in (
        ({"networks": 0}, "networks must be positive"),
        ({"learning_rate": (1.0, 0.1)}, "the smaller first"),
        ({"weight_decay": (0.0, 0.1)}, "cannot start from 0"),
        ({"data_fraction": 1.5}, "data_fraction"),
        ({"architectures": [architecture(4)] * 2}, "names of their own"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(PLAN, **change)
    with pytest.raises(UnknownNameError, match="Did you mean 'local'"):
        make_engine("locl")


def test_another_folder_is_left_alone(tmp_path, data):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="neither a zoo"):
        build(tmp_path, data)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_two_workers_of_ray_build_the_same_zoo(tmp_path, data, undisturbed):
    ray = pytest.importorskip("ray")
    build(tmp_path / "zoo", data, engine=make_engine("ray", workers=2))
    assert not ray.is_initialized()
    assert_same(Zoo(tmp_path / "zoo"), undisturbed)


def test_an_unreachable_cluster_is_named(monkeypatch):
    ray = pytest.importorskip("ray")

    def refuse(**options):  # Ray itself waits for a minute before it says so.
        raise ConnectionError(f"nothing listens at {options['address']}")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(HypergenError, match="nothing listens at 10.0.0.1:1"):
        list(make_engine("ray", address="10.0.0.1:1").train([], {}, {}, lambda *_: None))
