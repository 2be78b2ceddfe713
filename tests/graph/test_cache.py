import copy
import importlib
import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import hypergen
from hypergen.graph import ComputationalGraph, trace
from hypergen.graph.cache.cache import cache_folder, load_graph, save_graph
from hypergen.graph.cache.fingerprint import UnknownContentError, fingerprint
from hypergen.graph.calls import Calls

ROOT = Path(hypergen.__file__).parents[1]


class Net(nn.Module):
    def __init__(self, width=8, depth=2):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.register_buffer("steps", torch.arange(3))
        self.settings = {"scale": 0.5, "axes": (1,)}
        self.skip = True

    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x)) + x if self.skip else layer(x)
        return self.norm(x)[:, : self.steps.numel()].mean(dim=self.settings["axes"])


INPUTS = torch.zeros(1, 8)


def same(one, other):
    for field in fields(ComputationalGraph):
        mine, yours = getattr(one, field.name), getattr(other, field.name)
        if isinstance(mine, torch.Tensor):
            assert torch.equal(mine, yours) and mine.dtype == yours.dtype, field.name
        elif isinstance(mine, Calls):
            for part in fields(Calls):
                assert getattr(mine, part.name) == getattr(yours, part.name), part.name
        else:
            assert mine == yours, field.name
    for mine, yours in zip(one.nodes, other.nodes, strict=True):  # equal is not enough: (1, 1) and Size, 1 and True
        assert repr(mine) == repr(yours)


@pytest.fixture
def count_traces(monkeypatch):
    """How often a network was really traced."""
    module = sys.modules["hypergen.graph.tracing.trace"]
    climb, traced = module._climb, []
    monkeypatch.setattr(module, "_climb", lambda *arguments: traced.append(1) or climb(*arguments))
    return traced


def test_the_second_trace_is_read(tmp_path, count_traces):
    first = trace(Net(), INPUTS, cache=tmp_path)
    second = trace(Net(), INPUTS, cache=tmp_path)  # another network of the same structure
    assert len(count_traces) == 1
    same(first, second)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:swin_tiny_patch4_window7_224", "hf:gpt2", "hf:t5"])
def test_every_field_survives(name, tmp_path):
    pytest.importorskip("transformers")
    pytest.importorskip("timm")
    from hypergen.architectures.by_name import build_model

    model = build_model(name)
    graph = trace(model)
    save_graph(graph, tmp_path / "graph.json", "key")
    again = load_graph(tmp_path / "graph.json", "key")
    same(graph, again)
    same(again, copy.deepcopy(again))
    fingerprint(model)  # real libraries' networks can be hashed


def test_symmetry_of_a_stored_graph(tmp_path):
    graphs = [trace(Net(), INPUTS, cache=tmp_path) for _ in range(2)]
    assert repr(graphs[0].symmetry()) == repr(graphs[1].symmetry())


def changed(change):
    net = Net()
    change(net)
    return net


CHANGES = {
    "width": lambda net: net.layers.__setitem__(0, nn.Linear(8, 8, bias=False)),
    "attribute": lambda net: setattr(net, "skip", False),
    "setting": lambda net: net.settings.update(axes=(0, 1)),
    "equal but another type": lambda net: setattr(net, "skip", 1),
    "tying": lambda net: setattr(net.layers[1], "weight", net.layers[0].weight),
    "dtype": lambda net: net.double(),
    "name": lambda net: net.add_module("extra", nn.Identity()),
    "class": lambda net: setattr(net, "norm", nn.RMSNorm(8)),
    "buffer": lambda net: net.steps.add_(1),
    "hook": lambda net: net.norm.register_forward_hook(lambda module, args, output: output * 2),
    "parametrization": lambda net: parametrizations.weight_norm(net.layers[0]),
    "method": lambda net: setattr(net.norm, "forward", lambda x: x),
    "order": lambda net: net._modules.move_to_end("layers") if hasattr(net._modules, "move_to_end") else reorder(net),
}


