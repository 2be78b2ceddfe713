import pytest
import torch
from torch import nn

import hypergen
from hypergen.errors import GeneratorError
from hypergen.generators import GraphHypernetwork, load_generator
from hypergen.generators.ghn import PyGEncoder
from hypergen.generators.ghn.features import batch_graphs, graph_features

pytest.importorskip("torch_geometric")
names = pytest.mark.parametrize("name", ["GPS", "GIN", "GAT"])


class Residual(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, width), nn.Linear(width, width), nn.Linear(width, 3)
        self.norm = nn.LayerNorm(width)
        self.example_input_array = torch.zeros(2, 6)

    def forward(self, x):
        x = self.first(x).relu()
        return self.head(self.norm(x + self.second(x).relu()))


def make(name, **options):
    torch.manual_seed(0)
    sizes = {"hidden": 16, "layers": 2, "heads": 2, "rank": 8, "steered_rank": 2, "width": 16}
    return GraphHypernetwork(encoder=f"pyg:{name}", **{**sizes, **options}).eval()


@names
def test_a_model_of_torch_geometric_encodes_graphs(name, tmp_path):
    generator, net = make(name), Residual()
    parameters = generator.generate(net)
    assert {n: p.shape for n, p in parameters.items()} == {n: p.shape for n, p in net.named_parameters()}
    sum(value.square().sum() for value in parameters.values()).backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in generator.encoder.parameters())
    loaded = load_generator(generator.save_pretrained(tmp_path))
    with torch.no_grad():
        again = loaded.generate(net)
    for key, value in again.items():
        torch.testing.assert_close(value, parameters[key].detach())


@names
def test_a_graph_is_encoded_alike_alone_and_beside_others(name):
    generator = make(name)
    graphs = [graph_features(hypergen.trace(Residual()))]
    graphs.append(graph_features(hypergen.trace(nn.Linear(6, 3), torch.zeros(2, 6))))
    with torch.no_grad():
        together = generator.encode(batch_graphs(graphs))
        for number, graph in enumerate(graphs):
            alone = generator.encode(batch_graphs([graph]))[0]
            torch.testing.assert_close(together[number, : len(alone)], alone, rtol=1e-4, atol=1e-5)


@names
def test_the_order_of_operations_does_not_matter_to_the_encoder(name):
    encoder = make(name).encoder
    batch = batch_graphs([graph_features(hypergen.trace(Residual()))])
    order = torch.randperm(batch.mask.shape[1])
    moved = type(batch)(**{**vars(batch), "distances": batch.distances[:, order][:, :, order]})
    nodes = torch.randn(1, len(order), 16)
    with torch.no_grad():
        torch.testing.assert_close(encoder(nodes[:, order], moved), encoder(nodes, batch)[:, order])
        assert not torch.allclose(encoder(nodes[:, order], batch), encoder(nodes, batch)[:, order])


def test_a_model_of_ones_own():
    from torch_geometric.nn import GraphSAGE

    generator = make("GIN")
    generator.encoder = PyGEncoder(GraphSAGE(16, 16, 1, 16))
    assert generator.generate(Residual())["head.bias"].shape == (3,)


def test_unknown_models_are_named():
    with pytest.raises(GeneratorError, match="no model 'GINN'.*Did you mean 'GIN'"):
        make("GINN")
    with pytest.raises(ValueError, match="pyg:NAME"):
        GraphHypernetwork(encoder="gin")
