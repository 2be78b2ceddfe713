import json
import sys
from pathlib import Path

import pyarrow.compute as pc
import pytest
import torch
from torch import nn

from benchmarks.sweeps.fresh_process import in_fresh_process
from hypergen.errors import CheckpointError, HypergenError, ParameterError, UnknownNameError
from hypergen.zoo import Layout, Zoo, ZooWriter


def mlp():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))


def stacked(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "weight": torch.randn(count, 4, 3, generator=generator),
        "bias": torch.randn(count, 4, generator=generator),
    }


def runs(count):
    return [f"run{i}" for i in range(count)]


@pytest.fixture
def zoo(tmp_path):
    """Six runs of three checkpoints in two shards."""
    folder = tmp_path / "zoo"
    for part in range(2):
        with ZooWriter(folder) as writer:
            for step in (0, 5, 10):
                names = runs(6)[3 * part : 3 * part + 3]
                columns = {"test.accuracy": torch.tensor([0.1, 0.5, 0.9]), "task": ["a", "b", "a"], "init_seed": 7}
                writer.add_stacked(stacked(3, 10 * part + step), runs=names, steps=step, columns=columns)
    return Zoo(folder)


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    network = mlp()
    with ZooWriter(tmp_path / "zoo") as writer:
        uid = writer.add(
            network.state_dict(),
            run="a/b",
            step=3,
            task="digits",
            parent="c/0",
            init_seed=1,
            data_seed=2,
            init_hash="ff",
            hyperparameters={"learning_rate": 0.1, "optimizer": "adam", "nesterov": True},
            validation={"accuracy": 0.5},
            test={"accuracy": torch.tensor(0.25)},
        )
    zoo = Zoo(tmp_path / "zoo")
    row = zoo.index.to_pylist()[0]
    assert uid == row["uid"] == "a/b/3" and row["task"] == "digits" and row["parent"] == "c/0"
    assert (row["init_seed"], row["data_seed"], row["init_hash"]) == (1, 2, "ff")
    assert row["hyperparameters.optimizer"] == "adam" and row["hyperparameters.nesterov"] is True
    assert (row["validation.accuracy"], row["test.accuracy"]) == (0.5, 0.25)
    state = zoo.state_dict(0)
    assert list(state) == list(network.state_dict())
    torch.testing.assert_close(state, dict(network.state_dict()), rtol=0, atol=0)
    mlp().load_state_dict(state)
    assert list(zoo.parameters(0)) == [name for name, _ in network.named_parameters()]
    kinds = {entry.key: (entry.kind, entry.role, entry.transform) for entry in zoo.layout.entries}
    assert kinds["1.running_var"] == ("running_var", "generate", "log")
    assert kinds["1.num_batches_tracked"] == ("num_batches_tracked", "copy", "none")
    zoo.verify()


def test_what_is_added_is_a_copy(tmp_path):
    state = stacked(2)
    before = {key: value.clone() for key, value in state.items()}
    with ZooWriter(tmp_path / "zoo") as writer:
        writer.add_stacked(state, runs=runs(2), steps=0)
        for value in state.values():
            value.zero_()
    torch.testing.assert_close(Zoo(tmp_path / "zoo").stack(), before, rtol=0, atol=0)


def test_buffers_are_no_parameters(tmp_path):
    network = mlp()
    network.register_buffer("scale", torch.ones(3))
    layout = Layout.of(network.state_dict(), buffers=[name for name, _ in network.named_buffers()])
    assert (layout["scale"].kind, layout["scale"].role) == ("buffer", "copy")
    assert layout["1.running_mean"].role == "generate"
    with ZooWriter(tmp_path / "zoo") as writer:
        writer.add(network.state_dict(), run="a", step=0, layout=layout)
    zoo = Zoo(tmp_path / "zoo")
    assert list(zoo.parameters(0)) == [name for name, _ in network.named_parameters()]
    network.load_state_dict(zoo.state_dict(0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool])