def reorder(net):
    net._modules["layers"] = net._modules.pop("layers")


@pytest.mark.parametrize("change", CHANGES)
def test_what_may_change_the_graph_changes_the_key(change):
    key = fingerprint(Net(), (INPUTS,))
    assert fingerprint(Net(), (INPUTS,)) == key
    assert fingerprint(changed(CHANGES[change]), (INPUTS,)) != key


def test_inputs_belong_to_the_key():
    net = Net()
    keys = [
        fingerprint(net, (INPUTS,)),
        fingerprint(net, (torch.zeros(2, 8),)),
        fingerprint(net, (INPUTS.double(),)),
        fingerprint(net, (), {"x": INPUTS}),
        fingerprint(net, (torch.zeros(1, 8, dtype=torch.int64),)),
        fingerprint(net, (torch.ones(1, 8, dtype=torch.int64),)),  # integers may decide
        fingerprint(net, (INPUTS.to("meta"),)),
    ]
    assert len(set(keys)) == len(keys)


def test_what_decides_nothing_is_not_in_the_key():
    net = Net()
    key = fingerprint(net, (INPUTS,))
    net.eval()
    nn.init.normal_(net.layers[0].weight)
    assert fingerprint(net, (INPUTS,)) == key
    handle = net.register_forward_hook(print)
    handle.remove()
    assert fingerprint(net, (INPUTS,)) == key


MODULE = """
import {imported}
import torch
from torch import nn
FACTOR = {factor}

def helper(x):
    return {body}

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return helper(self.layer(x)) * FACTOR
"""


@pytest.fixture
def key_of(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)

    def key(body="x.relu()", factor="2", imported="math"):
        """As after an edit and a new start."""
        (tmp_path / "edited_net.py").write_text(MODULE.format(body=body, factor=factor, imported=imported))
        monkeypatch.delitem(sys.modules, "edited_net", raising=False)
        importlib.invalidate_caches()
        sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
        try:
            return fingerprint(importlib.import_module("edited_net").Net())
        finally:
            sys.dont_write_bytecode = before

    return key


def test_edited_code_changes_the_key(key_of, tmp_path):
    key = key_of()
    assert len({key, key_of(body="x.tanh()"), key_of(factor="3")}) == 3
    assert key_of() == key
    code = "import edited_net, hypergen.graph.cache.fingerprint as f; print(f.fingerprint(edited_net.Net()))"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert done.stdout.strip() == key, done.stderr  # the same in every process


def test_code_that_looks_beyond_the_network_has_no_key(key_of):
    for body, imported in (("x * random.random()", "random"), ("x * len(os.listdir())", "os"), ("eval('x')", "math")):
        with pytest.raises(UnknownContentError, match="random|os|eval"):
            key_of(body=body, imported=imported)


@pytest.mark.parametrize(
    "thing", [open, torch.Generator(), object, iter([]), {1: {object()}}, os], ids=lambda thing: type(thing).__name__
)
def test_unknown_content_is_traced_every_time(thing, tmp_path, count_traces):
    net = Net()
    net.thing = thing if thing is not object else memoryview(b"")
    with pytest.raises(UnknownContentError, match="thing"):
        fingerprint(net)
    for _ in range(2):
        trace(net, INPUTS, cache=tmp_path)
    assert len(count_traces) == 2 and not list(tmp_path.iterdir())


def test_closures_are_read():
    def hook(factor):
        return lambda module, args, output: output * factor

    def key(factor):
        net = Net()
        net.norm.register_forward_hook(hook(factor))
        return fingerprint(net)

    assert key(2) == key(2) != key(3)
    with pytest.raises(UnknownContentError):
        key(iter([]))


