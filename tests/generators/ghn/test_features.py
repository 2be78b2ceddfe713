import math

import pytest
import torch
from torch import nn

from hypergen.generators.ghn.features import NUM_ATTRIBUTES, OPERATIONS, PATH_CUTOFF, batch_graphs, graph_features
from hypergen.generators.ghn.slots import SITES
from hypergen.graph import ComputationalGraph, OpNode, trace


def make_graph(ops, edges, **parameters):
    nodes = tuple(OpNode(op, shape=(1, 4)) for op in ops)
    return ComputationalGraph(nodes, torch.tensor(edges, dtype=torch.int64).reshape(-1, 2).t(), parameters)


def features_of(module, *shape):
    return graph_features(trace(module, torch.zeros(shape)), "as_traced")


def cnn(channels=4):
    return nn.Sequential(nn.Conv2d(1, channels, 3), nn.ReLU(), nn.Flatten(), nn.Linear(channels * 16, 3))


def test_operations_are_named_once():
    assert len(set(OPERATIONS)) == len(OPERATIONS)


def test_unknown_operations_share_one_embedding():
    graph = make_graph(["input", "relu", "an_unheard_of", "another", "relu"], [])
    operations = graph_features(graph, "as_traced").operations.tolist()
    assert operations == [OPERATIONS.index("input"), OPERATIONS.index("relu"), *[len(OPERATIONS)] * 2, operations[1]]


def test_only_moves_within_an_axis_are_contracted():
    module = nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Flatten(), nn.Linear(4, 2))
    assert features_of(module, 1, 4).operations.tolist() == [OPERATIONS.index(op) for op in ("input", "linear")]

    class Turned(nn.Module):
        def forward(self, x):
            return x.transpose(1, 2).relu()

    assert features_of(Turned(), 1, 2, 3).operations.tolist() == [
        OPERATIONS.index(op) for op in ("input", "transpose", "relu")
    ]


def test_distances_by_hand():
    # 0 → 1 → 3 → 4, 0 → 2 → 3, 0 → 4
    graph = make_graph(["input", "relu", "gelu", "add", "mul"], [(0, 1), (0, 2), (0, 4), (1, 3), (2, 3), (3, 4)])
    assert graph_features(graph, "as_traced").distances.tolist() == [
        [0, 1, 1, 2, 1],
        [-1, 0, -1, 1, 2],
        [-1, -1, 0, 1, 2],
        [-1, -1, -1, 0, 1],
        [-1, -1, -1, -1, 0],
    ]


def test_distances_are_cut_off():
    count = PATH_CUTOFF + 10
    distances = graph_features(
        make_graph(["relu"] * count, [(i, i + 1) for i in range(count - 1)]), "as_traced"
    ).distances
    assert distances.max() == PATH_CUTOFF and distances[0, -1] == PATH_CUTOFF and distances[0, 7] == 7


def test_slots_point_at_their_nodes():
    features = features_of(cnn(), 1, 1, 6, 6)
    assert [slot.name for slot in features.slots] == ["0.weight", "0.bias", "3.weight", "3.bias"]
    operations = features.operations[features.slot_nodes].tolist()
    assert operations == [OPERATIONS.index(op) for op in ("conv2d", "conv2d", "linear", "linear")]
    assert [SITES[site] for site in features.slot_sites] == ["first_conv", "bias", "last_flat", "last_bias"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3, stride=2)),
        (nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3, dilation=2)),
        (nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3, groups=2)),
        (nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 5, padding=1)),
        (nn.Conv2d(4, 4, 3), nn.Conv2d(4, 8, 3)),
        (nn.MaxPool2d(2), nn.MaxPool2d(3)),
    ],
)
def test_settings_show_in_the_attributes(one, other):
    one, other = (features_of(module, 1, 4, 12, 12).attributes for module in (one, other))
    assert one.shape == other.shape == (2, NUM_ATTRIBUTES) and not torch.equal(one, other)


def test_batch_size_of_the_example_does_not_show():
    one, other = features_of(cnn(), 1, 1, 6, 6), features_of(cnn(), 5, 1, 6, 6)
    assert torch.equal(one.attributes, other.attributes) and one.slots == other.slots