def test_types_are_kept(tmp_path, dtype):
    state = {"weight": torch.arange(6).view(2, 3).to(dtype), "scalar": torch.tensor(3).to(dtype)}
    with ZooWriter(tmp_path / "zoo") as writer:
        writer.add(state, run="a", step=0)
    zoo = Zoo(tmp_path / "zoo").verify()
    torch.testing.assert_close(zoo.state_dict(0), state, rtol=0, atol=0)


def test_tied_tensors_are_stored_once(tmp_path):
    network = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    network[1].weight = network[0].weight
    with ZooWriter(tmp_path / "zoo") as writer:
        writer.add(network.state_dict(), run="a", step=0)
    zoo = Zoo(tmp_path / "zoo")
    assert list(zoo.parameters(0)) == ["0.weight"] == [name for name, _ in network.named_parameters()]
    network.load_state_dict(zoo.state_dict(0))


def test_frozen_tensors_are_stored_once(tmp_path):
    backbone = {"backbone.weight": torch.randn(50, 50)}
    states = [{**backbone, "head.weight": torch.full((2, 2), float(i))} for i in range(3)]
    with ZooWriter(tmp_path / "zoo") as writer:
        layout = Layout.of(states[0], frozen=["backbone.*"])
        for i, state in enumerate(states):
            writer.add(state, run=str(i), step=0, layout=layout)
        # Those that follow need not bring it.
        writer.add({"head.weight": torch.ones(2, 2)}, run="light", step=0, layout=layout)
        other = {**states[0], "backbone.weight": torch.zeros(50, 50)}
        with pytest.raises(ParameterError, match="Frozen tensors differ"):
            writer.add(other, run="other", step=0, layout=layout)
        writer.add(other, run="other", step=0, layout=Layout.of(other, frozen="backbone.*"))
    zoo = Zoo(tmp_path / "zoo")
    assert len(zoo.layouts) == 2 and len(list((zoo.folder / "base").iterdir())) == 2
    mine = zoo.select(layout=layout.id)
    assert list(mine.stack()) == ["head.weight"]
    torch.testing.assert_close(mine.parameters(2), states[2], rtol=0, atol=0)
    assert (zoo.folder / "shards").stat().st_size < 50 * 50 * 4


def test_layouts_may_differ(tmp_path):
    with ZooWriter(tmp_path / "zoo") as writer:
        for width in (2, 3):
            writer.add(nn.Linear(3, width).state_dict(), run=f"w{width}", step=0)
    zoo = Zoo(tmp_path / "zoo")
    assert len(zoo.layouts) == 2
    assert [zoo.parameters(i)["weight"].shape[0] for i in range(2)] == [2, 3]
    with pytest.raises(ParameterError, match="2 layouts"):
        zoo.stack()
    assert zoo.select(layout=zoo.layout_of(1).id).stack()["weight"].shape == (1, 3, 3)


def test_stacks_follow_the_order_asked_for(zoo):
    everything = zoo.stack()
    assert everything["weight"].shape == (18, 4, 3)
    chosen = [17, 0, 4, 3]
    torch.testing.assert_close(zoo.stack(chosen)["weight"], everything["weight"][chosen], rtol=0, atol=0)
    assert list(zoo.stack(keys=["bias"])) == ["bias"]
    for position in (0, 10, -1):
        for key, value in zoo.parameters(position).items():
            assert torch.equal(value, everything[key][position])
    torch.testing.assert_close(everything["weight"][9:12], stacked(3, 10)["weight"], rtol=0, atol=0)


def test_selections(zoo):
    assert len(zoo.select(step=10)) == 6 and len(zoo.select(step=[0, 10], task="a")) == 8
    assert set(zoo.select(pc.field("test.accuracy") > 0.7).column("run")) == {"run2", "run5"}
    last = zoo.last()
    assert last.column("step") == [10] * 6 and sorted(last.column("run")) == runs(6)
    torch.testing.assert_close(last.take([2]).parameters(0)["bias"], stacked(3, 10)["bias"][2], rtol=0, atol=0)
    assert len(zoo.take([])) == 0
    with pytest.raises(UnknownNameError, match=r"Did you mean 'task'"):
        zoo.select(taks="a")
    with pytest.raises(ParameterError, match="does not fit"):
        zoo.select(pc.field("nothing") > 1)
    with pytest.raises(IndexError, match="18 checkpoints"):
        zoo.parameters(18)
    with pytest.raises(ParameterError, match="stores no 'wieght'"):
        zoo.stack(keys=["wieght"])


