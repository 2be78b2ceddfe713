import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import hypergen
from hypergen.api.disk import predict_to_disk
from hypergen.api.shards import INDEX, JOURNAL, parse_size, plan_shards
from hypergen.errors import ParameterError
from hypergen.generators import load_generator


class Net(nn.Module):
    """Tied, unused and transposed parameters, vectors, a kernel and an embedding."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(300, 32)
        self.conv = nn.Conv1d(32, 48, 3)
        self.back = nn.ConvTranspose1d(48, 32, 3, groups=2)
        self.norm = nn.LayerNorm(32)
        self.out = nn.Linear(32, 300, bias=False)
        self.out.weight = self.embedding.weight
        self.spare = nn.Parameter(torch.ones(3))

    def forward(self, tokens):
        x = self.back(self.conv(self.embedding(tokens).transpose(1, 2)).relu())
        return self.out(self.norm(x.transpose(1, 2)))


TOKENS = torch.zeros(1, 8, dtype=torch.int64)


def _write(folder, **options):
    with torch.device("meta"):
        net = Net()
    return predict_to_disk(net, "digits-ghn", folder, example_inputs=TOKENS, progress=False, **options)


def _read(folder, files):
    return {name: value for file in files for name, value in load_file(folder / file).items()}


@pytest.mark.parametrize("size", ["10KB", "1GB"])
def test_the_files_hold_what_predict_params_gives(tmp_path, size):
    report = _write(tmp_path / "out", max_shard_size=size)
    written = _read(report.folder, report.files)
    expected = hypergen.predict_params(Net(), example_inputs=TOKENS)
    assert list(written) != [] and written.keys() == expected.keys() == set(report.predicted)
    for name, value in expected.items():
        torch.testing.assert_close(written[name], value, rtol=1e-4, atol=1e-5)
    assert report.left_out == ("spare",)
    assert report.values == sum(value.numel() for value in expected.values())
    assert report.size == sum((report.folder / file).stat().st_size for file in report.files)
    assert not (report.folder / JOURNAL).exists()
    if size == "1GB":
        assert report.files == ("model.safetensors",)
        assert not (report.folder / INDEX).exists()
    else:
        index = json.loads((report.folder / INDEX).read_text())
        assert len(report.files) > 2
        assert index["metadata"]["total_size"] == 4 * report.values
        assert all(name in load_file(report.folder / file) for name, file in index["weight_map"].items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_values_are_rounded_to_the_data_type(tmp_path, dtype):
    full, half = _write(tmp_path / "full"), _write(tmp_path / "half", dtype=dtype)
    values = _read(full.folder, full.files)
    for name, value in _read(half.folder, half.files).items():
        assert value.dtype == dtype
        assert torch.equal(value, values[name].to(dtype))


def test_values_that_are_too_large_for_the_data_type_are_refused(monkeypatch, tmp_path):
    generator = load_generator("digits-ghn")
    decode = generator.decode
    monkeypatch.setattr(generator, "decode", lambda *arguments: tuple(1e9 * flat for flat in decode(*arguments)))
    with torch.device("meta"):
        net = Net()
    with pytest.raises(ParameterError, match=r"\.\w+' are too large for float16"):
        predict_to_disk(net, generator, tmp_path, example_inputs=TOKENS, progress=False, dtype=torch.float16)
    assert not list(tmp_path.glob("*.safetensors"))


def test_one_portion_is_in_memory_at_a_time(monkeypatch, tmp_path):
    monkeypatch.setattr("hypergen.api.disk._VALUES_AT_A_TIME", 1)
    generator = load_generator("digits-ghn")
    sizes = []
    decode = generator.decode

    def watched(nodes, batch):
        sizes.append([layout.total for layout in batch.layouts])
        return decode(nodes, batch)

    monkeypatch.setattr(generator, "decode", watched)
    with torch.device("meta"):
        net = Net()
    report = predict_to_disk(net, generator, tmp_path / "out", example_inputs=TOKENS, progress=False)
    assert sorted(total for (total,) in sizes) == sorted(
        value.numel() for value in _read(report.folder, report.files).values()
    )


def test_transformers_loads_the_folder(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=100, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    predict_to_disk(model, "digits-ghn", tmp_path, dtype=torch.bfloat16, max_shard_size="20KB", progress=False)
    loaded, info = LlamaForCausalLM.from_pretrained(tmp_path, output_loading_info=True, dtype=torch.bfloat16)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    expected = hypergen.predict_params(LlamaForCausalLM(config))
    for name, value in loaded.named_parameters():
        torch.testing.assert_close(value.float(), expected[name], rtol=0.01, atol=1e-3)


def test_goes_on_after_the_whole_files_of_a_call_that_was_killed(tmp_path):
    folder = tmp_path / "out"
    code = f"""
import sys, time, torch
torch.set_num_threads({torch.get_num_threads()})  # Another number adds up in another order.
sys.path[:0] = {[str(path) for path in sys.path if path]!r}
from hypergen.api import shards
from tests_net import write
slow = shards.os.replace
def replace(source, target):
    slow(source, target)
    time.sleep(0.3)
