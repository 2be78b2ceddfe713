"""The networks that predictions are timed on, at the defaults of their libraries; nothing is downloaded."""

from __future__ import annotations

from torch import nn

from hypergen.generators import Generator, list_generators, load_generator

RELEASED = "digits-ghn"


def resnet50() -> nn.Module:
    """25.6 million parameters: convolutions and batch norms."""
    from torchvision.models import resnet50

    return resnet50(weights=None)


def vit_b_16() -> nn.Module:
    """86.6 million parameters: attention, layer norms, a class token and a table of positions."""
    from torchvision.models import vit_b_16

    return vit_b_16(weights=None)


def convnext_tiny() -> nn.Module:
    """28.6 million parameters: depthwise convolutions, layer norms and layer scales."""
    from torchvision.models import convnext_tiny

    return convnext_tiny(weights=None)


def mobilenet_v3_large() -> nn.Module:
    """5.5 million parameters in many small operations: inverted bottlenecks and squeeze-excitation."""
    from torchvision.models import mobilenet_v3_large

    return mobilenet_v3_large(weights=None)


def gpt2_small() -> nn.Module:
    """124.4 million parameters, with a tied table of 50,257 tokens."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config())


def gpt2_large() -> nn.Module:
    """774.0 million parameters."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(n_embd=1280, n_layer=36, n_head=20))


def llama_7b() -> nn.Module:
    """6.7 billion parameters: Llama-2-7B's configuration, which is the library's default."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig())


NETWORKS = {build.__name__: build for build in (resnet50, vit_b_16, convnext_tiny, mobilenet_v3_large, gpt2_small)}


def benchmarked_generator() -> tuple[str, Generator]:
    """The released generator and its name; an untrained one of the same class, which takes as long, before there is."""
    if RELEASED in list_generators():
        return RELEASED, load_generator(RELEASED)
    from hypergen.generators.ghn.model import GraphHypernetwork

    return "untrained GraphHypernetwork()", GraphHypernetwork().eval()