def test_runs_and_tasks_are_split_whole(tmp_path):
    with ZooWriter(tmp_path / "zoo", shares={"train": 0.5, "validation": 0.25, "test": 0.25}) as writer:
        for step in (0, 1):
            columns = {"task": [f"task{i % 50}" for i in range(400)]}
            writer.add_stacked(stacked(400), runs=runs(400), steps=step, columns=columns)
    zoo = Zoo(tmp_path / "zoo")
    for column, split in (("run", "split_run"), ("task", "split_task")):
        pairs = set(zip(zoo.column(column), zoo.column(split), strict=True))
        assert len(pairs) == len(set(zoo.column(column)))
    parts = [zoo.split(name, by="run") for name in ("train", "validation", "test")]
    assert sum(map(len, parts)) == len(zoo)
    assert [len(part) / len(zoo) for part in parts] == pytest.approx([0.5, 0.25, 0.25], abs=0.07)


def test_runs_that_go_on_from_others_share_their_split(tmp_path):
    with ZooWriter(tmp_path / "zoo") as writer:
        writer.add_stacked(stacked(1), runs=["mother"], steps=0, columns={"split_run": "test"})
        for number in range(5):
            writer.add({"weight": torch.zeros(2)}, run=f"child{number}", step=1, parent="mother/0")
        with pytest.raises(ValueError, match="would be in several splits"):
            writer.add({"weight": torch.zeros(2)}, run="mother", step=2, split_run="train")
    # Also when the mother was written before.
    with ZooWriter(tmp_path / "zoo") as writer:
        writer.add({"weight": torch.zeros(2)}, run="late", step=1, parent="mother/0")
    assert set(Zoo(tmp_path / "zoo").column("split_run")) == {"test"}


def test_nothing_is_doubled(tmp_path):
    with ZooWriter(tmp_path / "zoo") as writer:
        writer.add(mlp().state_dict(), run="a", step=0)
        with pytest.raises(CheckpointError, match="holds 'a/0' already"):
            writer.add(mlp().state_dict(), run="a", step=0)
    with ZooWriter(tmp_path / "zoo", on_duplicate="skip") as writer:
        assert writer.add(mlp().state_dict(), run="a", step=0) is None
        assert writer.add_stacked(stacked(3), runs=["a", "b", "c"], steps=0) == ["b/0", "c/0"]
        assert "b/0" in writer
    zoo = Zoo(tmp_path / "zoo")
    assert zoo.column("uid") == ["a/0", "b/0", "c/0"]
    torch.testing.assert_close(zoo.parameters(2)["bias"], stacked(3)["bias"][2], rtol=0, atol=0)
    with pytest.raises(CheckpointError, match="same run and step"), ZooWriter(tmp_path / "zoo") as writer:
        writer.add_stacked(stacked(2), runs=["d", "d"], steps=0)


def test_two_writers_at_once_lose_nothing(tmp_path):
    first, second = ZooWriter(tmp_path / "zoo"), ZooWriter(tmp_path / "zoo")
    first.add(mlp().state_dict(), run="first", step=0)
    second.add(mlp().state_dict(), run="second", step=0)
    second.close()
    first.close()
    assert sorted(Zoo(tmp_path / "zoo").column("run")) == ["first", "second"]


def test_a_zoo_that_is_being_written_can_be_read(tmp_path):
    writer = ZooWriter(tmp_path / "zoo", shard_rows=2)
    for step in range(5):
        writer.add(mlp().state_dict(), run="a", step=step)
    assert Zoo(tmp_path / "zoo").column("step") == [0, 1, 2, 3] or len(Zoo(tmp_path / "zoo")) == 4
    writer.close()
    assert sorted(Zoo(tmp_path / "zoo").column("step")) == [0, 1, 2, 3, 4]


