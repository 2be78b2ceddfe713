from itertools import pairwise

import pytest
import torch

from hypergen.graph import trace
from hypergen.graph.visualize.folding import fold
from hypergen.graph.visualize.placing import Level
from hypergen.graph.visualize.scene import Scene


def everything(level: Level, left=0.0, top=0.0):
    """All boxes and straight pieces of lines with their places on the page, blocks from outside in."""
    boxes, pieces = [], []
    for wire in level.wires:
        corners = [(left + x, top + y) for x, y in wire.corners]
        pieces += list(pairwise(corners))
    for box in level.boxes:
        boxes.append((box, left + box.x, top + box.y, left + box.x + box.width, top + box.y + box.height))
        if box.level is not None:
            inside = box.inside
            inner = everything(box.level, left + inside[0], top + inside[1])
            boxes += inner[0]
            pieces += inner[1]
    return boxes, pieces


def check_wires(level: Level):
    """Lines begin where something ends; horizontal pieces lie on each other only if the lines share an end."""
    ends = [wire.corners[-1] for wire in level.wires]
    for wire in level.wires:
        x, y = wire.corners[0]
        at_box = any(
            box.x - 1 < x < box.x + box.width + 1 and box.y < y < box.y + box.height + 1 for box in level.boxes
        )
        assert at_box or y < 1 or any(abs(x - u) + abs(y - v) < 1 for u, v in ends)
    pieces = [
        (y, min(x, u), max(x, u), wire)
        for wire in level.wires
        for (x, y), (u, v) in pairwise(wire.corners)
        if abs(y - v) < 0.1 and abs(x - u) > 2
    ]
    for i, (y, left, right, wire) in enumerate(pieces):
        for v, start, end, other in pieces[:i]:
            related = wire.corners[0] == other.corners[0] or wire.corners[-1] == other.corners[-1]
            assert related or abs(y - v) > 1 or right <= start + 1 or end <= left + 1
    for box in level.boxes:
        if box.level is not None:
            check_wires(box.level)


def check(graph, repeats, wrapped):
    scene = Scene(graph, repeats, wrapped)
    level = scene.level()
    check_wires(level)
    boxes, pieces = everything(level)
    plain = [places for box, *places in boxes if box.level is None]
    shown = {box.node for box, *_ in boxes if box.level is None}
    assert shown == {node for node in range(len(graph.nodes)) if scene.shown[node] == node}
    for i, (left, top, right, bottom) in enumerate(plain):
        assert left >= 0 and top >= 0 and right <= level.width + 0.1 and bottom <= level.height + 0.1
        for other in plain[:i]:  # no box on another
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top
        for (x, y), (u, v) in pieces:  # no line through a box
            assert x == pytest.approx(u) or y == pytest.approx(v)
            outside = max(x, u) <= left + 1 or min(x, u) >= right - 1 or max(y, v) <= top + 1 or min(y, v) >= bottom - 1
            assert outside
    for box, left, top, right, bottom in boxes:
        if box.level is not None:  # what is inside a block lies inside its frame
            for _, *inside in everything(box.level, left + box.inside[0] - box.x, top + box.inside[1] - box.y)[0]:
                assert inside[0] > left and inside[1] > top and inside[2] < right and inside[3] < bottom
    return level


NETWORKS = {
    "torchvision:resnet18": 0.5,
    "torchvision:vit_b_16": 0.3,
    "torchvision:googlenet": 0.3,
    "timm:swin_tiny_patch4_window7_224": 0.3,
    "hf:gpt2": 0.3,
    "hf:t5": 0.1,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_lies_on_anything_else(name):
    pytest.importorskip({"torchvision": "torchvision", "timm": "timm", "hf": "transformers"}[name.split(":")[0]])
    from hypergen.architectures.by_name import build_model

    graph = trace(build_model(name))
    repeats = fold(graph)
    level = check(graph, repeats, wrapped=True)
    assert NETWORKS[name] < level.width / level.height < 3  # a page, not a ribbon
    check(graph, repeats, wrapped=False)
    if name == "torchvision:resnet18":
        check(graph, (), wrapped=True)


def test_random_graphs():
    from hypergen.graph import ComputationalGraph, OpNode
    from hypergen.graph.computational_graph import edge_tensor

    generator = torch.Generator().manual_seed(0)
    for count in (1, 2, 5, 20, 80):
        nodes = tuple(OpNode(f"op{i % 7}", f"module{i}" * (i % 3), {}, (1, i)) for i in range(count))
        drawn = torch.rand(count, count, generator=generator) < 3 / count
        edges = [(i, j) for j in range(count) for i in range(j) if drawn[i, j]]
        check(ComputationalGraph(nodes, edge_tensor(edges), {}), (), wrapped=True)


def test_every_edge_is_drawn():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(5))

        def forward(self, x):
            for layer in self.layers:
                x = torch.relu(layer(x)) + x
            return torch.cat([x, x * 2], 1)

    graph = trace(Net(), torch.zeros(1, 4))
    flat = Scene(graph, ()).level()
    assert len(flat.wires) == graph.edges.shape[1]
    (repeat,) = fold(graph)
    level = Scene(graph, (repeat,)).level()
    (block,) = [box for box in level.boxes if box.level is not None]
    assert block.title == "× 5" and block.shape == "layers.0 … 4"
    # Input to linear and add, linear to relu, relu to add, add to the outside.
    assert len(block.level.wires) == 5
