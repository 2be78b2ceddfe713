"""Without gradients predictions are written in place, by other code than with them: both must say the same."""

from itertools import product

import pytest
import torch
from torch import nn

from hypergen.generators.ghn.features import batch_graphs, graph_features
from hypergen.generators.ghn.model import DECODERS, GraphHypernetwork
from hypergen.generators.ghn.parametrization import PARAMETRIZATIONS
from hypergen.graph import trace

SMALL = {"encoder": "none", "hidden": 16, "reach": 2, "rank": 12, "steered_rank": 5, "width": 8, "max_shape": 4}


class Tokens(nn.Module):
    """Rows far beyond a table's end, a table of its own, slots that share node and site, a matrix stored by columns."""

    def __init__(self):
        super().__init__()
        self.words, self.position = nn.Embedding(700, 10), nn.Parameter(torch.zeros(1, 5, 10))
        self.separate = nn.MultiheadAttention(10, 2, kdim=10, vdim=6, batch_first=True)
        self.values, self.head = nn.Linear(10, 6), nn.Linear(30, 300)
        self.weight, self.bias = nn.Parameter(torch.zeros(10, 30)), nn.Parameter(torch.zeros(30))

    def forward(self, tokens):
        x = self.words(tokens) + self.position
        x = self.separate(x, x, self.values(x))[0]
        return self.head(torch.addmm(self.bias, x.view(-1, 10), self.weight))


class Image(nn.Module):
    """Grouped, transposed and depthwise convolutions, kernels of every size, a flattened image, wide vectors."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 7),
            nn.BatchNorm2d(6),
            nn.ConvTranspose2d(6, 9, 3, groups=3),
            nn.ConvTranspose2d(9, 9, 1, groups=3),
            nn.Conv2d(9, 9, 2, groups=9),
            nn.Conv2d(9, 90, 3, groups=3),
            nn.GroupNorm(2, 90),
            nn.PReLU(90),
        )
        self.gain = nn.Parameter(torch.ones(90, 1, 1))
        self.head = nn.Sequential(nn.Flatten(), nn.LazyLinear(20), nn.Linear(20, 1, bias=False))
        self(torch.zeros(1, 3, 12, 12))

    def forward(self, x):
        return self.head(self.features(x) * self.gain)


TARGETS = {
    "tokens": (Tokens, torch.zeros(1, 5, dtype=torch.int64)),
    "image": (Image, torch.zeros(1, 3, 12, 12)),
    "vectors only": (lambda: nn.BatchNorm1d(5), torch.zeros(2, 5)),
    "one value": (lambda: nn.Linear(1, 1, bias=False), torch.zeros(2, 1)),
}


@pytest.fixture(params=product(DECODERS, PARAMETRIZATIONS), ids="-".join, scope="module")
def generator(request):
    decoder, parametrization = request.param
    torch.manual_seed(0)
    return GraphHypernetwork(decoder=decoder, parametrization=parametrization, **SMALL)


@pytest.mark.parametrize("name", TARGETS)
def test_values_are_the_same_with_and_without_gradients(generator, name):
    build, inputs = TARGETS[name]
    model = build()
    with_gradients = generator.generate(model, example_inputs=inputs)
    with torch.no_grad():
        without = generator.generate(model, example_inputs=inputs)
    assert list(without) == list(with_gradients)
    assert any(value.requires_grad for value in with_gradients.values())
    for key, value in without.items():
        assert not value.requires_grad
        torch.testing.assert_close(value, with_gradients[key].detach(), atol=2e-6, rtol=1e-5)


def test_a_batch_of_graphs_is_written_in_place_too(generator):
    features = [graph_features(trace(build(), inputs)) for build, inputs in TARGETS.values()]
    with_gradients = generator(batch_graphs(features))
    with torch.no_grad():
        without = generator(batch_graphs(features))
    for one, other in zip(without, with_gradients, strict=True):
        torch.testing.assert_close(one, other.detach(), atol=2e-6, rtol=1e-5)


def test_parameters_share_one_allocation_without_gradients(generator):
    """What was written is what is returned: a copy would double the peak memory of a large network.

    But for weights that are stored columns first, which are copied: a transposed view can't be saved.
    """
    build, inputs = TARGETS["image"]
    model = build()
    transposed = graph_features(trace(model, inputs)).layout.transposed
    with torch.no_grad():
        parameters = generator.generate(model, example_inputs=inputs)
    assert transposed and all(value.is_contiguous() for value in parameters.values())
    shared = [value.untyped_storage() for name, value in parameters.items() if name not in transposed]
    assert len({storage.data_ptr() for storage in shared}) == 1
    assert shared[0].nbytes() == 4 * sum(value.numel() for value in parameters.values())


def test_autocast_predicts_without_gradients(generator):
    build, inputs = TARGETS["image"]
    with torch.no_grad():
        exact = generator.generate(build(), example_inputs=inputs)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = generator.generate(build(), example_inputs=inputs)
    for key, value in rounded.items():
        torch.testing.assert_close(value.float(), exact[key], atol=0.2, rtol=0.1)
