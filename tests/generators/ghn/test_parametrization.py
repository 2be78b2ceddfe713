"""What each parametrisation promises of a generator at initialisation."""

import math

import pytest
import torch
from torch import nn

from hypergen.generators.ghn.features import batch_graphs, graph_features
from hypergen.generators.ghn.model import DECODERS, GraphHypernetwork
from hypergen.generators.ghn.parametrization import PARAMETRIZATIONS, Parametrization
from hypergen.generators.ghn.slots import slots_of
from hypergen.graph import trace

SIZES = {"hidden": 32, "reach": 2, "layers": 1, "heads": 4, "rank": 64, "steered_rank": 16, "width": 32}


@pytest.fixture(params=DECODERS)
def decoder(request):
    return request.param


def make_generator(parametrization, decoder="low_rank", seed=0, **arguments):
    torch.manual_seed(seed)
    return GraphHypernetwork("graphormer", decoder, parametrization, **{**SIZES, **arguments})


def network():
    """Layers of many fan-ins; returns it with its graph."""
    module = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.PReLU(), nn.Conv2d(16, 24, 3), nn.GroupNorm(4, 24), nn.PReLU(24),
        nn.Conv2d(24, 24, 3, groups=24), nn.Conv2d(24, 48, 1), nn.ConvTranspose2d(48, 12, 2, groups=2), nn.Flatten(),
        nn.Linear(12 * 9, 64), nn.LayerNorm(64), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 20),
    )  # fmt: skip
    return module, trace(module, torch.zeros(1, 3, 8, 8))


def matrices_of(graph, parameters):
    """Values, usual standard deviation and site of every weight matrix."""
    for slot in slots_of(graph):
        if slot.is_matrix:
            gain = 1 if slot.site in ("last", "last_flat") else 2
            yield parameters[slot.name], math.sqrt(gain / slot.fan_in), slot.site


@pytest.mark.parametrize("kind", PARAMETRIZATIONS)
@torch.no_grad()
def test_vectors_start_where_networks_start(kind, decoder):
    module, graph = network()
    parameters = make_generator(kind, decoder).generate(graph)
    for name, part in module.named_modules():
        if isinstance(part, nn.PReLU):
            assert parameters[f"{name}.weight"].mean() == pytest.approx(0.25, abs=0.2)
        elif isinstance(part, (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)):
            assert parameters[f"{name}.weight"].mean() == pytest.approx(1, abs=0.2)
        if getattr(part, "bias", None) is not None:
            assert parameters[f"{name}.bias"].mean() == pytest.approx(0, abs=0.2)
    for name, value in parameters.items():
        if value.dim() == 1:
            assert value.std(correction=0) < 0.5, name


@torch.no_grad()
def test_plain_is_scaled_by_the_fan_in(decoder):
    _, graph = network()
    parameters = make_generator("plain", decoder).generate(graph)
    for values, usual, site in matrices_of(graph, parameters):
        assert 0.1 < values.std() / usual < 4, site
    # Doubling what the decoder says doubles the weights.
    generator = make_generator("plain", decoder)
    generator.parametrization.gains *= 2
    for (doubled, _, _), (once, _, _) in zip(
        matrices_of(graph, generator.generate(graph)), matrices_of(graph, parameters), strict=True
    ):
        torch.testing.assert_close(doubled, 2 * once)


@torch.no_grad()
def test_unit_variance_is_exact(decoder):
    _, graph = network()
    for values, usual, site in matrices_of(graph, make_generator("unit_variance", decoder).generate(graph)):
        assert values.std().item() == pytest.approx(usual, rel=1e-3), site


