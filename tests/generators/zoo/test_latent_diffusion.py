from typing import Any

import pytest
import torch
from torch import nn

import hypergen
from hypergen.errors import CheckpointError, GeneratorError, ParameterError
from hypergen.generators.latent_diffusion.model import LatentDiffusion

SMALL: dict[str, Any] = {
    "token_size": 8,
    "latent_size": 6,
    "hidden": 16,
    "denoiser_hidden": 16,
    "denoiser_layers": 1,
    "condition_size": 8,
    "num_train_timesteps": 100,
    "sampling_steps": 3,
}
LAYOUT = {"0.weight": [4, 8], "0.bias": [4], "2.weight": [1, 4], "2.bias": [1]}


def network(width: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 1))


def make(**arguments: Any) -> LatentDiffusion:
    torch.manual_seed(0)
    generator = LatentDiffusion(layouts=[LAYOUT], **{**SMALL, "code_size": 3, **arguments})
    nn.init.normal_(generator.denoiser.leave.weight)  # Which begins at zero, where conditions don't matter.
    return generator.eval()


CODE = {"code": [0, 1, 1]}


def test_samples_have_the_parameters_of_the_target():
    generator = make()
    stacked = generator.sample(network(), [CODE, CODE, {"code": [1.0, 0, 0]}])
    assert {name: list(value.shape) for name, value in stacked.items()} == {
        name: [3, *shape] for name, shape in LAYOUT.items()
    }
    assert not torch.equal(stacked["0.weight"][0], stacked["0.weight"][1])  # Two samples of one condition differ.


def test_the_seed_decides_and_the_global_generator_is_left_alone():
    generator, model = make(), network()
    state = torch.random.get_rng_state()
    first = generator.sample(model, [CODE], seed=1)["0.weight"]
    assert torch.equal(first, generator.sample(model, [CODE], seed=1)["0.weight"])
    assert not torch.equal(first, generator.sample(model, [CODE], seed=2)["0.weight"])
    random = torch.Generator().manual_seed(1)
    assert torch.equal(first, generator.sample(model, [CODE], seed=random)["0.weight"])
    assert not torch.equal(first, generator.sample(model, [CODE], seed=random)["0.weight"])
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_condition_matters():
    generator = make()
    one, other = (generator.sample(network(), [{"code": code}])["0.weight"] for code in ([0, 0, 0], [1, 1, 1]))
    assert not torch.equal(one, other)


def test_it_is_a_generator():
    model, generator = network(), make()
    with torch.device("meta"):
        target = network()
    parameters = hypergen.predict_params(target, generator, condition={**CODE, "seed": 5})
    assert torch.equal(parameters["0.weight"], generator.sample(target, [CODE], seed=5)["0.weight"][0])
    report = hypergen.initialize(model, generator, condition={**CODE, "seed": 5})
    assert report.share_of_parameters_predicted == 1
    assert torch.equal(model[0].weight, parameters["0.weight"])


def test_save_and_load_give_the_same_samples(tmp_path):
    generator = make(condition_dropout=0.1, metric_size=1, architecture_size=4)
    generator.autoencoder.role_scale.uniform_(0.5, 2)
    generator.autoencoder.latent_std.fill_(1.7)
    generator.condition_encoder.metric_mean.fill_(0.3)
    condition, image = {**CODE, "metric": 0.2}, torch.zeros(1, 8)
    expected = generator.sample(network(), [condition], example_inputs=image)
    generator.save_pretrained(tmp_path / "generator")
    loaded = hypergen.load_generator(tmp_path / "generator")
    assert isinstance(loaded, LatentDiffusion) and loaded.known_layouts == generator.known_layouts
    found = loaded.sample(network(), [condition], example_inputs=image)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    (tmp_path / "generator/model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError):
        hypergen.load_generator(tmp_path / "generator")


def test_an_unknown_layout_needs_the_architecture():
    with pytest.raises(GeneratorError, match=r"0.weight \[5, 8\].*not conditioned on architectures"):
        make().sample(network(5), [CODE])
    stacked = make(architecture_size=4).sample(network(5), [CODE], example_inputs=torch.zeros(1, 8))
    assert stacked["0.weight"].shape == (1, 5, 8)


def test_the_architecture_matters_beyond_the_layout():
    generator = make(architecture_size=4)
    tanh = nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 1))
    one, other = (generator.sample(each, [CODE], example_inputs=torch.zeros(1, 8)) for each in (network(), tanh))
    assert not torch.equal(one["0.weight"], other["0.weight"])


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ({"code": [0, 1]}, r"code must be 3 finite numbers; got \[0.0, 1.0\] \(2 of them\)"),
        ({"code": [0, 1, float("nan")]}, "3 finite numbers"),
        ({}, "lacks 'code'"),
        ({"code": [0, 1, 1], "text": "zero"}, "Unknown condition 'text'; this generator knows 'code'"),
    ],
)
def test_bad_conditions_are_named(condition, message):
    with pytest.raises(GeneratorError, match=message):
        make().sample(network(), [condition])