def test_the_index_can_be_made_again(zoo):
    before = zoo.index.sort_by("uid").to_pydict()
    (zoo.folder / "index.parquet").unlink()
    assert Zoo(zoo.folder).index.sort_by("uid").select(list(before)).to_pydict() == before
    with ZooWriter(zoo.folder):
        pass
    assert (zoo.folder / "index.parquet").exists()
    (zoo.folder / "index.parquet").write_bytes(b"PAR1 what is this PAR1")
    assert Zoo(zoo.folder).index.sort_by("uid").select(list(before)).to_pydict() == before
    with ZooWriter(zoo.folder):
        pass
    assert Zoo(zoo.folder).index.sort_by("uid").select(list(before)).to_pydict() == before


def test_not_finite_checkpoints_are_marked(tmp_path):
    state = stacked(3)
    state["bias"][1, 2] = torch.inf
    with ZooWriter(tmp_path / "zoo") as writer:
        writer.add_stacked(state, runs=runs(3), steps=0)
    assert Zoo(tmp_path / "zoo").column("finite") == [True, False, True]


def test_a_truncated_shard_is_named_and_skipped_on_request(zoo):
    shard = zoo.folder / "shards" / zoo.column("shard")[0]
    content = shard.read_bytes()
    shard.write_bytes(content[:-100])
    with pytest.raises(CheckpointError, match=rf"{shard.name}.* truncated or damaged"):
        Zoo(zoo.folder)
    with pytest.warns(UserWarning, match=rf"{shard.name}.*9 checkpoints.*skipped"):
        rest = Zoo(zoo.folder, on_corrupt="skip")
    assert list(rest.skipped) == [shard.name]
    assert sorted(set(rest.column("run"))) == ["run3", "run4", "run5"]
    rest.stack()
    shard.unlink()
    with pytest.raises(CheckpointError, match=rf"{shard.name}.* is missing"):
        Zoo(zoo.folder)


def test_a_damaged_shard_that_the_index_does_not_know_is_named(zoo):
    (zoo.folder / "shards" / "stray.safetensors").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match=r"stray.safetensors"):
        Zoo(zoo.folder)
    with pytest.warns(UserWarning, match=r"stray.safetensors"):
        assert len(Zoo(zoo.folder, on_corrupt="skip")) == 18


def test_changed_values_are_found_and_skipped_on_request(zoo):
    shard = zoo.folder / "shards" / zoo.column("shard")[-1]
    content = bytearray(shard.read_bytes())
    content[-3] ^= 64
    shard.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"1 checkpoints .*{shard.name}: run5/10"):
        Zoo(zoo.folder).verify()
    with pytest.warns(UserWarning, match="run5/10"):
        rest = Zoo(zoo.folder, on_corrupt="skip").verify()
    assert len(rest) == 17 and "run5/10" not in rest.column("uid")


def test_misfits_are_named(tmp_path):
    with ZooWriter(tmp_path / "zoo") as writer:
        layout = Layout.of(mlp().state_dict())
        short = {key: value for key, value in mlp().state_dict().items() if key != "3.bias"}
        with pytest.raises(ParameterError, match=r"missing: 3\.bias"):
            writer.add(short, run="a", step=0, layout=layout)
        wide = {**mlp().state_dict(), "3.bias": torch.zeros(5)}
        with pytest.raises(ParameterError, match=r"'3\.bias' is \[1, 5\].*\[1, 2\]"):
            writer.add(wide, run="a", step=0, layout=layout)
        with pytest.raises(ParameterError, match="'x' is a list"):
            writer.add({"x": [1]}, run="a", step=0)
        with pytest.raises(ParameterError, match=r"'task' has 2 values for 3"):
            writer.add_stacked(stacked(3), runs=runs(3), steps=0, columns={"task": ["a", "b"]})
        with pytest.raises(ParameterError, match=r"'backbone\.\*' names no tensor"):
            Layout.of(mlp().state_dict(), frozen=["backbone.*"])
    assert len(Zoo(tmp_path / "zoo")) == 0


