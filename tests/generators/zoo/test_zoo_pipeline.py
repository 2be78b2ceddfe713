"""Every generator of a zoo is a pipeline of diffusers."""

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from torch import nn

import hypergen
from hypergen.errors import GeneratorError
from hypergen.generators.autoregressive.model import AutoregressiveGenerator
from hypergen.generators.checkpoint_transformer.model import CheckpointTransformer
from hypergen.generators.hyper_representation.model import HyperRepresentation
from hypergen.generators.latent_diffusion.model import LatentDiffusion
from hypergen.generators.recurrent_diffusion.model import RecurrentDiffusion
from hypergen.generators.zoo_pipeline import ZooPipeline

SHAPES = {"0.weight": [4, 6], "0.bias": [4], "2.weight": [2, 4], "2.bias": [2]}
ATTENTION = {"token_size": 4, "code_size": 2, "width": 16, "depth": 1, "heads": 2}
LATENT = {"layouts": [SHAPES], "token_size": 4, "latent_size": 6, "hidden": 16, "denoiser_hidden": 16,
          "denoiser_layers": 1, "condition_size": 8, "code_size": 2, "sampling_steps": 3}  # fmt: skip
ARGUMENTS = {
    "latent": (LatentDiffusion, LATENT),
    "latent with architectures": (LatentDiffusion, {**LATENT, "architecture_size": 4}),
    "recurrent": (RecurrentDiffusion, {"layouts": [SHAPES], "token_size": 4, "code_size": 2, "width": 16, "window": 5,
                                       "denoiser_hidden": 16, "denoiser_layers": 1, "sampling_steps": 3}),
    "checkpoints": (CheckpointTransformer, {"layouts": [{"shapes": SHAPES}], "width": 16, "depth": 1, "heads": 2,
                                            "sampling_steps": 3}),
    "hyper-representation": (HyperRepresentation, {"layouts": [SHAPES], **ATTENTION, "anchors": 6, "neighbours": 3}),
    "autoregressive": (AutoregressiveGenerator, {"layouts": [SHAPES], **ATTENTION, "codebook_size": 9}),
}  # fmt: skip
diffusions = pytest.mark.parametrize("kind", ["latent", "recurrent", "checkpoints"])


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))


def make(kind):
    torch.manual_seed(0)
    made, arguments = ARGUMENTS[kind]
    generator = made(**arguments).eval()
    for tensor in (*generator.parameters(), *generator.buffers()):  # What begins at zero hides mistakes.
        if tensor.is_floating_point() and not tensor.any():
            nn.init.normal_(tensor, std=0.5)
    return generator


def conditions(kind):
    return [{"metric": 0.5}, {"metric": 0.1}] if kind == "checkpoints" else [{"code": [0, 1]}, {"code": [1, 1]}]


def call(pipeline, kind, **options):
    random = torch.Generator().manual_seed(3)
    given = {"generator": random, "example_inputs": torch.zeros(1, 6), **options}
    return pipeline(network(), conditions(kind), **given).parameters


@pytest.mark.parametrize("kind", list(ARGUMENTS))
def test_a_saved_pipeline_gives_what_the_generator_gives(kind, tmp_path):
    generator, image = make(kind), torch.zeros(1, 6)
    pipeline = generator.pipeline()
    pipeline.save_pretrained(tmp_path)
    # diffusers' own way of loading without accelerate.
    loaded = ZooPipeline.from_pretrained(tmp_path, low_cpu_mem_usage=False)
    with torch.no_grad():
        expected = generator.sample(network(), conditions(kind), seed=3, example_inputs=image)
        back = loaded.generator().sample(network(), conditions(kind), seed=3, example_inputs=image)
    for found in (call(pipeline, kind), call(loaded, kind), back):
        assert list(found) == list(expected)
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert type(loaded.generator()) is type(generator) and loaded.generator().config == generator.config
    assert not torch.equal(expected["0.weight"][0], expected["0.weight"][1])
    target = network()
    hypergen.initialize(target, loaded.generator(), condition=conditions(kind)[0], example_inputs=image)


@diffusions
def test_schedulers_are_swapped_and_the_generator_keeps_its_own(kind):
    generator = make(kind)
    pipeline, before = generator.pipeline(), call(generator.pipeline(), kind)
    fewer = call(pipeline, kind, num_inference_steps=2)
    assert not torch.equal(fewer["0.weight"], before["0.weight"])
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    other = call(pipeline, kind, num_inference_steps=2)["0.weight"]
    assert other.isfinite().all() and not torch.equal(other, fewer["0.weight"])
    again = call(generator.pipeline(), kind)
    assert all(torch.equal(again[name], value) for name, value in before.items())


@pytest.mark.parametrize("option", ["num_inference_steps", "guidance_scale"])
def test_what_a_generator_does_not_have_is_refused(option):
    with pytest.raises(GeneratorError, match=f"AutoregressiveGenerator has no {option}. Leave it out"):
        call(make("autoregressive").pipeline(), "autoregressive", **{option: 2})