@torch.no_grad()
def test_unit_variance_does_not_see_the_size_of_the_prediction():
    _, graph = network()
    generator = make_generator("unit_variance")
    before = generator.generate(graph)
    for head in (generator.decoder.steer, generator.decoder.diagonal):
        for parameter in head.parameters():
            parameter *= 7
    after = generator.generate(graph)
    for (one, _, _), (other, _, _) in zip(matrices_of(graph, before), matrices_of(graph, after), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_unit_variance_of_a_single_value():
    graph = trace(nn.Linear(1, 1, bias=False), torch.zeros(1, 1))
    assert make_generator("unit_variance").generate(graph)["weight"].abs().item() == pytest.approx(1, rel=1e-3)


def magnified(kind, decoder, factor):
    """Matrices predicted from a condition that is ``factor`` times as large."""
    _, graph = network()
    generator = make_generator(kind, decoder)
    generator.state.register_forward_hook(lambda module, inputs, output: factor * output)
    return list(matrices_of(graph, generator.generate(graph)))


@torch.no_grad()
def test_magnitude_invariant_weights_keep_their_size_whatever_the_condition(decoder):
    for factor in (0.1, 10.0):
        for (values, usual, site), (other, _, _) in zip(
            magnified("magnitude_invariant", decoder, 1.0),
            magnified("magnitude_invariant", decoder, factor),
            strict=True,
        ):
            assert 0.5 < values.std() / other.std() < 2, site
            assert 0.5 < values.std() / usual < 2, site
    # Not so without it.
    (plain, _, _), (other, _, _) = magnified("plain", "low_rank", 1.0)[1], magnified("plain", "low_rank", 10.0)[1]
    assert other.std() / plain.std() > 3


def test_magnitude_invariant_conditions_have_constant_norm():
    states = torch.randn(5, 12) * torch.logspace(-3, 3, 5)[:, None]
    encoded = Parametrization("magnitude_invariant", 12).encode(states)
    torch.testing.assert_close(encoded.norm(dim=1), torch.full((5,), math.sqrt(12)))
    # Every condition has a code of its own.
    codes = Parametrization("magnitude_invariant", 1).encode(torch.linspace(-5, 5, 101)[:, None])
    assert (codes[1:, 1] > codes[:-1, 1]).all() and (codes >= 0).all()
    for kind in set(PARAMETRIZATIONS) - {"magnitude_invariant"}:
        assert torch.equal(Parametrization(kind, 12).encode(states), states)


@torch.no_grad()
def test_magnitude_invariant_base_does_not_depend_on_the_seed_of_the_generator():
    _, graph = network()
    one, other = (make_generator("magnitude_invariant", seed=seed, deviation=1e-6).generate(graph) for seed in (0, 1))
    for (a, usual, _), (b, _, _) in zip(matrices_of(graph, one), matrices_of(graph, other), strict=True):
        assert (a - b).abs().max() < 1e-3 * usual
        assert a.std() == pytest.approx(usual, rel=0.3)


ANCHORED = {"anchor": 1.0, "deviation": 0.1}


def off_the_identity(weight, groups=1):
    """Distance of a weight from handing channels on, over the identity's own norm."""
    rows, columns = weight.shape[:2]
    identity = torch.zeros_like(weight)
    middle = [(size - 1) // 2 for size in weight.shape[2:]]
    for i in range(rows):
        column = i % (rows // groups) if groups > 1 else i % columns if rows % columns == 0 else i
        if column < columns:
            identity[(i, column, *middle)] = 1
    return ((weight - identity).norm() / identity.norm()).item()


@torch.no_grad()
def test_anchored_layers_start_near_the_identity(decoder):
    module = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 5, groups=8), nn.Conv2d(8, 8, 3, groups=2),
        nn.Conv2d(8, 8, 1), nn.Conv2d(8, 16, 1), nn.Conv2d(16, 4, 1), nn.Conv2d(4, 4, (1, 3)), nn.Conv2d(4, 4, 7),
        nn.Conv2d(4, 4, 1, bias=False),
    )  # fmt: skip
    graph = trace(module, torch.zeros(1, 1, 24, 24))
    parameters = make_generator("anchored", decoder, **ANCHORED).generate(graph)
    for i in range(1, 9):
        assert off_the_identity(parameters[f"{i}.weight"], module[i].groups) < 0.5, i
    linears = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 24), nn.Linear(24, 6), nn.Linear(6, 6), nn.Linear(6, 2))
    parameters = make_generator("anchored", decoder, **ANCHORED).generate(linears, example_inputs=torch.zeros(1, 8))
    for i in range(4):
        assert off_the_identity(parameters[f"{i}.weight"]) < 0.5, i
    assert off_the_identity(parameters["4.weight"]) > 0.5  # classes are no channels


