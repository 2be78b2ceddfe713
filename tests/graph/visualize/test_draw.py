import pytest
import torch
from torch import nn

from hypergen.graph import trace
from hypergen.graph.visualize.kinds import kind_of
from hypergen.graph.visualize.layout import lay_out


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.side, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x):
        y = self.second(torch.relu(self.norm(self.first(x))))
        return torch.cat([y + x, self.side(x)], 1)


@pytest.fixture(scope="module")
def graph():
    return trace(Residual(), torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize(("suffix", "start"), [(".svg", b"<?xml"), (".PNG", b"\x89PNG"), (".pdf", b"%PDF")])
def test_files(graph, tmp_path, suffix, start):
    path = tmp_path / f"graph{suffix}"
    graph.draw(str(path))
    content = path.read_bytes()
    assert content.startswith(start)
    assert len(content) > 5000


def test_svg_is_well_formed(graph, tmp_path):
    from xml.etree import ElementTree

    graph.draw(tmp_path / "graph.svg")
    root = ElementTree.parse(tmp_path / "graph.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    texts = (tmp_path / "graph.svg").read_text()
    for words in ("conv2d", "batch_norm", "weight 3×3×3×3, bias 3", "1×6×8×8"):
        assert words in texts


@pytest.mark.parametrize("name", ["graph", "graph.gif", "graph.svg.txt"])
def test_unknown_suffix(graph, tmp_path, name):
    with pytest.raises(ValueError, match=rf"{name}.*\.svg, \.png, \.pdf, \.html"):
        graph.draw(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_many_nodes_and_lanes(tmp_path):
    from PIL import Image

    class Dense(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4 * (i + 1), 4) for i in range(12))

        def forward(self, x):
            seen = [x]
            for layer in self.layers:
                seen.append(torch.relu(layer(torch.cat(seen, 1))))
            return seen[-1]

    trace(Dense(), torch.zeros(1, 4)).draw(tmp_path / "dense.png")
    with Image.open(tmp_path / "dense.png") as picture:
        width, height = picture.size
    assert 300 < width < 1500
    assert height > 2000


def check_layout(count, edges):
    layout = lay_out(count, edges)
    assert len(set(zip(layout.row, layout.column, strict=True))) == count  # no two nodes in one place
    assert all(layout.row[source] < layout.row[target] for source, target in edges)
    boxes = set(zip(layout.column, layout.row, strict=True))
    for (source, target), (kind, place) in layout.channels.items():
        if kind == "column":
            passed = range(layout.row[source] + 1, layout.row[target])
            assert not any((place, row) in boxes for row in passed)
    return layout


def test_the_longest_path_runs_straight_and_skips_go_around():
    layout = check_layout(5, [(0, 1), (1, 2), (2, 3), (0, 3), (3, 4), (0, 4)])
    assert layout.column == (0, 0, 0, 0, 0)
    assert layout.row == (0, 1, 2, 3, 4)
    assert layout.channels == {(0, 3): ("lane", -1), (0, 4): ("lane", -1)}  # one bus, from one source


def test_branches_stand_side_by_side():
    layout = check_layout(6, [(0, 1), (1, 2), (2, 5), (0, 3), (3, 5), (0, 4), (4, 5)])
    assert layout.column == (0, 0, 0, 1, 2, 0)
    assert layout.channels == {(3, 5): ("column", 1), (4, 5): ("column", 2)}


def test_what_only_parameters_feed_stands_above_its_reader():
    layout = check_layout(5, [(0, 1), (1, 2), (3, 4), (2, 4)])
    assert layout.row == (0, 1, 2, 2, 3)


def test_random_graphs():
    generator = torch.Generator().manual_seed(0)
    for count in (1, 2, 5, 20, 60):
        edges = [
            (i, j) for i in range(count) for j in range(i + 1, count) if torch.rand((), generator=generator) < 3 / count
        ]
        check_layout(count, edges)


def test_kinds():
    kinds = {
        "conv2d": "weights", "batch_norm": "norm", "relu": "activation", "view": "shape", "add": "arithmetic",
        "scaled_dot_product_attention": "attention", "mystery": "other", "expand": "shape", "input": "input",
    }  # fmt: skip
    assert {op: kind_of(op) for op in kinds} == kinds
