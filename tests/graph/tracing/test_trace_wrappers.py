"""Networks wrapped for compilation, several devices, or other parametrisations."""

import gc

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from hypergen.graph import trace

X = torch.randn(2, 6)


def mlp():
    return nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))


def read(graph):
    return sorted(name for node in graph.nodes for name in node.parameters.values())


def same_but_for_names(model, inner):
    graph, reference = trace(model, X), trace(inner, X)
    assert [node.op for node in graph.nodes] == [node.op for node in reference.nodes]
    assert torch.equal(graph.edges, reference.edges)
    assert read(graph) == sorted(dict(model.named_parameters()))
    return graph


def test_compiled_modules_are_traced_as_the_python_that_they_are():
    inner = mlp()
    compiled = torch.compile(inner, backend="eager")
    graph = same_but_for_names(compiled, inner)
    assert graph.nodes[1].parameters["weight"] == "_orig_mod.0.weight"
    assert graph.nodes[1].module == "_orig_mod.0"
    same_but_for_names(nn.Sequential(compiled, nn.Linear(3, 2)), nn.Sequential(inner, nn.Linear(3, 2)))
    inner.compile(backend="eager")
    same_but_for_names(inner, mlp())


def test_compiled_functions_inside_a_network():
    calls = []

    @torch.compile(backend=lambda graph, inputs: calls.append(graph) or graph.forward)
    def twice(x):
        return torch.tanh(x) * 2

    class Net(nn.Module):
        def forward(self, x):
            return twice(x)

    assert [node.op for node in trace(Net(), X).nodes] == ["input", "tanh", "mul"]
    assert not calls
    twice(X)
    assert len(calls) == 1  # compilation is as it was


def test_modules_that_distribute_another_one_are_left_out(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("must not run")

    inner = mlp()
    wrapped = nn.DataParallel(inner)
    monkeypatch.setattr(nn.DataParallel, "forward", refuse)
    graph = same_but_for_names(wrapped, inner)
    assert graph.nodes[1].parameters["weight"] == "module.0.weight"
    assert "forward" not in vars(wrapped)
    same_but_for_names(nn.Sequential(wrapped), nn.Sequential(inner))


@pytest.mark.skipif(not torch.distributed.is_available(), reason="PyTorch was built without torch.distributed")
def test_distributed_data_parallel(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        inner = nn.Sequential(mlp(), nn.BatchNorm1d(3))
        same_but_for_names(nn.parallel.DistributedDataParallel(inner), inner)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    "reparametrize",
    [
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
        nn.utils.parametrizations.orthogonal,
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    ],
)
def test_every_parameter_of_a_reparametrised_layer_reaches_it(reparametrize):
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
    reparametrize(model[0])
    graph = trace(model, X)
    assert read(graph) == sorted(dict(model.named_parameters()))
    [layer] = [i for i, node in enumerate(graph.nodes) if node.op == "linear"]
    paths = graph.shortest_paths()
    assert all(paths[i, layer] >= 0 for i, _ in graph.readers.values())


def test_garbage_is_collected_as_before():
    for switch in (gc.disable, gc.enable):
        switch()
        trace(mlp(), X)
        assert gc.isenabled() is (switch is gc.enable)
