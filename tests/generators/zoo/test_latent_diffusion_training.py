import json
from functools import partial
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.data import DataLoader

import hypergen
from hypergen.errors import ParameterError
from hypergen.generators.latent_diffusion.autoencoder_training import WeightAutoencoderTraining
from hypergen.generators.latent_diffusion.behaviour import behaviour_loss
from hypergen.generators.latent_diffusion.model import LatentDiffusion
from hypergen.generators.latent_diffusion.training import LatentDiffusionTraining
from hypergen.generators.tokens.network_batches import LayoutNetworks, NetworkBatches, TrainingZoo

SMALL: dict[str, Any] = {"token_size": 8, "latent_size": 16, "hidden": 32, "denoiser_hidden": 32, "condition_size": 16}


def network(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, o in zip((8, *widths), (*widths, 1), strict=True):
        layers += [nn.Linear(i, o), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def family(model: nn.Module, codes: torch.Tensor, seed: int = 0) -> LayoutNetworks:
    """Networks whose weights are linear in a code."""
    random = torch.Generator().manual_seed(seed)
    parameters = {}
    for name, value in model.named_parameters():
        base = torch.randn(value.shape, generator=random) * 0.3
        directions = torch.randn(3, *value.shape, generator=random) * 0.3
        parameters[name] = base + torch.einsum("nk,k...->n...", codes, directions)
    return LayoutNetworks(model, parameters, [{"code": code} for code in codes.tolist()])


def read(*networks: LayoutNetworks, more: Any = (), **arguments: Any) -> tuple[LatentDiffusion, TrainingZoo]:
    torch.manual_seed(0)
    layouts = [{name: list(value.shape[1:]) for name, value in each.parameters.items()} for each in networks]
    generator = LatentDiffusion(layouts=layouts, code_size=3, **{**SMALL, **arguments})
    return generator, TrainingZoo.read(generator, networks, more, example_inputs=torch.zeros(1, 8))


def fit(module: Any, zoo: TrainingZoo, other_layouts: float = 0.0) -> dict[str, float]:
    batches = NetworkBatches(zoo, len(module.inputs), 16, 8, other_layouts, seed=0)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=module.steps,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(batches, batch_size=None))
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


CODES = (torch.arange(8)[:, None] >> torch.arange(3) & 1).float()


def test_it_learns_networks_of_unseen_codes():
    model, inputs = network(4), torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    networks = family(model, CODES)
    seen = torch.tensor([0, 1, 2, 3, 4, 5, 6])
    train = LayoutNetworks(
        model,
        {name: value[seen] for name, value in networks.parameters.items()},
        [networks.conditions[i] for i in seen],
    )
    generator, zoo = read(train)
    fit(WeightAutoencoderTraining(generator, zoo, inputs, steps=150, learning_rate=1e-2, warmup_steps=5), zoo)
    assert not torch.equal(generator.autoencoder.latent_mean, torch.zeros(16))
    metrics = fit(LatentDiffusionTraining(generator, zoo, inputs, steps=150, learning_rate=5e-3, warmup_steps=5), zoo)
    assert metrics["behaviour"] < 0.05
    with torch.no_grad():
        found = generator.eval().sample(network(4), [networks.conditions[7]] * 4)
    expected, generated, mean = (
        functional_call(model, values, (inputs,)).detach()
        for values in (
            {name: value[7] for name, value in networks.parameters.items()},
            {name: value.mean(0) for name, value in found.items()},
            {name: value.mean(0) for name, value in train.parameters.items()},
        )
    )
    assert F.mse_loss(generated, expected) < 0.5 * F.mse_loss(mean, expected)


def test_gradients_reach_everything():
    inputs = torch.randn(8, 8)
    generator, zoo = read(
        family(network(4), CODES), family(network(6, 6), CODES, 1), more=[network(5)], architecture_size=4
    )
    with torch.no_grad():
        generator.denoiser.leave.weight.normal_()
    first = WeightAutoencoderTraining(generator, zoo, inputs)
    second = LatentDiffusionTraining(generator, zoo, inputs)
    networks, inputs_of = torch.arange(16), torch.arange(8)
    batch, own = (networks, torch.arange(16) % 3, inputs_of), (networks, zoo.layout, inputs_of)
    for module in (first, second):
        module.log_dict = lambda *_, **__: None  # type: ignore[method-assign]
        for each in (batch, own):
            module.training_step(each, 0).backward()
    without = [name for name, value in generator.named_parameters() if value.grad is None]
    # The one word for what is absent is read only with a condition that may be.
    assert without == ["condition_encoder.absent.code"]


def test_behaviour_is_compared_across_layouts():
    model = network(4)
    networks = family(model, CODES)
    # The same functions in a wider layout, with units that do nothing.
    from experiments.diffusion_tasks.resizing import resize_networks

    wide = network(6)
    padded = resize_networks(networks.parameters, {name: tuple(value.shape) for name, value in wide.named_parameters()})
    generator, zoo = read(networks, LayoutNetworks(wide, padded, networks.conditions), architecture_size=4)
    inputs, numbers = torch.randn(8, 8), torch.arange(8)
    across = behaviour_loss(generator, zoo, numbers, zoo.tokens[8:], zoo.layout[8:], inputs)
    assert across.abs() < 1e-5
    mixed = torch.tensor([1, 0] * 4)
    tokens = torch.where(mixed[:, None, None] == 1, zoo.tokens[8:], zoo.tokens[:8])
    assert behaviour_loss(generator, zoo, numbers, tokens, mixed, inputs).abs() < 1e-5
    assert behaviour_loss(generator, zoo, numbers, zoo.tokens[8:].roll(1, 0), zoo.layout[8:], inputs) > 1e-3


def test_scales_do_not_depend_on_the_task():
    networks = family(network(4), CODES)
    generator, zoo = read(networks)
    scaled = zoo.tokens[:, zoo.layouts.values[0]]
    assert scaled.square().mean().sqrt() == pytest.approx(1.0, abs=0.2)
    assert generator.autoencoder.role_scale.dim() == 1  # By role alone.


def test_metrics_are_standardised_by_the_zoo():
    networks = family(network(4), CODES)
    with_metric = [{"code": each["code"], "metric": 10.0 + number} for number, each in enumerate(networks.conditions)]
    generator, zoo = read(LayoutNetworks(networks.model, networks.parameters, with_metric), metric_size=1)
    assert generator.condition_encoder.metric_mean.item() == pytest.approx(13.5)
    assert zoo.conditions["metric"].flatten().tolist() == [10.0 + number for number in range(8)]


def test_batches_are_the_same_for_a_seed():
    _, zoo = read(family(network(4), CODES))
    draws = [next(iter(NetworkBatches(zoo, 8, 16, 8, 0.0, seed=seed))) for seed in (0, 0, 1)]
    assert all(torch.equal(a, b) for a, b in zip(draws[0], draws[1], strict=True))
    assert not torch.equal(draws[0][0], draws[2][0])


def test_batches_are_decoded_into_other_layouts_as_often_as_they_shall():
    _, zoo = read(family(network(4), CODES), family(network(6, 6), CODES), more=[network(5)], architecture_size=4)
    for share, expected in ((0.0, {True}), (0.5, {True, False})):
        batches = NetworkBatches(zoo, 8, 16, 8, share, seed=0)
        draws = [batch for batch, _ in zip(batches, range(64), strict=False)]
        assert {torch.equal(into, zoo.layout[networks]) for networks, into, _ in draws} == expected
        assert {int(zoo.layout[networks].unique()) for networks, _, _ in draws} == {0, 1}
    assert 2 in {int(into.unique()) for _, into, _ in draws}


def test_no_networks_are_refused():
    with pytest.raises(ParameterError, match="there are none"):
        TrainingZoo.read(LatentDiffusion(**SMALL), [])


def test_the_experiment_in_small(run, tmp_path):
    results = run("experiment=diffusion_tasks", "debug=fast", "layouts=[[4]]", "unseen_layouts=[[5,5]]")
    written = json.loads((tmp_path / "results.json").read_text())
    figures = {row["figure"] for row in written["rows"] if row["aim"] is not None}
    assert figures == {
        "run_seconds",
        "generated_accuracy",
        "generated_below_trained",
        "sparse_zoo_margin_over_best_baseline",
        "finetuned_10_steps_generated",
        "unseen_architecture_margin",
    }
    assert {"finetuned_10_steps_init", "unseen_architecture_resized_accuracy"} <= {row.figure for row in results.rows}
    assert (tmp_path / "results.md").exists() and list(tmp_path.glob("*.png"))
    generator = hypergen.load_generator(tmp_path / "generator")
    from hypergen.architectures import Architecture

    mlp = partial(Architecture, "mlp")
    sizes = {"image_size": 8, "channels": 1, "num_classes": 1, "norm": "none"}
    report = hypergen.initialize(mlp({**sizes, "widths": [16]}).build(), generator, condition={"code": [0, 1] * 5})
    assert report.share_of_parameters_predicted == 1


def test_a_seen_width_or_depth_is_no_unseen_layout(run):
    with pytest.raises(Exception, match=r"unseen layout \[5\] has a width or a depth"):
        run("experiment=diffusion_tasks", "debug=fast", "layouts=[[4]]", "unseen_layouts=[[5]]")


def test_the_experiment_on_losses_in_small(run, tmp_path):
    results = run("experiment=diffusion_losses", "debug=fast", "prompts=8")
    assert {"generated_prompt_correlation", "margin_over_noise_at_equal_novelty"} == {
        row.figure for row in results.rows if row.aim is not None
    }
    assert hypergen.load_generator(tmp_path / "generator").condition_kinds == ("metric",)