@torch.no_grad()
def test_anchor_and_deviation_are_the_strengths_of_identity_and_rest():
    module = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4))
    parameters = make_generator("anchored", anchor=0.5, deviation=1e-6).generate(
        module, example_inputs=torch.zeros(1, 16)
    )
    torch.testing.assert_close(
        parameters["1.weight"], parameters["1.weight"].mean() * 16 * torch.eye(16), atol=1e-4, rtol=0
    )
    assert parameters["1.weight"].diagonal().mean() == pytest.approx(0.5, abs=0.2)


@torch.no_grad()
def test_anchored_kernels_are_predicted_by_the_node():
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.Conv2d(4, 2, 1))
    generator = make_generator("anchored", deviation=0.0)
    generator.parametrization.kernel.weight.zero_()
    generator.parametrization.kernel.bias.copy_(torch.arange(25.0))
    weight = generator.generate(module, example_inputs=torch.zeros(1, 1, 6, 6))["1.weight"]
    expected = torch.arange(25.0).view(5, 5)[1:4, 1:4]
    for i in range(4):
        for j in range(4):
            torch.testing.assert_close(weight[i, j], expected if i == j else torch.zeros(3, 3))


def deep_mlp(width, depth=20):
    layers = [part for _ in range(depth) for part in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(nn.Linear(8, width), *layers, nn.Linear(width, 10)), torch.Size([64, 8])


def deep_cnn(width, depth=20):
    layers = [part for _ in range(depth) for part in (nn.Conv2d(width, width, 3, padding=1), nn.ReLU())]
    return nn.Sequential(nn.Conv2d(1, width, 3, padding=1), *layers, nn.Conv2d(width, 10, 1)), torch.Size([16, 1, 8, 8])


def layer_sizes(module, parameters, x):
    """Root mean square of what each layer puts out."""
    sizes = []
    for i, part in enumerate(module):
        own = {name.split(".")[1]: value for name, value in parameters.items() if name.startswith(f"{i}.")}
        x = torch.func.functional_call(part, own, (x,))
        if own:
            sizes.append(x.square().mean().sqrt().item())
    return sizes


@pytest.mark.parametrize(("make", "width"), [(deep_mlp, 8), (deep_mlp, 48), (deep_cnn, 8), (deep_cnn, 24)])
@torch.no_grad()
def test_activations_neither_vanish_nor_explode_in_anchored_networks(make, width, decoder):
    module, shape = make(width)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    graph = trace(module, x)
    growth = []
    for seed in range(3):
        parameters = make_generator("anchored", decoder, seed, **ANCHORED).generate(graph)
        first, *_, last, _ = layer_sizes(module, parameters, x)
        growth.append(math.log(last / first) / 20)
    # Per layer and in the middle of the seeds; 0.85 to 1.25 is what 20 layers bear without norms.
    assert math.log(0.85) < sorted(growth)[1] < math.log(1.25)


def test_the_anchor_learns():
    _, graph = network()
    generator = make_generator("anchored")
    (flat,) = generator(batch_graphs([graph_features(graph)]))
    flat.square().sum().backward()
    for name in ("kernel.weight", "kernel.bias", "vectors", "gains"):
        assert generator.parametrization.get_parameter(name).grad.abs().sum() > 0, name
