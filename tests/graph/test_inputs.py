"""Inputs that networks of other libraries tell; Hugging Face's are in tests/architectures/test_hugging_face.py."""

import diffusers
import pytest
import torch
from torch import nn
from torch_geometric.nn import GCN

import hypergen
from hypergen.errors import TraceError
from hypergen.graph.inputs import example_arguments


def shapes(model):
    args, kwargs = example_arguments(model)
    return [tuple(value.shape) for value in (*args, *kwargs.values())]


def test_diffusers():
    blocks = {"block_out_channels": (32, 32), "layers_per_block": 1, "norm_num_groups": 8}
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(
            sample_size=(8, 16), in_channels=2, cross_attention_dim=24, attention_head_dim=4,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
            **blocks,
        )  # fmt: skip
        dit = diffusers.DiTTransformer2DModel(2, 4, in_channels=3, num_layers=1, sample_size=8)
    assert shapes(unet) == [(1, 2, 8, 16), (1,), (1, 8, 24)]
    assert shapes(dit) == [(1, 3, 8, 8), (1,), (1,)]
    assert hypergen.trace(unet).unused_parameters == hypergen.trace(dit).unused_parameters == ()


def test_an_argument_that_diffusers_does_not_tell():
    with torch.device("meta"):
        controlled = diffusers.ControlNetModel(layers_per_block=1)
    with pytest.raises(TraceError, match="ControlNetModel takes 'controlnet_cond'.*example_inputs"):
        example_arguments(controlled)


def test_pytorch_geometric():
    assert shapes(GCN(5, 8, 2, 3)) == [(4, 5), (2, 8)]
    assert hypergen.trace(GCN(5, 8, 2, 3)).unused_parameters == ()


def test_torchvision_beyond_classification():
    models = pytest.importorskip("torchvision").models
    with torch.device("meta"):
        raft = models.get_model("raft_small", weights=None)
        detector = models.get_model("ssdlite320_mobilenet_v3_large", weights=None, weights_backbone=None)
    assert shapes(raft) == [(1, 3, 128, 128)] * 2
    args, _ = example_arguments(detector)
    assert [tuple(image.shape) for image in args[0]] == [(3, 224, 224)]


class Wrapper(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *args, **kwargs):
        return self.inner(*args, **kwargs)


def test_a_wrapper_takes_what_the_network_in_it_takes():
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, vocab_size=50
    )
    base = transformers.LlamaForCausalLM(config)
    expected = example_arguments(base)[1].keys()
    assert example_arguments(Wrapper(Wrapper(base)))[1].keys() == expected
    adapted = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["q_proj"]))  # without a task type
    assert example_arguments(adapted)[1].keys() == expected
    assert "lora_A" in str(hypergen.trace(adapted).parameter_shapes)
