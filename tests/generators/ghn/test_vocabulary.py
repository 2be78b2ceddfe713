"""A generator reads graphs with the vocabulary that it was made with, however many operations are appended."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import hypergen
from hypergen.generators.ghn.model import GraphHypernetwork
from hypergen.graph import vocabulary
from hypergen.graph.vocabulary import FIRST_VOCABULARY, OPERATIONS

# What digits-ghn was trained with, in its order.
FIRST = """input conv1d conv2d conv3d conv_transpose2d linear addmm embedding batch_norm layer_norm group_norm rms_norm
    instance_norm relu gelu silu leaky_relu elu tanh sigmoid hardswish hardsigmoid hardtanh mish selu softplus prelu
    relu6 softmax add mul sub div pow matmul bmm einsum cat stack mean sum max_pool2d avg_pool2d adaptive_avg_pool2d
    adaptive_max_pool2d scaled_dot_product_attention multi_head_attention transpose permute lstm gru logsigmoid celu
    softsign exp sqrt rsqrt amax max interpolate baddbmm""".split()
SMALL = {"hidden": 16, "reach": 2, "heads": 2, "rank": 8, "steered_rank": 4, "width": 8}


class Unusual(nn.Module):
    """Has an operation of the first vocabulary, one of today's and two that no vocabulary has."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 2)
        self.example_input_array = torch.zeros(1, 6)

    def forward(self, x):
        return self.last(torch.erfinv(torch.cumsum(torch.relu(self.first(x)), 1)) + torch.lgamma(x))


def predicted(generator):
    return generator.generate(Unusual())


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_operations_are_only_appended():
    assert list(OPERATIONS[:FIRST_VOCABULARY]) == FIRST
    assert len(OPERATIONS) > FIRST_VOCABULARY
    assert "cumsum" in OPERATIONS[FIRST_VOCABULARY:] and not {"erfinv", "lgamma"} & set(OPERATIONS)


def test_a_generator_saved_before_the_vocabulary_was_in_its_configuration(tmp_path):
    torch.manual_seed(0)
    generator = GraphHypernetwork(**SMALL, vocabulary=FIRST_VOCABULARY).eval()
    generator.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["arguments"].pop("vocabulary") == FIRST_VOCABULARY
    (tmp_path / "config.json").write_text(json.dumps(config))
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt", "hypergen": json.dumps(config)})

    loaded = hypergen.load_generator(tmp_path)
    assert loaded.config["vocabulary"] == FIRST_VOCABULARY
    assert_same(predicted(loaded), predicted(generator))


@pytest.mark.parametrize("known", [FIRST_VOCABULARY, len(OPERATIONS)])
def test_predictions_stay_when_operations_are_appended(tmp_path, monkeypatch, known):
    torch.manual_seed(0)
    generator = GraphHypernetwork(**SMALL, vocabulary=known).eval()
    before = predicted(generator)
    generator.save_pretrained(tmp_path)

    wider = (*OPERATIONS, "erfinv", "lgamma")
    monkeypatch.setattr("hypergen.generators.ghn.features.OPERATIONS", wider)
    monkeypatch.setattr(vocabulary, "OPERATIONS", wider)
    loaded = hypergen.load_generator(tmp_path)
    assert loaded.config["vocabulary"] == known
    assert_same(predicted(loaded), before)
    # One that is made with the wider vocabulary tells the two apart.
    operations = hypergen.generators.ghn.features.graph_features(hypergen.trace(Unusual())).operations.tolist()
    assert {len(OPERATIONS), len(OPERATIONS) + 1} <= set(operations)


def test_the_vocabulary_matters():
    torch.manual_seed(0)
    small = GraphHypernetwork(**SMALL, vocabulary=FIRST_VOCABULARY).eval()
    wide = GraphHypernetwork(**SMALL).eval()
    assert wide.config["vocabulary"] == len(OPERATIONS)
    state = small.state_dict()
    embedding = wide.node_features.operation.weight.detach().clone()
    embedding[:FIRST_VOCABULARY] = state["node_features.operation.weight"][:-1]
    embedding[-1] = state["node_features.operation.weight"][-1]
    wide.load_state_dict(state | {"node_features.operation.weight": embedding})
    ours, theirs = predicted(small), predicted(wide)
    assert any(not torch.equal(ours[name], theirs[name]) for name in ours)  # cumsum has an embedding of its own