def test_columns_of_two_types_are_named(tmp_path):
    for number, value in enumerate((0.1, "fast")):
        with ZooWriter(tmp_path / f"{number}") as writer:
            writer.add(mlp().state_dict(), run=str(number), step=0, hyperparameters={"rate": value})
    with pytest.raises(ParameterError, match="rate"), ZooWriter(tmp_path / "0") as writer:
        writer.add(mlp().state_dict(), run="other", step=0, hyperparameters={"rate": "fast"})
    assert len(Zoo(tmp_path / "0")) == 1 and len(ZooWriter(tmp_path / "0")) == 1


def test_what_is_no_zoo_is_said_to_be_none(tmp_path):
    with pytest.raises(CheckpointError, match=r"no zoo\.json"):
        Zoo(tmp_path)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CheckpointError, match="neither a zoo"):
        ZooWriter(tmp_path)
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo/.zoo.json.123").write_text("{")  # left by a writer that was killed at once
    ZooWriter(tmp_path / "zoo").close()
    (tmp_path / "zoo" / "zoo.json").write_text(json.dumps({"format": "hypergen zoo", "version": 2}))
    with pytest.raises(CheckpointError, match="version 2; .* Upgrade"):
        Zoo(tmp_path / "zoo")


def test_tasks_are_described(zoo):
    with ZooWriter(zoo.folder) as writer:
        writer.add_task("a/b c", {"labels": [0, 1]})
        writer.add_task("a/b c", {"labels": [0, 1]})
        with pytest.raises(CheckpointError, match="describes another task"):
            writer.add_task("a/b c", {"labels": [1, 1]})
    assert Zoo(zoo.folder).tasks == {"a/b c": {"labels": [0, 1]}}


def test_a_full_disk_leaves_a_readable_zoo(zoo, full_disk):
    with full_disk(), pytest.raises(HypergenError, match="could not be written"), ZooWriter(zoo.folder) as writer:
        writer.add_stacked(stacked(500), runs=[f"new{i}" for i in range(500)], steps=0)
    again = Zoo(zoo.folder).verify()
    assert len(again) == 18 and not list((zoo.folder / "shards").glob(".*"))


def test_a_zoo_survives_pickling(zoo):
    import pickle

    copy = pickle.loads(pickle.dumps(zoo.select(step=5)))
    torch.testing.assert_close(copy.stack(), zoo.select(step=5).stack(), rtol=0, atol=0)


def resident():
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return sum(int(status[key].split()[0]) for key in ("RssAnon", "RssFile", "RssShmem")) * 1024


def measure(folder):
    """By how much reading grows the memory of this process; what is read is kept."""
    zoo = Zoo(folder)
    zoo.take([0]).stack(keys=["small"])  # libraries that load at first use
    reads = {
        "key": lambda: zoo.stack(keys=["small"]),
        "column": lambda: zoo.column("run"),
        "one": lambda: zoo.parameters(7),
        "two": lambda: zoo.stack([3, 60]),
        "all": zoo.stack,
    }
    kept, grown = [], {}
    for name, read in reads.items():
        before = resident()
        kept.append(read())
        grown[name] = resident() - before
    return grown


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_one_checkpoint_or_column_never_loads_the_shard(tmp_path):
    """A shard of 64 checkpoints of 1 MB each, read in a process of its own."""
    size = 2**20
    with ZooWriter(tmp_path / "zoo") as writer:
        state = {"big": torch.ones(64, size // 4), "small": torch.arange(64.0).view(64, 1)}
        writer.add_stacked(state, runs=runs(64), steps=0)
    # Not a fork of this process, which would read into memory that it has free already.
    grown = in_fresh_process(measure, tmp_path / "zoo")
    assert grown["key"] < size and grown["column"] < size
    # Itself, the pages of the file that it came from, and those around that the system maps with them.
    assert grown["one"] < 6 * size and grown["two"] < 12 * size
    assert grown["all"] > 64 * size
