import argparse
import collections
import pathlib
import zipfile

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from hypergen.errors import CheckpointError
from hypergen.functional.checkpoint_files import read_tensor_file
from hypergen.functional.files import FolderLock, inside, parse_json

ran = []


class Evil:
    def __reduce__(self):
        return ran.append, ("evil",)


class Own:
    pass


def saved(content, tmp_path):
    torch.save(content, tmp_path / "a.pt")
    return read_tensor_file(tmp_path / "a.pt")


def test_plain_values_of_known_classes_are_read(tmp_path):
    config = OmegaConf.create({"lr": 0.1, "sizes": [1, 2], "nested": {"name": "x"}})
    read = saved(
        {
            "state": {"w": torch.ones(2)},
            "best": np.float64(71.2),
            "flag": np.bool_(True),
            "args": argparse.Namespace(lr=0.1, out=pathlib.Path("/a/b")),
            "config": config,
            "counts": collections.defaultdict(int, {"a": 1}),
        },
        tmp_path,
    )
    torch.testing.assert_close(read["state"]["w"], torch.ones(2))
    assert read["best"] == 71.2 and read["flag"] is True
    assert read["args"] == {"lr": 0.1, "out": "/a/b"}
    assert read["config"] == {"lr": 0.1, "sizes": [1, 2], "nested": {"name": "x"}}
    assert read["counts"] == {"a": 1}


@pytest.mark.parametrize(
    ("content", "name"), [(Evil(), "builtins"), (Own(), "Own"), (np.random.default_rng(0), "numpy")]
)
def test_other_classes_are_refused_by_name_and_never_run(tmp_path, content, name):
    with pytest.raises(CheckpointError, match=name) as error:
        saved({"w": torch.ones(1), "x": content}, tmp_path)
    assert not ran and "\x1b" not in str(error.value) and "weights_only" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer.*git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "web page"),
        (b"PK\x03\x04 half", "damaged or truncated"),
        (b"any text", "no file of torch.save|damaged or truncated"),
    ],
)
def test_files_are_called_what_they_are(tmp_path, content, message):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_tensor_file(tmp_path / "a.pt")


def test_archives_that_inflate_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(100 * 2**20))
    with pytest.raises(CheckpointError, match="would unpack to"):
        read_tensor_file(tmp_path / "a.pt")


def test_json_that_is_nested_too_deeply():
    with pytest.raises(CheckpointError, match="nested too deeply"):
        parse_json("[" * 200_000, "It")


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "..", ".hidden", "", "a\x00", None, "a\\b"])
def test_names_stay_in_their_folder(tmp_path, name):
    with pytest.raises(CheckpointError, match="names the file"):
        inside(tmp_path, name, "It")
    assert inside(tmp_path, "model-1.safetensors", "It").parent == tmp_path


def test_a_folder_has_one_writer_at_a_time(tmp_path):
    first, second = FolderLock(tmp_path, "run"), FolderLock(tmp_path, "run")
    assert first.acquire() is None
    assert "process" in second.acquire()
    first.release()
    assert second.acquire() is None
    second.release()