shards.os.replace = replace
write({str(folder)!r})
"""
    (tmp_path / "tests_net.py").write_text(
        f"import importlib.util\nspec = importlib.util.spec_from_file_location('t', {__file__!r})\n"
        "t = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(t)\n"
        "from pathlib import Path\nwrite = lambda folder: t._write(Path(folder), max_shard_size='10KB')\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(tmp_path)})
    deadline = time.monotonic() + 240
    while not list(folder.glob("*.safetensors")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    whole = {file.name: file.stat().st_mtime_ns for file in folder.glob("*.safetensors")}
    assert whole and not (folder / INDEX).exists()
    report = _write(folder, max_shard_size="10KB")
    assert report.resumed == tuple(sorted(whole))
    assert all((folder / name).stat().st_mtime_ns == time for name, time in whole.items())
    assert sorted(path.name for path in folder.iterdir()) == sorted([*report.files, INDEX])
    fresh = _write(tmp_path / "fresh", max_shard_size="10KB")
    again, expected = _read(folder, report.files), _read(fresh.folder, fresh.files)
    assert all(torch.equal(again[name], value) for name, value in expected.items())


def test_a_full_disk_leaves_no_half_file(tmp_path, full_disk):
    folder = tmp_path / "out"
    with full_disk(9000), pytest.raises(ParameterError, match="could not be written.*go on after"):
        _write(folder, max_shard_size="10KB")
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".safetensors"}
    for file in folder.glob("*.safetensors"):
        load_file(file)
    assert not (folder / INDEX).exists()
    _write(folder, max_shard_size="10KB")
    assert (folder / INDEX).exists()


def test_a_disk_without_room_is_told_before_anything_is_written(monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=5))
    with pytest.raises(ParameterError, match="takes .* more bytes, and the disk .* has 5 free"):
        _write(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_files_are_not_touched(tmp_path):
    (tmp_path / "model.safetensors").write_text("mine")
    with pytest.raises(ParameterError, match="already holds model.safetensors"):
        _write(tmp_path)
    assert (tmp_path / "model.safetensors").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1


def test_another_generator_does_not_go_on(tmp_path):
    folder = tmp_path / "out"
    _write(folder, max_shard_size="10KB")
    (folder / INDEX).unlink()
    (folder / JOURNAL).write_text("another")
    with pytest.raises(ParameterError, match="already holds"):
        _write(folder, max_shard_size="10KB")


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(ParameterError, match="is a file"):
        _write(tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "size"), [("5GB", 5 * 10**9), ("500MiB", 500 * 2**20), ("1.5k", 1500), (7, 7), ("7", 7)]
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1", 0, "5 apples", None])
def test_no_sizes(text):
    with pytest.raises(ParameterError, match="is no size"):
        parse_size(text)


def test_only_floating_types_are_written(tmp_path):
    with pytest.raises(ParameterError, match="choose one of torch.float32"):
        _write(tmp_path / "out", dtype=torch.int8)


def test_a_large_parameter_gets_a_file_of_its_own():
    shards = plan_shards({"a": (2,), "b": (100,), "c": (2,), "d": (2,)}, torch.float32, 16)
    assert [shard.names for shard in shards] == [("a",), ("b",), ("c", "d")]


def test_buffers_are_written_so_that_the_folder_loads_strictly(tmp_path):
    def make():
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.BatchNorm2d(8, affine=False))

    with torch.device("meta"):
        empty = make()
    inputs = torch.zeros(1, 3, 8, 8)
    report = predict_to_disk(empty, "digits-ghn", tmp_path / "new", example_inputs=inputs, progress=False)
    trained = make()
    trained[1](torch.randn(4, 8, 5, 5))
    trained[3].running_var.fill_(7.0)
    predict_to_disk(
        trained, "digits-ghn", tmp_path / "own", example_inputs=inputs, progress=False, max_shard_size="50B"
    )
    new, own = make(), make()
    new.load_state_dict(_read(report.folder, report.files))
    own.load_state_dict(_read(tmp_path / "own", [path.name for path in (tmp_path / "own").glob("*.safetensors")]))
    assert not report.left_out and len(report.buffers) == 6
    assert new[1].num_batches_tracked.dtype == torch.int64 and own[1].num_batches_tracked == 1
    for name, buffer in own.named_buffers():
        torch.testing.assert_close(buffer, dict(trained.named_buffers())[name])
    for name, buffer in new.named_buffers():
        torch.testing.assert_close(buffer, dict(make().named_buffers())[name])


def test_buffers_whose_values_are_not_known_are_named(tmp_path):
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)
            self.register_buffer("table", torch.arange(3.0))

        def forward(self, x):
            return self.linear(x) + self.table

    with torch.device("meta"):
        net = Table()
    report = predict_to_disk(net, "digits-ghn", tmp_path, example_inputs=torch.zeros(1, 3), progress=False)
    assert report.left_out == ("table",) and report.buffers == ()
