from itertools import pairwise

import pytest
import torch
from torch import nn

from hypergen.graph import ComputationalGraph, OpNode, trace
from hypergen.graph.computational_graph import edge_tensor
from hypergen.graph.visualize.folding import fold


def chain(ops, skips=(), outputs=(), modules=None):
    """A graph from names of operations, each of which reads the one before it."""
    edges = sorted({*((i - 1, i) for i in range(1, len(ops))), *skips}, key=lambda edge: edge[::-1])
    nodes = tuple(OpNode(op, modules[i] if modules else "", {}, (1, 4)) for i, op in enumerate(ops))
    return ComputationalGraph(nodes, edge_tensor(edges), {}, outputs=outputs)


def runs(graph):
    return [(repeat.start, repeat.length, repeat.count) for repeat in fold(graph)]


def test_equal_blocks_in_a_row():
    assert runs(chain(["input", *"abc" * 4, "out"])) == [(1, 3, 4)]
    assert runs(chain(["input", *"abcdabcx"])) == []
    assert runs(chain(["input", *"abab"])) == []  # two nodes less are not worth a frame
    assert runs(chain([])) == []


def test_residual_blocks_without_module_names():
    ops, skips = ["input"], []
    for _ in range(5):
        start = len(ops) - 1
        ops += ["norm", "linear", "relu", "add"]
        skips.append((start, len(ops) - 1))
    # The cut that one value alone crosses, not any other of the four.
    assert runs(chain([*ops, "norm"], skips)) == [(1, 4, 5)]


def test_differences_end_a_run():
    ops = ["input", *"abc" * 6]
    assert runs(chain(ops)) == [(1, 3, 6)]
    changed = list(chain(ops).nodes)
    changed[8] = OpNode("b", "", {}, (1, 5))  # another shape, in the third block
    graph = ComputationalGraph(tuple(changed), chain(ops).edges, {})
    assert runs(graph) == [(9, 3, 3)] or runs(graph) == [(10, 3, 3)]
    assert runs(chain(ops, skips=[(1, 9)])) != [(1, 3, 6)]  # another edge
    changed = [OpNode("b", "", {}, (1, 4), {"groups": i}) if node.op == "b" else node for i, node in enumerate(changed)]
    assert runs(ComputationalGraph(tuple(changed), graph.edges, {})) == []  # other attributes


def test_parameters_count_by_role_and_shape():
    def net(*widths):
        layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU(), nn.LayerNorm(b))]
        return trace(nn.Sequential(*layers), torch.zeros(1, widths[0]))

    assert runs(net(8, 8, 8, 8)) == [(1, 3, 3)]
    assert runs(net(8, 9, 10, 11)) == []  # shapes grow


def test_blocks_that_are_read_from_outside_do_not_fold():
    ops = ["input", *"abc" * 4, "out"]
    assert runs(chain(ops, skips=[(6, 13)])) == [(7, 3, 2)] or runs(chain(ops, skips=[(6, 13)])) == []
    every = [(i, 13) for i in (3, 6, 9)]
    assert (1, 3, 4) not in runs(chain(ops, skips=every))  # what takes which of them, nobody could see
    assert runs(chain([*ops[:-1], "cat"], skips=every)) == [(1, 3, 4)]  # parts of a list
    assert runs(chain(ops, outputs=(3, 6, 9, 12, 13))) == [(1, 3, 4)]  # all of them are outputs
    assert (1, 3, 4) not in runs(chain(ops, outputs=(6, 13)))


def test_all_blocks_may_read_the_same():
    ops = ["input", "mask", *"abc" * 4]
    assert runs(chain(ops, skips=[(1, i) for i in (3, 6, 9, 12)])) == [(2, 3, 4)]
    assert runs(chain(ops, skips=[(0, i) for i in (3, 6)] + [(1, i) for i in (9, 12)])) != [(2, 3, 4)]


def test_repeats_inside_repeats():
    graph = chain(["input", *("ab" * 3 + "cde") * 4])
    (repeat,) = fold(graph)
    assert (repeat.start, repeat.length, repeat.count) == (1, 9, 4)
    assert [(inner.start, inner.length, inner.count) for inner in repeat.inner] == [(1, 2, 3)]


def test_modules_decide_where_a_block_begins_and_name_it():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)

        def forward(self, x):
            return self.norm(torch.relu(self.linear(x)) + x)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.blocks = nn.LayerNorm(8), nn.Sequential(*[Block() for _ in range(4)])

        def forward(self, x):
            return self.blocks(self.norm(x))

    (repeat,) = fold(trace(Net(), torch.zeros(1, 8)))
    # The norm in front would make a longer stretch of equal nodes.
    assert (repeat.start, repeat.length, repeat.count) == (2, 4, 4)
    assert repeat.modules == (("blocks.0",), ("blocks.1",), ("blocks.2",), ("blocks.3",))
    assert repeat.label == "blocks.0 … 3"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("torchvision:resnet50", [(2, "layer1.1 … 2"), (3, "layer2.1 … 3"), (5, "layer3.1 … 5"), (2, "layer4.1 … 2")]),
        ("torchvision:vit_b_16", [(12, "encoder.layers.encoder_layer_0 … 11")]),
        ("torchvision:densenet121", []),
        ("timm:vit_base_patch16_224", [(12, "blocks.0 … 11")]),
        (
            "timm:swin_small_patch4_window7_224",
            [(9, "layers.2.blocks.0–1 … 16–17"), (2, "layers.3.blocks.0 … 1")],
        ),
        ("hf:gpt2", [(12, "h.0 … 11")]),
        ("hf:llama", [(32, "layers.0 … 31")]),
        ("hf:albert", [(11, "encoder.albert_layer_groups.0.albert_layers.0")]),  # the first one owns what all share
    ],
)
def test_known_networks(name, expected):
    pytest.importorskip({"torchvision": "torchvision", "timm": "timm", "hf": "transformers"}[name.split(":")[0]])
    from hypergen.architectures.by_name import build_model

    graph = trace(build_model(name))
    repeats = fold(graph)
    assert [(repeat.count, repeat.label) for repeat in repeats] == expected
    for repeat in repeats:  # equal indeed
        blocks = [graph.nodes[at : at + repeat.length] for at in range(repeat.start, repeat.stop, repeat.length)]
        for block in blocks:
            assert [(node.op, node.shape, node.attributes) for node in block] == [
                (node.op, node.shape, node.attributes) for node in blocks[0]
            ]
