import pytest
import torch
from torch import nn

import hypergen
from hypergen.errors import ParameterError
from hypergen.metanets import PyGMetanetwork
from hypergen.symmetry.verify import Verification

pytest.importorskip("torch_geometric")
HIDDEN = 8
NETWORKS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), torch.zeros(1, 4)),
    "convolutions": (
        lambda: nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten()),
        torch.zeros(1, 2, 6, 6),
    ),
    "attention": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), torch.zeros(1, 3, 8)),
}  # fmt: skip


class GPS(nn.Module):
    """One GPS layer over GIN with edge features."""

    def __init__(self):
        super().__init__()
        from torch_geometric.nn import GINEConv, GPSConv

        mlp = nn.Sequential(nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN))
        self.layer = GPSConv(HIDDEN, GINEConv(mlp), heads=2, norm="layer_norm")

    def forward(self, x, edge_index, batch, edge_attr):
        return self.layer(x, edge_index, batch, edge_attr=edge_attr)


def gin():
    from torch_geometric.nn import GIN

    # Sums over many neighbours leave each ReLU of an untrained model on one side, where it is linear.
    return GIN(HIDDEN, HIDDEN, 2, HIDDEN, act="tanh")


def made(name):
    torch.manual_seed(0)
    build, inputs = NETWORKS[name]
    net = build().eval()
    graph = hypergen.trace(net, inputs).parameter_graph()
    verification = Verification(net, inputs)
    return graph, {block.name: verification.tensors[block.name] for block in graph.blocks}, verification.generator


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_go_to_torch_geometric_and_back(name):
    graph, tensors, _ = made(name)
    data = graph.to_pyg(tensors)
    assert data.validate() and data.num_nodes == graph.num_nodes and data.num_edges == graph.num_edges
    back = graph.from_pyg(data)
    assert all(torch.equal(back[name], value) for name, value in tensors.items())
    data.edge_attr = data.edge_attr[1:]
    with pytest.raises(ParameterError, match="edges"):
        graph.from_pyg(data)


def test_edges_lead_from_input_to_output_neurons_and_biases_are_loops():
    graph, tensors, _ = made("mlp")
    data = graph.to_pyg(tensors)
    names = [block.name for block in graph.blocks]
    inputs = (data.x[:, 2] == 1).sum()
    assert inputs == 4 + 3 and (data.x[:, 2] == 0).sum() == 6
    first = data.edge_index[:, data.edge_block == names.index("0.weight")]
    second = data.edge_index[:, data.edge_block == names.index("2.weight")]
    assert set(first[1].tolist()) == set(second[0].tolist()) and first.shape == (2, 24)
    loops = data.edge_index[:, data.edge_block == names.index("0.bias")]
    assert torch.equal(loops[0], loops[1]) and set(loops[0].tolist()) == set(first[1].tolist())


@pytest.mark.parametrize("model", ["GPS", "GIN"])
@pytest.mark.parametrize("name", NETWORKS)
def test_any_model_reads_parameters_and_is_invariant_to_their_symmetry(name, model):
    graph, tensors, generator = made(name)
    reader = PyGMetanetwork(GPS() if model == "GPS" else gin(), HIDDEN, 2, edges=model == "GPS").double().eval()
    tensors = {key: value.double() for key, value in tensors.items()}
    element = graph.symmetry.sample(generator)
    permuted = graph.symmetry.apply(tensors, element)
    assert any(not torch.equal(permuted[key], value) for key, value in tensors.items())
    found = reader(graph, tensors)
    torch.testing.assert_close(reader(graph, permuted), found, rtol=1e-9, atol=1e-11)
    found.sum().backward()
    assert all(parameter.grad is not None for parameter in reader.weights.parameters())
    # A permutation of one parameter alone is none of the symmetry, and shows.
    key = next(key for key, value in tensors.items() if not torch.equal(permuted[key], value) and value.dim() > 1)
    assert not torch.allclose(reader(graph, {**tensors, key: permuted[key]}), found, rtol=1e-9, atol=1e-11)
