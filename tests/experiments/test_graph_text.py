import pytest
import torch
from torch import nn

import hypergen
from experiments.architecture_ranking.graph_text import GraphTextEncoder, graph_text, ranking_loss


class Residual(nn.Module):
    def __init__(self, stride: int = 1):
        super().__init__()
        self.first, self.last = nn.Conv2d(2, 4, 3, stride=stride, padding=1), nn.Conv2d(4, 2, 1)

    def forward(self, images):
        return images + self.last(self.first(images).relu())


@pytest.fixture(scope="module")
def text():
    return graph_text(hypergen.trace(Residual(), torch.zeros(1, 2, 6, 6)))


def test_the_text_says_what_is_computed_and_from_what(text):
    operations = [line.split(" ")[0] for line in text]
    assert operations == ["input", "conv2d", "relu", "conv2d", "add"]
    assert "out=4x6x6" in text[1] and "weight=4x2x3x3" in text[1] and "stride=1x1" in text[1]
    assert [line.rpartition("from=")[2] for line in text] == ["", "1", "1", "1", "1x4"]


def test_scores_do_not_depend_on_what_is_scored_along(text):
    torch.manual_seed(0)
    encoder = GraphTextEncoder(hidden=8, heads=2, layers=1).eval()
    both = encoder([text, text[:3], text])
    torch.testing.assert_close(both[0], both[2])
    torch.testing.assert_close(encoder([text[:3]])[0], both[1])
    assert abs(both[0] - both[1]) > 1e-4


def test_scores_depend_on_numbers_and_edges(text):
    torch.manual_seed(0)
    encoder = GraphTextEncoder(hidden=8, heads=2, layers=1).eval()
    wider = [line.replace("4x6x6", "64x6x6") for line in text]
    no_skip = [*text[:-1], text[-1].replace("1x4", "1x1")]
    scores = encoder([text, wider, no_skip])
    assert abs(scores[0] - scores[1]) > 1e-5 and abs(scores[0] - scores[2]) > 1e-5


def test_the_loss_counts_pairs_that_differ():
    scores = torch.tensor([2.0, 0.0, 1.0])
    expected = nn.functional.softplus(torch.tensor([-2.0, -1.0])).mean()
    torch.testing.assert_close(ranking_loss(scores, torch.tensor([1.0, 0.5, 0.5])), expected)
    assert ranking_loss(scores, torch.ones(3)) == 0