@pytest.mark.parametrize("shape", [(), (1,), (0,), (1, 0, 3), (2, 1, 1, 1, 1, 1)])
def test_attributes_of_odd_shapes_are_finite(shape):
    add = OpNode("add", "", {"offset": "p"}, shape, {"stride": (0,), "kernel_size": None})
    graph = ComputationalGraph((OpNode("input", shape=shape), add), torch.tensor([[0], [1]]), {"p": shape})
    assert graph_features(graph, "as_traced").attributes.isfinite().all()


def assert_moderate(graph):
    attributes = graph_features(graph, "as_traced").attributes
    assert attributes.isfinite().all()
    assert attributes.abs().max() < 8
    assert attributes.square().mean(0).sqrt().max() < 3


def test_attributes_of_resnet_50_are_moderate():
    import hypergen  # noqa: F401  # makes torchvision importable

    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        model = models.resnet50(weights=None)
    assert_moderate(trace(model))


def test_attributes_of_gpt_2_are_moderate():
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config())
    assert_moderate(trace(model))


def test_batch_pads_and_joins():
    small, large = features_of(nn.Sequential(nn.Linear(4, 3)), 1, 4), features_of(cnn(), 1, 1, 6, 6)
    batch = batch_graphs([small, large])
    n, m = len(small.operations), len(large.operations)
    assert n < m and batch.operations.shape == (2, m) and batch.attributes.shape == (2, m, NUM_ATTRIBUTES)
    assert batch.mask.tolist() == [[True] * n + [False] * (m - n), [True] * m]
    for i, graph in enumerate((small, large)):
        count = len(graph.operations)
        assert torch.equal(batch.operations[i, :count], graph.operations)
        assert torch.equal(batch.attributes[i, :count], graph.attributes)
        assert torch.equal(batch.distances[i, :count, :count], graph.distances)
    assert (batch.distances[0, n:] == -1).all() and (batch.distances[0, :, n:] == -1).all()
    assert (batch.operations[0, n:] == 0).all() and (batch.attributes[0, n:] == 0).all()
    # Slots come one graph after the other, and point into the padded nodes.
    assert batch.slot_nodes.tolist() == [*small.slot_nodes.tolist(), *(large.slot_nodes + m).tolist()]
    assert batch.slot_sites.tolist() == [*small.slot_sites.tolist(), *large.slot_sites.tolist()]
    assert batch.matrices.tolist() == [0, 2, 4]
    assert batch.fan_in.tolist() == [4, 9, 64] and batch.fan_in.dtype == torch.float32
    assert batch.layouts == (small.layout, large.layout)


def test_joined_indices_count_on():
    graphs = [features_of(nn.Linear(3, 2), 1, 3), features_of(cnn(), 1, 1, 6, 6)]
    batch = batch_graphs(graphs)
    assert batch.joined("vector_slots").tolist() == [1, 1, 1, 1, 1, 1, 3, 3, 3]
    assert batch.joined("vector_slots", [2, 4]).tolist() == [1, 1, 3, 3, 3, 3, 5, 5, 5]
    assert batch.joined("rows").tolist() == [0, 1, 0, 1, 2, 3, 0, 1, 2]


def test_layout_gives_names_and_shapes_back():
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ConvTranspose2d(4, 6, 2, groups=2), nn.BatchNorm2d(6))
    layout = features_of(module, 1, 1, 5, 5).layout
    flat = torch.arange(float(sum(layout.lengths)), requires_grad=True)
    parameters = layout.unflatten(flat)
    assert {n: p.shape for n, p in parameters.items()} == {n: p.shape for n, p in module.named_parameters()}
    values = torch.cat([p.flatten() for p in parameters.values()])
    assert sorted(values.tolist()) == flat.tolist()
    # A transposed weight is stored with its rows, the outputs of one group, first.
    start = parameters["1.weight"][0, 0, 0, 0]
    assert parameters["1.weight"][1, 0, 0, 0] == start + 4 and parameters["1.weight"][0, 1, 0, 0] == start + 4 * 4
    values.square().sum().backward()
    assert torch.equal(flat.grad, 2 * flat.detach())
    assert math.prod(flat.shape) == sum(p.numel() for p in module.parameters())
