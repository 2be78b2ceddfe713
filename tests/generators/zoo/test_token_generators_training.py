"""Generators of weight tokens learn zoos in which the condition decides the weights."""

import json

import pytest
import torch
from pytorch_lightning import Trainer
from torch import nn

import hypergen
from hypergen.errors import ParameterError
from hypergen.generators.autoregressive.model import AutoregressiveGenerator
from hypergen.generators.autoregressive.training import AutoregressiveGeneratorTraining
from hypergen.generators.hyper_representation.model import HyperRepresentation
from hypergen.generators.hyper_representation.training import HyperRepresentationTraining
from hypergen.generators.recurrent_diffusion.model import RecurrentDiffusion
from hypergen.generators.recurrent_diffusion.training import RecurrentDiffusionTraining
from hypergen.generators.tokens.network_batches import LayoutNetworks

KINDS = {
    HyperRepresentation: (
        HyperRepresentationTraining,
        {"latent_size": 8, "width": 32, "depth": 1, "heads": 2, "anchors": 64, "neighbours": 4},
    ),
    RecurrentDiffusion: (
        RecurrentDiffusionTraining,
        {"width": 64, "depth": 1, "denoiser_hidden": 64, "denoiser_layers": 2, "sampling_steps": 10, "window": 3},
    ),
    AutoregressiveGenerator: (
        AutoregressiveGeneratorTraining,
        {"width": 32, "depth": 1, "heads": 2, "codebook_size": 32, "codes_per_token": 2},
    ),
}
generators = pytest.mark.parametrize("kind", list(KINDS))


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))


def zoo(count: int = 256) -> LayoutNetworks:
    """Two directions of weight space, of which the code says how far along each."""
    torch.manual_seed(0)
    codes = torch.randint(2, (count, 2)).float()
    shapes = {name: value.shape for name, value in network().named_parameters()}
    parameters = {}
    for name, shape in shapes.items():
        directions = torch.randn(2, *shape)
        exact = torch.einsum("nk,k...->n...", 2 * codes - 1, directions)
        parameters[name] = exact + 0.05 * torch.randn(count, *shape)
    return LayoutNetworks(network(), parameters, [{"code": code.tolist()} for code in codes])


def train(kind, steps: int, networks: LayoutNetworks | None = None, **options):
    training, settings = KINDS[kind]
    networks = networks or zoo()
    torch.manual_seed(0)
    layout = {name: list(value.shape) for name, value in network().named_parameters()}
    generator = kind([layout], token_size=4, code_size=2, **settings)
    module = training(generator, [networks], steps=steps, learning_rate=5e-3, average_decay=0.95, **options)
    trainer = Trainer(max_steps=steps, logger=False, enable_progress_bar=False, accelerator="cpu",
                      enable_checkpointing=False, enable_model_summary=False)  # fmt: skip
    trainer.fit(module)
    module.log = lambda *_, **__: None  # tests ask for losses outside of a run
    return module, networks


@generators
def test_what_is_generated_is_what_the_condition_says(kind):
    module, networks = train(kind, 400 if kind is RecurrentDiffusion else 200)
    generator = module.generator.eval()
    asked = networks.conditions[:40]
    with torch.no_grad():
        found = generator.sample(network(), asked, seed=1)
    wanted = {name: value[:40] for name, value in networks.parameters.items()}
    error, size = (
        sum((found[name] - value).square().sum() for name, value in wanted.items()),
        sum(value.square().sum() for value in wanted.values()),
    )
    # Networks of other codes are as far as the networks are large, or twice as far.
    assert error < 0.15 * size


@generators
def test_a_step_is_determined_by_its_number_and_seed(kind):
    first, second, other = (train(kind, 4, seed=seed)[0] for seed in (0, 0, 1))
    states = [module.generator.state_dict() for module in (first, second, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])


@generators
def test_no_parameter_is_left_without_a_gradient(kind):
    module, _ = train(kind, 2)
    for seed in range(8):  # Windows differ.
        module.loss(0, torch.arange(32), torch.Generator().manual_seed(seed)).backward()
    seen = {name for name, p in module.generator.named_parameters() if p.grad is not None and p.grad.any()}
    left = {name for name, _ in module.generator.named_parameters()} - seen
    # Absent conditions are only learned where they are left out; GPT-2 has a table of words that are not used.
    assert all("absent" in name or "wte" in name for name in left), left


def test_views_with_permuted_units():
    groups = [[("0.weight", 0), ("0.bias", 0), ("1.weight", 1)]]
    module, _ = train(HyperRepresentation, 3, groups=groups)
    assert module.loss(0, torch.arange(8), torch.Generator().manual_seed(0)).isfinite()


def test_an_empty_zoo_is_refused():
    with pytest.raises(ParameterError, match="there are none"):
        train(RecurrentDiffusion, 1, LayoutNetworks(network(), {}, []))


def test_the_experiment_end_to_end(run, tmp_path):
    run("experiment=hyper_representation", "debug=fast", "logger=none", "zoo.tasks.number=16",
                 "zoo.tasks.held_out=4", "zoo.networks=48", "generator.anchors=16")  # fmt: skip
    rows = {row["figure"]: row for row in json.loads((tmp_path / "results.json").read_text())["rows"]}
    assert {"generated_accuracy", "linear_accuracy", "generated_accuracy_by_run", "zoo_seconds"} <= set(rows)
    assert rows["zoo_networks"]["value"] == 48
    assert type(hypergen.load_generator(tmp_path / "generator")) is HyperRepresentation
