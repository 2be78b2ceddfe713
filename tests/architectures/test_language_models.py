import math

import pytest
import torch
from torch.nn import functional as F

from hypergen.architectures import Architecture, LanguageModelSpace, TrainingStream, language_model_split
from hypergen.architectures.families.gpt import GPT, rotated
from hypergen.architectures.language_models import LANGUAGE_MODEL_SPLITS
from hypergen.generators.ghn.features import graph_features
from hypergen.graph import trace

SIZES = {"vocabulary": 20, "context": 12, "width": 32, "depth": 2, "heads": 2}


def make(**options):
    torch.manual_seed(0)
    return GPT(**{**SIZES, **options}).eval()


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_logits_depend_on_what_came_before_and_on_nothing_else(positions):
    model = make(positions=positions)
    tokens = torch.randint(20, (3, 12))
    changed = tokens.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 20
    before, after = model(tokens), model(changed)
    assert before.shape == (3, 12, 20)
    torch.testing.assert_close(before[:, :7], after[:, :7])
    assert all((before[:, i] != after[:, i]).any() for i in range(7, 12))


def test_rotated_products_depend_on_the_distance_alone():
    angles = torch.arange(12.0)[:, None] * torch.tensor([1.0, 0.1, 0.01])
    query, key = torch.randn(6), torch.randn(6)
    products = rotated(query.expand(12, 6), angles) @ rotated(key.expand(12, 6), angles).T
    torch.testing.assert_close(products.diagonal(-3), products[3, 0].expand(9))
    assert not torch.isclose(products[0, 0], products[3, 0])


def test_queries_keys_and_values_are_those_of_their_head():
    attention = make().blocks[0].attention
    x = torch.randn(1, 5, 32)
    rows = attention.qkv(x)[0].view(5, 2, 3, 16)
    heads = []
    for head in range(2):
        query, key, value = rows[:, head].unbind(1)
        scores = (query @ key.T / 4).masked_fill(torch.ones(5, 5).triu(1).bool(), -math.inf)
        heads.append(F.softmax(scores, -1) @ value)
    torch.testing.assert_close(attention(x, None)[0], attention.proj(torch.cat(heads, 1)))


def test_a_tied_head_is_the_table_of_tokens():
    tied, untied = make(tied=True), make(tied=False)
    assert tied.head.weight is tied.tokens.weight
    count = [sum(p.numel() for p in model.parameters()) for model in (tied, untied)]
    assert count[1] - count[0] == 20 * 32


def test_default_initialisation_guesses():
    model = make(vocabulary=96, depth=4)
    loss = F.cross_entropy(model(torch.randint(96, (8, 12))).flatten(0, 1), torch.randint(96, (96,)))
    assert loss.item() == pytest.approx(math.log(96), abs=0.2)


def test_unknown_options_are_named():
    with pytest.raises(ValueError, match="unknown positions 'sine'"):
        make(positions="sine")
    with pytest.raises(ValueError, match="3 heads do not divide a width of 32"):
        make(heads=3)
    with pytest.raises(ValueError, match="norms must be one or more of"):
        LanguageModelSpace(norms=["batch"])
    with pytest.raises(ValueError, match="width must be"):
        LanguageModelSpace(width=(40, 64))
    with pytest.raises(ValueError, match="no network met the budget of 1,000 parameters"):
        LanguageModelSpace(max_parameters=1000).sample(0)


def test_the_space_keeps_its_bounds_and_shows_every_option():
    drawn = [LanguageModelSpace().sample(seed) for seed in range(60)]
    assert drawn[:5] == [LanguageModelSpace().sample(seed) for seed in range(5)]
    for name, expected in (("norm", 2), ("positions", 2), ("tied", 2), ("bias", 2), ("depth", 4), ("mlp_ratio", 3)):
        assert len({architecture.config[name] for architecture in drawn}) == expected
    for architecture in drawn:
        assert 32 <= architecture.width <= 128 and architecture.config["width"] % architecture.config["heads"] == 0
        assert sum(p.numel() for p in architecture.build().parameters()) <= 300_000


def test_splits_are_disjoint_wider_and_deeper_and_kept_from_training():
    splits = {name: language_model_split(name) for name in LANGUAGE_MODEL_SPLITS}
    names = [architecture.name for split in splits.values() for architecture in split]
    assert len(names) == len(set(names)) == 10 * len(splits)
    assert min(a.width for a in splits["wide"]) > 128
    assert min(a.depth for a in splits["deep"]) > 4
    space = LanguageModelSpace()
    assert language_model_split("test")[0] == space.sample(2_000_000_000)
    assert TrainingStream(space, offset=2_000_000_000)[0] not in language_model_split("test")
    with pytest.raises(ValueError, match="unknown split 'narrow'"):
        language_model_split("narrow")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_every_parameter_is_one_to_be_predicted(positions, tied):
    architecture = Architecture("gpt", {**SIZES, "positions": positions, "tied": tied})
    with torch.device("meta"):
        network = architecture.build()
    slots = graph_features(trace(network, architecture.example_inputs())).slots
    assert {slot.name for slot in slots} == {name for name, _ in network.named_parameters()}
