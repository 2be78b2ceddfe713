"""One battery for the generators that write networks as sequences of weight tokens."""

import pytest
import torch
from torch import nn

import hypergen
from hypergen.errors import GeneratorError, ParameterError
from hypergen.generators.autoregressive.model import AutoregressiveGenerator
from hypergen.generators.autoregressive.vector_quantizer import ResidualQuantizer
from hypergen.generators.gaussian.model import Gaussian
from hypergen.generators.hyper_representation.model import HyperRepresentation
from hypergen.generators.recurrent_diffusion.model import RecurrentDiffusion
from hypergen.generators.tokens.statistics import TokenStatistics

SMALL = {
    HyperRepresentation: {"latent_size": 4, "width": 16, "depth": 1, "heads": 2, "anchors": 6, "neighbours": 3},
    RecurrentDiffusion: {"width": 16, "denoiser_hidden": 16, "denoiser_layers": 1, "sampling_steps": 3},
    Gaussian: {"rank": 3},
    AutoregressiveGenerator: {"width": 16, "depth": 1, "heads": 2, "codebook_size": 12, "codes_per_token": 3},
}
generators = pytest.mark.parametrize("kind", list(SMALL))
CPU = torch.device("cpu")


def network(hidden: int = 5) -> nn.Module:
    return nn.Sequential(nn.Linear(6, hidden), nn.Tanh(), nn.Linear(hidden, 3))


def layout(hidden: int = 5) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in network(hidden).named_parameters()}


def stacked(count: int = 8, hidden: int = 5) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {name: torch.randn(count, *shape) + 1 for name, shape in layout(hidden).items()}


def make(kind, *layouts, **options):
    torch.manual_seed(0)
    settings = {"token_size": 4, "code_size": 2, **SMALL[kind], **options}
    generator = kind(list(layouts) or [layout()], **settings)
    for number, each in enumerate(layouts or [layout()]):
        hidden = each["0.bias"][0]
        generator.statistics.measure(number, stacked(hidden=hidden))
        codes = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).repeat(4, 1)
        if kind is Gaussian:
            generator.fit_statistics(number, stacked(hidden=hidden), [{"code": code} for code in codes])
        if kind is HyperRepresentation:
            generator.keep_anchors(number, stacked(hidden=hidden), codes)
        if kind is AutoregressiveGenerator:
            generator.quantizer.fit(generator.statistics.encode(number, stacked(hidden=hidden)).flatten(0, 1))
    return generator.eval()


@generators
def test_a_network_of_the_layout_is_written(kind):
    generator, model = make(kind), network()
    found = generator.generate(model, {"code": [0, 1]})
    assert {name: list(value.shape) for name, value in found.items()} == layout()
    many = generator.sample(model, [{"code": [0, 1]}, {"code": [1, 0]}, {"code": [1, 1]}])
    assert many["0.weight"].shape == (3, 5, 6)
    report = hypergen.initialize(model, generator, condition={"code": [0, 1]}, example_inputs=torch.zeros(1, 6))
    assert report.share_of_parameters_predicted == 1
    # Transformers take another path without gradients, so the last bits may differ.
    torch.testing.assert_close(model[0].weight.detach(), found["0.weight"].detach())


@generators
def test_the_same_seed_gives_the_same_networks(kind):
    generator, model = make(kind), network()
    first, again, other = (generator.sample(model, [{"code": [0, 1]}] * 2, seed=seed)["0.weight"] for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])


@generators
def test_saving_and_loading(kind, tmp_path):
    generator, model = make(kind), network()
    generator.save_pretrained(tmp_path / "it")
    loaded = hypergen.load_generator(tmp_path / "it")
    assert type(loaded) is kind
    before, after = (each.generate(model, {"code": [1, 0], "seed": 5}) for each in (generator, loaded))
    assert all(torch.equal(before[name], after[name]) for name in before)


@generators
def test_several_layouts_and_unknown_ones(kind):
    generator = make(kind, layout(5), layout(9))
    for hidden in (5, 9):
        assert generator.generate(network(hidden), {"code": [0, 1]})["0.weight"].shape == (hidden, 6)
    with pytest.raises(GeneratorError, match="layout of the zoo"):
        generator.generate(network(7), {"code": [0, 1]})
    with pytest.raises(GeneratorError, match="at least one"):
        kind([])


@generators
@pytest.mark.parametrize("condition", [{}, {"code": [1]}, {"code": [0, 1], "metrik": 2}, {"metric": 0.1}])
def test_conditions_that_do_not_fit_are_refused(kind, condition):
    with pytest.raises(GeneratorError, match="code|metrik|metric"):
        make(kind).generate(network(), condition)


def test_standardising_is_undone_and_zero_is_the_mean_network():
    statistics = TokenStatistics([layout()], 4)
    networks = stacked()
    statistics.measure(0, networks)
    tokens = statistics.encode(0, networks)
    assert tokens[..., statistics.values(0, CPU)].std() == pytest.approx(1, abs=0.1)
    for name, value in statistics.decode(0, tokens).items():
        torch.testing.assert_close(value, networks[name])
    for name, value in statistics.decode(0, torch.zeros_like(tokens[:1])).items():
        torch.testing.assert_close(value[0], networks[name].mean(0))
    # A zoo of one network has no deviations to divide by.
    statistics.measure(0, {name: value[:1] for name, value in networks.items()})
    assert statistics.encode(0, networks).isfinite().all()


