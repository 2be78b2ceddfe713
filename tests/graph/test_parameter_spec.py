"""The facts that a graph knows of its parameters."""

import pytest
import torch
from torch import nn

import hypergen
from hypergen.errors import TraceError
from hypergen.graph import ComputationalGraph
from hypergen.graph.computational_graph import edge_tensor
from hypergen.graph.parameter_spec import AxisRole

OUT, IN, KERNEL = AxisRole.OUTPUT, AxisRole.INPUT, AxisRole.KERNEL


def network():
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, groups=2), nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 6, 3), nn.Flatten(1, -1),
        nn.Linear(6 * 8 * 8, 5).to(torch.bfloat16).to(torch.float32),
    )  # fmt: skip
    model.spare = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    return model


def test_specs_tell_operation_role_and_axes():
    graph = hypergen.trace(network(), torch.zeros(1, 4, 8, 8))
    specs = graph.parameters
    assert list(specs) == list(graph.parameter_shapes) == [name for name, _ in network().named_parameters()]
    conv = specs["0.weight"]
    assert (conv.shape, conv.dtype, conv.operation, conv.role) == ((8, 2, 3, 3), torch.float32, "conv2d", "weight")
    assert conv.axes == (OUT, IN, KERNEL, KERNEL) and conv.num_blocks == 2 and graph.nodes[conv.node].op == "conv2d"
    assert conv.size(KERNEL) == 9 and conv.numel == 144 and conv.groups == ()
    assert specs["0.bias"].axes == (OUT,) and specs["1.weight"].axes == (AxisRole.FEATURE,)
    assert specs["3.weight"].axes == (IN, OUT, KERNEL, KERNEL)
    assert specs["5.weight"].axes == (OUT, IN)
    spare = specs["spare"]
    assert (spare.operation, spare.node, spare.dtype) == ("unused", -1, torch.float64)


def test_groups_are_filled_in_where_asked_for():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    specs = hypergen.trace(model, torch.zeros(1, 3)).parameter_specs(groups=True)
    assert [spec.groups for spec in specs.values()] == [(0, None), (0,), (1, 0), (1,), (None, 1), (None,)]
    untraced = ComputationalGraph((), edge_tensor([]), {"a": (2,)})
    assert untraced.parameters["a"].dtype is None
    with pytest.raises(TraceError, match="trace"):
        untraced.parameter_specs(groups=True)


def test_tables_and_attention():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.attend = nn.Embedding(7, 8), nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            h = self.words(x)
            return self.attend(h, h, h, need_weights=False)[0]

    specs = hypergen.trace(Net(), torch.zeros(1, 3, dtype=torch.int64)).parameters
    assert specs["words.weight"].axes == (AxisRole.ENTRY, AxisRole.FEATURE)
    assert specs["attend.in_proj_weight"].axes == (OUT, IN) == specs["attend.out_proj.weight"].axes
    assert specs["attend.in_proj_bias"].axes == (OUT,)
