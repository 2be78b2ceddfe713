"""Nothing that is added to a zoo, or lies in one, makes it unreadable for others."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hypergen.errors import CheckpointError, HypergenError, ParameterError
from hypergen.zoo import Layout, Zoo, ZooWriter


def state():
    return nn.Linear(3, 2).state_dict()


@pytest.fixture
def folder(tmp_path):
    with ZooWriter(tmp_path / "zoo") as writer:
        for number in range(3):
            writer.add(state(), run=f"r{number}", step=0, hyperparameters={"dropout": 0.1, "norm": True, "name": "a"})
    return tmp_path / "zoo"


POISON = {
    "text where numbers are": {"hyperparameters": {"dropout": "none"}},
    "number where text is": {"hyperparameters": {"name": 3}},
    "text where truth values are": {"hyperparameters": {"norm": "batch"}},
    "a list": {"hyperparameters": {"widths": [1, 2]}},
    "an object": {"hyperparameters": {"x": object()}},
    "many values": {"hyperparameters": {"x": np.ones(3)}},
    "a number without bound": {"hyperparameters": {"x": 10**400}},
    "half a character": {"hyperparameters": {"x": "\ud800"}},
    "half a character in a name": {"hyperparameters": {"\ud800": 1}},
    "a name that is none": {"hyperparameters": {"": 1}},
    "run of another kind": {"run": 5},
    "no run": {"run": ""},
    "step of another kind": {"step": "last"},
    "half a step": {"step": 0.5},
    "a step of too many bits": {"step": 2**70},
    "a seed of another kind": {"init_seed": "seven"},
    "a split that is none": {"split_run": "holdout"},
    "a task's split that is none": {"split_task": 3},
    "a task of another kind": {"task": 7},
    "a parent of another kind": {"parent": 7},
    "complex metrics": {"validation": {"loss": 1j}},
    "bytes": {"test": {"name": b"x"}},
    "metadata that JSON lacks": {"layout": Layout.of(state(), metadata={"x": {1, 2}})},
}


@pytest.mark.parametrize("title", POISON)
def test_an_entry_is_checked_before_it_is_gathered(folder, title):
    writer = ZooWriter(folder)
    with pytest.raises(HypergenError):
        # A layout of its own, as one that the zoo holds is not written again.
        wide = {"layout": POISON[title]["layout"]} if "layout" in POISON[title] else {}
        changed = {key: value for key, value in POISON[title].items() if key != "layout"}
        if wide:
            shutil.rmtree(folder / "layouts")
            (folder / "layouts").mkdir()
            writer = ZooWriter(folder)
        writer.add(state(), **{"run": "new", "step": 1, **changed, **wide})
    if "layout" in POISON[title]:
        return
    writer.add(state(), run="after", step=1)
    writer.close()
    assert len(Zoo(folder)) == len(Zoo(folder, on_corrupt="skip")) == len(ZooWriter(folder)) == 4


def test_own_and_unknown_columns_are_refused(folder):
    stacked = {key: value.unsqueeze(0) for key, value in state().items()}
    for name in ("uid", "shard", "row", "sha256", "finite", "layout", "loss", "hyperparameters.", "other.loss"):
        with ZooWriter(folder) as writer, pytest.raises(ParameterError, match=name):
            writer.add_stacked(stacked, runs=["new"], steps=0, columns={name: 1.0})
    assert len(Zoo(folder)) == 3


@pytest.mark.parametrize("content", [b"", b"no shard", b"version https://git-lfs.github.com/spec/v1\n", b"<html>"])
def test_a_file_that_is_no_shard(folder, content):
    (folder / "shards/bad.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"bad\.safetensors"):
        Zoo(folder)
    with pytest.warns(UserWarning, match=r"bad\.safetensors"):
        assert len(Zoo(folder, on_corrupt="skip")) == 3
    with pytest.warns(UserWarning, match=r"bad\.safetensors"), ZooWriter(folder) as writer:
        writer.add(state(), run="new", step=0)
    with pytest.warns(UserWarning, match=r"bad\.safetensors"):
        assert len(Zoo(folder, on_corrupt="skip")) == 4


@pytest.mark.parametrize(
    "change",
    [{"step": ["x"]}, {"uid": [None]}, {"run": [1, 2]}, {"hyperparameters.dropout": [[1]]}, {"layout": ["../../etc"]}],
)
def test_rows_of_a_shard_are_not_believed(folder, change):
    layout = next((folder / "layouts").glob("*.json")).stem
    rows = {"uid": ["x/0"], "run": ["x"], "step": [0], "layout": [layout], "shard": ["../../x"], "row": [99]} | change
    tensors = {key: value.unsqueeze(0) for key, value in state().items()}
    save_file(tensors, folder / "shards/bad.safetensors", {"rows": json.dumps(rows)})
    with pytest.warns(UserWarning, match=r"bad\.safetensors"):
        assert len(Zoo(folder, on_corrupt="skip")) == 3
    assert len(ZooWriter(folder)) >= 3


def test_names_and_places_in_a_shard_are_its_own(folder):
    layout = next((folder / "layouts").glob("*.json")).stem
    rows = {"uid": ["x/0"], "run": ["x"], "step": [0], "layout": [layout], "shard": ["../../x"], "row": [99]}
    tensors = {key: value.unsqueeze(0) for key, value in state().items()}
    save_file(tensors, folder / "shards/good.safetensors", {"rows": json.dumps(rows)})
    zoo = Zoo(folder)
    assert len(zoo) == 4 and zoo.select(uid="x/0").column("shard") == ["good.safetensors"]
    torch.testing.assert_close(zoo.select(uid="x/0").state_dict(0)["bias"], tensors["bias"][0])


def test_sizes_are_compared_with_headers_before_reading(folder):
    layout = next((folder / "layouts").glob("*.json")).stem
    rows = {"uid": ["x/0"], "run": ["x"], "step": [0], "layout": [layout]}
    save_file(
        {"weight": torch.zeros(1, 9), "bias": torch.zeros(1, 2)},
        folder / "shards/a.safetensors",
        {"rows": json.dumps(rows)},
    )
    with pytest.raises(CheckpointError, match=r"a\.safetensors.*'weight' as \[1, 9\].*expects \[1, 2, 3\]"):
        Zoo(folder).select(uid="x/0").state_dict(0)


def test_layouts_that_are_damaged_cost_only_their_own_checkpoints(folder):
    with ZooWriter(folder) as writer:
        writer.add(nn.Linear(4, 4).state_dict(), run="other", step=0)
    other = Zoo(folder).select(run="other").layout.id
    (folder / "layouts" / f"{other}.json").write_text("[" * 200_000)
    with pytest.raises(CheckpointError, match=other):
        Zoo(folder)
    with pytest.warns(UserWarning, match=other):
        assert len(Zoo(folder, on_corrupt="skip")) == 3


def test_a_base_stays_in_its_folder(folder):
    with pytest.raises(ParameterError, match="expected a sha256"):
        Layout(Layout.of(state()).entries, base="../../../secret")


def test_a_shard_that_was_copied_doubles_nothing(folder):
    shard = next((folder / "shards").glob("*.safetensors"))
    shutil.copy(shard, folder / "shards/copy.safetensors")
    with pytest.warns(UserWarning, match="two shards"):
        assert len(Zoo(folder)) == 3


def test_writers_at_once_double_nothing(folder):
    first, second = ZooWriter(folder), ZooWriter(folder)
    for writer in (first, second):
        writer.add(state(), run="same", step=0)
        writer.add(state(), run=f"own{id(writer)}", step=0)
    first.close()
    with pytest.raises(CheckpointError, match="Another writer has added 'same/0'"):
        second.close()
    assert sorted(Zoo(folder).column("uid")) == sorted({*Zoo(folder).column("uid")}) and len(Zoo(folder)) == 6


def test_what_killed_writers_left_is_removed(folder):
    (folder / "shards/.000009-abc.safetensors.12345").write_bytes(b"half")
    ZooWriter(folder)
    assert not list(folder.rglob(".*"))


def test_float8_checkpoints_are_kept(tmp_path):
    with ZooWriter(tmp_path / "zoo") as writer:
        for number in range(2):
            writer.add({"w": torch.ones(2, 2).to(torch.float8_e4m3fn)}, run=f"r{number}", step=0)
    assert Zoo(tmp_path / "zoo").stack()["w"].dtype == torch.float8_e4m3fn
    assert Zoo(tmp_path / "zoo").column("finite") == [True, True]


@pytest.mark.parametrize(
    "value",
    [torch.ones(2, 2).to_sparse(), torch.ones(2, device="meta"), torch.ones(1).expand(10**9), torch.ones(1) * 1j],
)
def test_tensors_without_values_of_their_own(tmp_path, value):
    if value.is_complex():
        value = value.to(torch.complex128)
    with ZooWriter(tmp_path / "zoo") as writer, pytest.raises(ParameterError, match="'w'"):
        writer.add({"w": value}, run="r", step=0)
