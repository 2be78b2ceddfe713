import json
import pickle
import random
from collections import Counter

import pytest
import torch

from hypergen.architectures import Architecture, ImageClassifierSpace
from hypergen.architectures.cost import network_cost
from hypergen.architectures.image_classifiers import TRAINING_FAMILIES

PINNED = ["grouped-677fea89", "dense-884f12a7", "dilated-8f18ff38", "dense-c6c53ed6"]


@pytest.fixture(scope="module")
def sample() -> list[Architecture]:
    space = ImageClassifierSpace()
    return [space.sample(seed) for seed in range(2000)]


def count(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_same_seed_same_architecture_whatever_the_global_state():
    space = ImageClassifierSpace()
    random.seed(1)
    torch.manual_seed(1)
    first = [space.sample(seed) for seed in range(20)]
    random.seed(2)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert [ImageClassifierSpace().sample(seed) for seed in range(20)] == first
    assert torch.equal(torch.get_rng_state(), state), "sampling must not draw from the global generator"


def test_the_stream_of_seeds_is_pinned():
    # The split files and every published number hang on this: a change here is a new data set.
    space = ImageClassifierSpace()
    assert [space.sample(seed).name for seed in range(4)] == PINNED


def test_every_sample_is_within_the_budget(sample):
    for architecture in sample[:300]:
        with torch.device("meta"):
            parameters = count(architecture.build())
        assert 1_000 <= parameters <= 100_000
        cost = network_cost(architecture)
        assert cost.parameters == parameters
        assert cost.multiply_adds <= 640_000


def test_estimated_multiply_adds_are_close_to_counted_ones(sample):
    for architecture in sample[:60]:
        network = architecture.build().eval()
        counted = 0

        def hook(module, inputs, output):
            nonlocal counted
            counted += module.weight.numel() * (output.numel() // module.weight.shape[0])

        for module in network.modules():
            if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
                module.register_forward_hook(hook)
        with torch.no_grad():
            network(torch.zeros(1, 1, 8, 8))
        assert counted / 3 < network_cost(architecture).multiply_adds < 3 * counted, architecture


def test_training_has_variety(sample):
    families = Counter(architecture.family for architecture in sample)
    assert set(families) == set(TRAINING_FAMILIES)
    assert min(families.values()) > 0.07 * len(sample)
    assert len({architecture.name for architecture in sample}) > 0.97 * len(sample)
    seen = {(key, str(value)) for a in sample for key, value in a.config.items()}
    for key, values in {
        "norm": ["batch", "layer", "group"],
        "activation": ["relu", "gelu", "silu", "leaky_relu", "elu", "tanh", "hardswish", "mish", "selu", "softplus"],
        "downsample": ["max", "average", "conv"],
        "stem": ["conv", "strided", "patch"],
        "head": ["pool", "flatten"],
        "kernel_size": [3, 5],
        "pooling": ["class_token", "mean"],
        "layer_scale": [None, 0.1],
        "squeeze_excitation": [True],
        "pre_activation": [True],
        "residual": [False],
        "bias": [True, False],
    }.items():
        for value in values:
            assert (key, str(value)) in seen, (key, value)


def test_training_never_shows_what_is_out_of_distribution(sample):
    assert all(architecture.config["norm"] != "none" for architecture in sample)
    assert all(architecture.family != "inverted_bottleneck" for architecture in sample)
    assert max(architecture.depth for architecture in sample) == 6
    widest = {"mlp": 128, "vit": 64, "mixer": 64, "dense": 16}
    assert all(architecture.width <= widest.get(architecture.family, 48) for architecture in sample)
    norms = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.GroupNorm, torch.nn.LayerNorm)
    for architecture in sample[:200]:
        with torch.device("meta"):
            assert any(isinstance(module, norms) for module in architecture.build().modules()), architecture


def test_colour_images_of_32_pixels():
    space = ImageClassifierSpace(image_size=32, channels=3, num_classes=100, max_parameters=1_000_000)
    sample = [space.sample(seed) for seed in range(40)]
    assert max(len(architecture.config.get("depths", [])) for architecture in sample) >= 3
    for architecture in sample[:15]:
        network = architecture.build()
        assert network(torch.randn(2, 3, 32, 32)).shape == (2, 100)
        assert count(network) <= 1_000_000


@pytest.mark.parametrize("image_size", [4, 7, 28])
def test_other_sizes(image_size):
    space = ImageClassifierSpace(image_size=image_size)
    for seed in range(30):
        assert space.sample(seed).build()(torch.randn(2, 1, image_size, image_size)).shape == (2, 10)


def test_space_round_trip():
    space = ImageClassifierSpace(image_size=16, norms=["batch"], families=["cnn", "resnet"])
    again = ImageClassifierSpace(**json.loads(json.dumps(space.to_json())))
    assert again.sample(3) == space.sample(3)


def test_architecture_round_trips(sample):
    for architecture in sample[:50]:
        again = Architecture.from_json(json.loads(json.dumps(architecture.to_json())))
        assert again == architecture
        assert again.name == architecture.name
        assert pickle.loads(pickle.dumps(architecture)) == architecture
        assert hash(again) == hash(architecture)


def test_name_depends_on_content_only():
    first = Architecture("mlp", {"image_size": 8, "channels": 1, "num_classes": 10, "widths": (16,)})
    second = Architecture("mlp", {"widths": [16], "num_classes": 10, "channels": 1, "image_size": 8})
    third = Architecture("mlp", {"widths": [24], "num_classes": 10, "channels": 1, "image_size": 8})
    assert first == second and first.name == second.name
    assert first.name != third.name
    assert first.name.startswith("mlp-") and len(first.name) == len("mlp-") + 8


def test_changed_architecture_is_refused():
    data = Architecture("mlp", {"image_size": 8, "channels": 1, "num_classes": 10, "widths": [16]}).to_json()
    data["config"]["widths"] = [32]
    with pytest.raises(ValueError, match="changed by hand"):
        Architecture.from_json(data)
    with pytest.raises(ValueError, match="missing.*config"):
        Architecture.from_json({"family": "mlp"})
    with pytest.raises(ValueError, match="unknown architecture family 'transformr'"):
        Architecture("transformr", {})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"families": ["resnext"]}, "families must be one or more of"),
        ({"families": []}, "families must be one or more of"),
        ({"norms": ["instance"]}, "norms must be one or more of"),
        ({"norms": ["group"]}, "'mlp' networks have a norm of"),
        ({"activations": ["swoosh"]}, "activations must be one or more of"),
        ({"image_size": 2}, "at least 4 pixels"),
        ({"num_classes": 0}, "num_classes must be positive"),
        ({"min_parameters": 10, "max_parameters": 5}, "min_parameters 10 is greater"),
        ({"depth": [3, 1]}, "depth must be"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ImageClassifierSpace(**arguments)


def test_impossible_budget_says_so(monkeypatch):
    monkeypatch.setattr("hypergen.architectures.image_classifiers._ATTEMPTS", 5)
    with pytest.raises(ValueError, match="widen the budget"):
        ImageClassifierSpace(max_parameters=20, min_parameters=10).sample(0)
