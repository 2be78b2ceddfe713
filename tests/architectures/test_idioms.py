import pytest
import torch

from hypergen.architectures import Architecture, IdiomSpace, ImageClassifierSpace, MixedSpace, idiom_space
from hypergen.architectures.cost import Cost, network_cost
from hypergen.architectures.idioms.draws import AXES, IDIOMS
from hypergen.errors import UnknownNameError
from hypergen.graph import trace

# Axes whose value decides between whole classes and not an argument of that name.
RENAMED = {"feed_forward": "feed_forward_kind", "mask": "causal", "activation": "activation_name"}
FAMILIES = list(AXES)


def test_there_are_many_idioms_of_distinct_names():
    assert len(IDIOMS) >= 40 and len(set(IDIOMS)) == len(IDIOMS)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_idiom_is_switched_on_by_itself(family: str):
    for idiom in (name for name in IDIOMS if name.startswith(f"{family}/")):
        _, axis, value = idiom.split("/")
        space = IdiomSpace(idioms=[idiom], widths=(8, 48), depths=(1, 3))
        for seed in range(3):
            architecture = space.sample(seed)
            assert architecture.family == family
            used = architecture.config.get(RENAMED.get(axis, axis))
            if axis == "mask":
                assert used is (value == "causal")
            elif used != value:  # some choices exclude others, and only then
                assert (idiom, used) in EXCLUDED, f"{idiom} drew {used}"


EXCLUDED = {
    ("map_mixer/mixing/pool", "depthwise"),
    ("map_mixer/mixing/identity", "depthwise"),
}


def test_networks_run_train_and_trace_completely():
    space = IdiomSpace()
    families = set()
    for seed in range(120):
        architecture = space.sample(seed)
        families.add(architecture.family)
        torch.manual_seed(0)
        network = architecture.build()
        logits = network.eval()(torch.randn(3, 1, 8, 8))
        assert logits.shape == (3, 10) and torch.isfinite(logits).all(), architecture
        if seed < 40:
            logits.square().sum().backward()
            with torch.device("meta"):
                graph = trace(architecture.build(), architecture.example_inputs())
            assert set(graph.parameter_shapes) == {name for name, _ in network.named_parameters()}, architecture
    assert families == set(FAMILIES)


@pytest.mark.parametrize("image_size, channels, num_classes", [(8, 3, 5), (16, 1, 10), (32, 3, 100)])
def test_other_images_and_classes(image_size: int, channels: int, num_classes: int):
    space = IdiomSpace(image_size, channels, num_classes, idioms=[f for f in FAMILIES if f != "library"])
    for seed in range(25):
        network = space.sample(seed).build().eval()
        assert network(torch.randn(2, channels, image_size, image_size)).shape == (2, num_classes)


def test_same_seed_same_architecture_and_budget():
    space = IdiomSpace(max_parameters=60_000, max_multiply_adds=400_000)
    state = torch.get_rng_state()
    first = [space.sample(seed) for seed in range(30)]
    assert torch.equal(torch.get_rng_state(), state), "sampling must not draw from the global generator"
    assert [IdiomSpace(**space.to_json()).sample(seed) for seed in range(30)] == first
    assert [Architecture.from_json(each.to_json()) for each in first] == first
    for each in first:
        cost = network_cost(each)
        assert 500 <= cost.parameters <= 60_000 and cost.multiply_adds <= 400_000


def test_rare_wide_and_deep_networks_are_drawn():
    space = IdiomSpace(idioms=["perceptron", "recurrent", "token_mixer"])
    drawn = [space.sample(seed) for seed in range(300)]
    assert max(each.width for each in drawn) >= 512
    assert max(each.depth for each in drawn) >= 24


def test_cost_of_a_known_network():
    config = {"image_size": 8, "channels": 1, "num_classes": 10, "widths": [4], "padded": True, "head_layers": 1}
    cost = network_cost(Architecture("tutorial_cnn", {**config, "pooling": "none"}))
    # A 3×3 convolution to 4 channels at 64 positions, a linear layer of 256 features; with their biases.
    assert cost == (4 * 9 + 4 + 2560 + 10, 64 * (4 * 9 + 4) + 2570)


def test_mixture_draws_from_each_space_by_weight():
    families = ImageClassifierSpace()
    space = MixedSpace({"families": families, "idioms": {"idioms": None}}, {"families": 1, "idioms": 3})
    drawn = [space.sample(seed) for seed in range(400)]
    share = sum(each.family in families.config["families"] for each in drawn) / len(drawn)
    assert 0.18 < share < 0.32
    assert [MixedSpace(**space.to_json()).sample(seed) for seed in range(20)] == drawn[:20]


def test_wrong_arguments_are_named():
    with pytest.raises(UnknownNameError, match="transformer/projection/chunk"):
        IdiomSpace(idioms=["transformer/projection/chunks"])
    with pytest.raises(ValueError, match="image_size must be a multiple of 4"):
        IdiomSpace(image_size=10)
    with pytest.raises(ValueError, match="depths must be"):
        IdiomSpace(depths=(0, 4))
    with pytest.raises(ValueError, match="idioms is empty"):
        IdiomSpace(idioms=[])
    with pytest.raises(ValueError, match="same names"):
        MixedSpace({"a": ImageClassifierSpace()}, {"b": 1.0})
    with pytest.raises(ValueError, match="need its 10 logits"):
        MixedSpace({"a": ImageClassifierSpace(), "b": IdiomSpace(16, num_classes=12)}, {"a": 1, "b": 1})


def test_a_network_that_cannot_run_is_drawn_again(monkeypatch: pytest.MonkeyPatch):
    space, tries = IdiomSpace(idioms=["tutorial_cnn"]), []

    def cost(architecture: Architecture) -> Cost:
        tries.append(architecture)
        if len(tries) == 1:
            raise ValueError("Expected more than 1 value per channel when training")
        return network_cost(architecture)

    monkeypatch.setattr(idiom_space, "network_cost", cost)
    assert space.sample(0) == tries[1] != tries[0]
