"""What a generator says of networks that are unlike those that it was trained on."""

import pytest
import torch
from torch import nn

import hypergen
from hypergen.architectures import IdiomSpace
from hypergen.generators import GraphHypernetwork
from hypergen.generators.ghn.meta_batches import trace_architecture
from hypergen.generators.ghn.training_graphs import TrainingGraphs, describe_graph
from hypergen.graph import trace


@pytest.fixture(scope="module")
def trained():
    space = IdiomSpace(idioms=["tutorial_cnn", "perceptron"], max_parameters=100_000)
    graphs = TrainingGraphs(16)
    graphs.cover([trace_architecture(space.sample(seed)).description for seed in range(60)])
    return space, graphs


def graph_of(network, *shape):
    return trace(network, torch.zeros(1, *shape), both_modes=False)


def test_no_training_graph_is_out_of_distribution(trained):
    space, graphs = trained
    for seed in range(60):
        architecture = space.sample(seed)
        assert graphs.differences(trace(architecture.build(), architecture.example_inputs())) == ()


def test_each_difference_is_named(trained):
    _, graphs = trained
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 100_000, bias=False), nn.Sigmoid(), nn.Linear(100_000, 7))
    found = "; ".join(graphs.differences(graph_of(network, 3, 2, 2)))
    assert "input [3, 2, 2], in training [1, 8, 8]" in found
    assert "output [7], in training [10]" in found
    assert "1,900,007 parameters, in training" in found


def test_operations_that_training_never_showed_are_named(trained):
    class Fourier(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(64, 10)

        def forward(self, x):
            return self.linear(torch.fft.fft(x.flatten(1)).abs())

    _, graphs = trained
    (found,) = [text for text in graphs.differences(graph_of(Fourier(), 1, 8, 8)) if "operations" in text]
    assert "fft" in found


def test_a_graph_farther_than_all_of_training_is_named(trained):
    _, graphs = trained
    deep = nn.Sequential(nn.Flatten(), *[nn.Tanh() for _ in range(400)], nn.Linear(64, 10))
    assert "from the nearest training graph" in "; ".join(graphs.differences(graph_of(deep, 1, 8, 8)))


def test_reshapes_change_no_description():
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    reshaped = nn.Sequential(nn.Flatten(1, 2), nn.Flatten(), nn.Unflatten(1, (8, 8)), nn.Flatten(), nn.Linear(64, 10))
    first, second = (describe_graph(graph_of(network, 1, 8, 8)) for network in (plain, reshaped))
    torch.testing.assert_close(first.point, second.point)


def test_nothing_is_said_where_nothing_was_kept():
    network = nn.Linear(3, 5)
    assert TrainingGraphs(4).differences(graph_of(network, 3)) == ()
    small = GraphHypernetwork(**GraphHypernetwork.example_arguments)
    assert small.out_of_distribution(graph_of(network, 3)) == ()


def test_what_was_kept_is_saved_and_reported(trained, tmp_path):
    space, _ = trained
    generator = GraphHypernetwork(**GraphHypernetwork.example_arguments, training_graphs=8)
    generator.training_graphs.cover([trace_architecture(space.sample(seed)).description for seed in range(20)])
    generator.save_pretrained(tmp_path)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    report = hypergen.initialize(network, str(tmp_path), example_inputs=torch.zeros(1, 3, 8, 8))
    assert any("input [3, 8, 8]" in text for text in report.out_of_distribution)
    assert "unlike training" in str(report)


def test_without_labels_what_is_unlike_training_keeps_its_own_size_of_activations(trained):
    space, _ = trained
    torch.manual_seed(0)
    generator = GraphHypernetwork(**GraphHypernetwork.example_arguments, training_graphs=8)
    generator.training_graphs.cover([trace_architecture(space.sample(seed)).description for seed in range(20)])
    with torch.no_grad():
        for table in generator.tables():
            table.mul_(1.2)
    images = torch.zeros(1, 3, 8, 8)

    def network():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5)
        )

    def spread(model):
        torch.manual_seed(2)
        return model(torch.randn(8, 3, 8, 8)).square().mean().sqrt().item()

    own, left, bounded = network(), network(), network()
    hypergen.initialize(left, generator, example_inputs=images, scale="predicted", fallback="never")
    report = hypergen.initialize(bounded, generator, example_inputs=images, fallback="never")
    # More than is left to what is like training, and too little to be called worse without labels.
    assert 4 * spread(own) < spread(left) < 100 * spread(own)
    assert report.rescaled and spread(bounded) < 4 * spread(own)
