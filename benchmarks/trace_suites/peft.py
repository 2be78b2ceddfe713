"""Small language and vision models wrapped by PEFT's methods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import peft
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from benchmarks.trace_suites import Case

EXCLUDED: Mapping[str, str] = {}

_TARGETS: dict[str, Any] = {"target_modules": ["q_proj", "v_proj"]}

METHODS: dict[str, Any] = {
    "lora": partial(peft.LoraConfig, r=4, **_TARGETS),
    "dora": partial(peft.LoraConfig, r=4, use_dora=True, **_TARGETS),
    "lora-and-head": partial(peft.LoraConfig, r=4, modules_to_save=["lm_head"], **_TARGETS),
    "lora-embedding": partial(peft.LoraConfig, r=4, target_modules=["embed_tokens", "q_proj"]),
    "adalora": partial(peft.AdaLoraConfig, init_r=4, target_r=2, total_step=10, **_TARGETS),
    "ia3": partial(peft.IA3Config, target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "loha": partial(peft.LoHaConfig, r=4, **_TARGETS),
    "lokr": partial(peft.LoKrConfig, r=4, **_TARGETS),
    "vera": partial(peft.VeraConfig, r=4, **_TARGETS),
    "oft": partial(peft.OFTConfig, r=4, oft_block_size=0, **_TARGETS),
    "boft": partial(peft.BOFTConfig, boft_block_size=4, **_TARGETS),
    "fourier": partial(peft.FourierFTConfig, n_frequency=10, **_TARGETS),
    "layer-norm": partial(peft.LNTuningConfig, target_modules=["input_layernorm"]),
    "prompt": partial(peft.PromptTuningConfig, num_virtual_tokens=4, task_type="CAUSAL_LM"),
    "prefix": partial(peft.PrefixTuningConfig, num_virtual_tokens=4, task_type="CAUSAL_LM"),
    "p-tuning": partial(peft.PromptEncoderConfig, num_virtual_tokens=4, encoder_hidden_size=16, task_type="CAUSAL_LM"),
}


def cases() -> Iterator[Case]:
    """Every method on a small Llama; LoRA on the convolutional layers of GPT-2, too, and twice on one model."""
    for name, config in METHODS.items():
        yield Case(name, partial(_wrapped, config), _tokens)
    yield Case("lora-gpt2", _gpt2, _tokens)
    yield Case("two-adapters", _two_adapters, _tokens)
    yield Case("merged", _merged, _tokens)


def _llama() -> nn.Module:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2,
        )
    )  # fmt: skip


def _wrapped(config: Any) -> nn.Module:
    return peft.get_peft_model(_llama(), config())


def _gpt2() -> nn.Module:
    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4)
    return peft.get_peft_model(GPT2LMHeadModel(config), peft.LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True))


def _two_adapters() -> nn.Module:
    model = _wrapped(METHODS["lora"])
    model.add_adapter("second", METHODS["lora"]())
    model.base_model.set_adapter(["default", "second"])
    return model


def _merged() -> nn.Module:
    return _wrapped(METHODS["lora"]).merge_and_unload()


def _tokens() -> dict[str, torch.Tensor]:
    return {"input_ids": torch.arange(16)[None]}