def test_no_or_other_conditions_are_refused():
    with pytest.raises(GeneratorError, match="no conditions"):
        make().sample(network(), [])
    with pytest.raises(GeneratorError, match="takes a condition by kind"):
        hypergen.predict_params(network(), make())
    with pytest.raises(GeneratorError, match="condition_dropout"):
        make(guidance_scale=2.0).sample(network(), [CODE])


def test_guidance_moves_away_from_no_condition():
    generator = make(condition_dropout=0.1)
    plain = generator.sample(network(), [CODE])["0.weight"]
    generator.guidance_scale = 3.0
    assert not torch.equal(plain, generator.sample(network(), [CODE])["0.weight"])
    generator.guidance_scale = 1.0
    assert not torch.equal(plain, generator.sample(network(), [{}])["0.weight"])


def test_networks_that_are_not_finite_are_refused():
    generator = make()
    with torch.no_grad():
        generator.autoencoder.write.bias.fill_(float("inf"))
    model = network()
    before = model[0].weight.clone()
    with pytest.raises(ParameterError, match=r"of the networks \[0\] is not finite"):
        hypergen.initialize(model, generator, condition=CODE)
    assert torch.equal(model[0].weight, before)


def test_samples_are_differentiable():
    generator = make(architecture_size=4)
    with torch.enable_grad():
        parameters = generator.generate(network(), CODE, example_inputs=torch.zeros(1, 8))
        sum(value.square().sum() for value in parameters.values()).backward()
    for part in (generator.denoiser, generator.condition_encoder.encoders, generator.architecture_encoder):
        assert any(value.grad is not None and value.grad.abs().sum() > 0 for value in part.parameters())


def test_all_kinds_of_conditions():
    generator = make(metric_size=1, text_buckets=64, example_size=8, example_labels=2)
    examples = (torch.randn(5, 8), torch.tensor([0, 1, 1, 0, 1]))
    condition = {**CODE, "metric": 0.1, "text": "Is it one of 1, 2?", "examples": examples}
    fewer = {**condition, "examples": (examples[0][:3], examples[1][:3])}
    both = generator.sample(network(), [condition, fewer])["0.weight"]
    alone = generator.condition_encoder(generator.condition_encoder.collate([fewer]))
    beside = generator.condition_encoder(generator.condition_encoder.collate([condition, fewer]))
    torch.testing.assert_close(alone[0], beside[1])  # Padding of the set does not count.
    assert both.isfinite().all()
    embed = generator.condition_encoder
    order = torch.tensor([4, 2, 0, 1, 3])
    shuffled = {**condition, "examples": (examples[0][order], examples[1][order])}
    torch.testing.assert_close(embed(embed.collate([condition])), embed(embed.collate([shuffled])))
    for kind, value in (("metric", 0.2), ("text", "something else"), ("examples", (examples[0], 1 - examples[1]))):
        other = embed(embed.collate([{**condition, kind: value}]))
        assert not torch.equal(other, embed(embed.collate([condition]))), kind
    for kind, value, message in (
        ("text", "", "string with words"),
        ("examples", (examples[0], examples[1] + 5), "from 0 to 1"),
        ("examples", (examples[0][:, :7], examples[1]), "has 7 values"),
        ("examples", examples[0], "pair"),
    ):
        with pytest.raises(GeneratorError, match=message):
            generator.sample(network(), [{**condition, kind: value}])