def test_recurrent_diffusion_says_the_same_in_windows_of_any_length():
    condition = torch.randn(2, 16)
    found = []
    for window in (3, 256):
        generator = make(RecurrentDiffusion, window=window)
        found.append(torch.cat([part for _, part in generator.windows(0, condition)], 1))
    torch.testing.assert_close(found[0], found[1])
    assert not torch.allclose(found[0][0], found[0][1])


def test_hyper_representation_samples_near_the_anchors_of_the_nearest_conditions():
    generator = make(HyperRepresentation, bandwidth=0.0, joint=True, neighbours=1)
    positions = generator.statistics.positions(0, CPU)
    near = generator.conditions_0[:, 0] == 1
    anchors = generator.statistics.decode(0, generator.decode(generator.latents_0[near], positions))
    found = generator.sample(network(), [{"code": [1, 0]}] * 5)
    distance = torch.cdist(found["0.weight"].flatten(1), anchors["0.weight"].flatten(1)).min(1).values
    assert distance.max() < 1e-3
    spread = make(HyperRepresentation, bandwidth=1.0).sample(network(), [{"code": [1, 0]}] * 5)
    assert torch.cdist(spread["0.weight"].flatten(1), anchors["0.weight"].flatten(1)).min(1).values.min() > 1e-2
    with pytest.raises(GeneratorError, match="neighbours"):
        make(HyperRepresentation, neighbours=7)


def test_hyper_representation_reads_long_networks_window_by_window():
    generator = make(HyperRepresentation, window=4)
    tokens, positions = generator.statistics.encode(0, stacked()), generator.statistics.positions(0, CPU)
    whole = generator.encode(tokens, positions)
    torch.testing.assert_close(whole[:, 4:8], generator.encode(tokens[:, 4:8], positions[4:8]))


def test_codes_drawn_one_by_one_are_those_of_the_whole():
    generator = make(AutoregressiveGenerator, temperature=0.0)
    positions, condition = generator.statistics.positions(0, CPU), torch.randn(3, 16)
    codes = generator.draw(positions, condition, torch.Generator())
    assert torch.equal(generator.logits(codes, positions, condition).argmax(-1), codes)
    assert codes.unique().numel() > 1


def test_no_code_depends_on_later_ones():
    generator = make(AutoregressiveGenerator)
    torch.nn.init.normal_(generator.correct.weight)
    positions, condition = generator.statistics.positions(0, CPU), torch.randn(1, 16)
    codes = torch.randint(12, (1, len(positions), 3))
    before = generator.logits(codes, positions, condition)
    changed = codes.clone()
    changed[:, 5, 1:] = (changed[:, 5, 1:] + 1) % 12
    changed[:, 6:] = (changed[:, 6:] + 1) % 12
    after = generator.logits(changed, positions, condition)
    torch.testing.assert_close(after[:, :5], before[:, :5])
    torch.testing.assert_close(after[:, 5, :2], before[:, 5, :2])
    assert not torch.allclose(after[:, 5, 2], before[:, 5, 2]) and not torch.allclose(after[:, 6], before[:, 6])


def test_each_codebook_refines_those_before_it():
    torch.manual_seed(0)
    vectors = torch.randn(2000, 3)
    quantizer = ResidualQuantizer(3, 16, 3)
    quantizer.fit(vectors)
    codes, sums = quantizer(vectors), quantizer.partial_sums(quantizer(vectors))
    errors = (sums - vectors[:, None]).square().mean((0, 2))
    assert (
        errors[0] == pytest.approx(vectors.square().mean().item(), rel=1e-4) and (errors[1:] < 0.5 * errors[:-1]).all()
    )
    assert all(codes[:, stage].unique().numel() == 16 for stage in range(3))
    # The last code is the nearest entry to what is left.
    left = vectors - sums[:, 2]
    nearest = (left[:, None] - quantizer.codebooks[2]).square().sum(2).argmin(1)
    assert torch.equal(nearest, codes[:, 2])
    with pytest.raises(ParameterError, match="15 weight tokens cannot be sorted into 16"):
        quantizer.fit(vectors[:15])


def test_gaussian_samples_have_the_moments_of_the_zoo():
    torch.manual_seed(0)
    # Networks of three directions of change, and a mean that depends on the code.
    directions = {name: torch.randn(3, *shape) for name, shape in layout().items()}
    codes, along = torch.randint(2, (400, 2)).float(), torch.randn(400, 3)
    networks = {
        name: torch.einsum("nr,r...->n...", along, value) + 5 * codes[:, 0].view(-1, *[1] * (value.dim() - 1))
        for name, value in directions.items()
    }
    generator = Gaussian([layout()], rank=3, penalty=1e-3, code_size=2, token_size=4)
    generator.fit_statistics(0, networks, [{"code": code} for code in codes])
    for code in ([0.0, 0.0], [1.0, 1.0]):
        found = generator.sample(network(), [{"code": code}] * 2000)
        flat = torch.cat([value.flatten(1) for value in found.values()], 1)
        truth = torch.cat([value.flatten(1) for value in directions.values()], 1)
        torch.testing.assert_close(flat.mean(0), torch.full((flat.shape[1],), 5 * code[0]), atol=0.4, rtol=0)
        covariance = torch.cov(flat.T)
        assert (covariance - truth.T @ truth).norm() < 0.2 * (truth.T @ truth).norm()
    with pytest.raises(ValueError, match="rank"):
        Gaussian([layout()], rank=-1)