def test_values_of_parameters_never_decide_a_stored_graph(tmp_path, count_traces):
    class Branching(nn.Module):
        def __init__(self, value):
            super().__init__()
            self.value = nn.Parameter(torch.tensor(value))

        def forward(self, x):
            return (x * self.value).relu() if self.value.item() > 0 else x * self.value

    up, down = (trace(Branching(value), INPUTS, cache=tmp_path) for value in (1.0, -1.0))
    assert up.rung == "real" and len(up.nodes) == len(down.nodes) + 1
    assert len(count_traces) == 2 and not list(tmp_path.iterdir())


def test_damaged_files_are_written_anew(tmp_path, count_traces):
    whole = trace(Net(), INPUTS, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    first, second = (i for i, byte in enumerate(content) if byte == ord("\n"))
    cuts = {0, 1, first // 2, first - 1, first, first + 1, (first + second) // 2, second, second + 1, len(content) - 1}
    flipped = bytes([*content[: first + 50], content[first + 50] ^ 1, *content[first + 51 :]])
    other = json.dumps({**json.loads(content[:first]), "format": 0}).encode() + content[first:]
    damaged = [content[:cut] for cut in sorted(cuts)] + [flipped, other, b"\xff" * 100, b"null\nnull\n", b"[" * 9999]
    for number, bad in enumerate(damaged):
        file.write_bytes(bad)
        same(trace(Net(), INPUTS, cache=tmp_path), whole)
        assert len(count_traces) == number + 2
        assert file.read_bytes() == content


def test_a_file_for_another_key_is_not_taken(tmp_path):
    save_graph(trace(Net(), INPUTS), tmp_path / "graph", "key")
    assert load_graph(tmp_path / "graph", "key") is not None
    assert load_graph(tmp_path / "graph", "another") is None


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(tmp_path, full_disk):
    (tmp_path / "file").write_text("")
    assert trace(Net(), INPUTS, cache=tmp_path / "file").nodes
    with full_disk():
        assert trace(Net(), INPUTS, cache=tmp_path / "new").nodes
    assert not list((tmp_path / "new").iterdir())  # nothing half-written


def test_processes_do_not_collide(tmp_path):
    code = f"""
import sys, torch
sys.path.insert(0, {str(ROOT)!r})
from torch import nn
from hypergen.graph import trace
for round in range(10):
    for width in range(2, 8):
        net = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3))
        graph = trace(net, cache={str(tmp_path / "graphs")!r})
        assert [node.shape for node in graph.nodes] == [(1, width), (1, width), (1, width), (1, 3)]
    if round % 5 == 4:  # somebody empties the folder in the meantime
        import pathlib
        for file in pathlib.Path({str(tmp_path / "graphs")!r}).glob("*.json"):
            file.unlink(missing_ok=True)
print("well")
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    running = [subprocess.Popen([sys.executable, "-c", code], **options) for _ in range(3)]
    for process in running:
        out, error = process.communicate(timeout=200)
        assert out == "well\n", error
    assert not list((tmp_path / "graphs").glob(".writing-*"))


def test_where_graphs_are_kept(tmp_path, monkeypatch, count_traces):
    monkeypatch.delenv("HYPERGEN_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() is None and cache_folder(False) is None
    assert cache_folder(True).name == "graphs" and "hypergen" in str(cache_folder(True))
    assert cache_folder("~/graphs") == Path.home() / "graphs"
    monkeypatch.setenv("HYPERGEN_CACHE", str(tmp_path / "told"))
    assert cache_folder() == tmp_path / "told" and cache_folder(False) is None
    trace(Net(), INPUTS)
    trace(Net(), INPUTS)
    assert len(count_traces) == 1
    trace(Net(), INPUTS, cache=False)
    assert len(count_traces) == 2
    monkeypatch.setenv("HYPERGEN_CACHE", "on")
    assert cache_folder() == cache_folder(True)
    monkeypatch.setenv("HYPERGEN_CACHE", "off")
    assert cache_folder() is None
