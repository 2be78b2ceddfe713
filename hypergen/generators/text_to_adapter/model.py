"""A generator of LoRA adapters for texts, which needs no base model to write one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from hypergen.adapters import Adapter, folder_names
from hypergen.adapters.stack import adapter_of
from hypergen.errors import GeneratorError
from hypergen.generators.latent_diffusion.model import LatentDiffusion
from hypergen.generators.registry import register_generator


@register_generator
class TextToAdapter(LatentDiffusion):
    """Latent diffusion over adapters in one form, linear in latent and text, and PEFT's configuration beside it.

    The question is that of Charakorn et al., *Text-to-LoRA: Instant Transformer Adaption*, 2025, arXiv:2506.06105; the
    method is ``LatentDiffusion(linear=True)``, after COND P-DIFF (Jin et al., *Conditional LoRA Parameter Generation*,
    2024, arXiv:2408.01415), on adapters that :func:`hypergen.adapters.stack_adapters` has brought into one form, so
    that how their factors came about does not matter.

    Args:
        layouts: The one layout of adapters: shape by name of parameter of a ``PeftModel``.
        adapter_config: PEFT's configuration under which the written factors have the right scale.
        token_size: Values per weight token.
        latent_size: Components that adapters are written from.
        latent_noise: Standard deviation of the noise on latents in training, relative to theirs.
        condition_size: Length of a text's embedding.
        text_buckets: Different words and pairs of words that are told apart.
        sampling_steps: Number of sampling steps of DDIM.

    Raises:
        GeneratorError: There are several layouts.
    """

    example_arguments = {
        "token_size": 4,
        "latent_size": 6,
        "condition_size": 8,
        "text_buckets": 32,
        "sampling_steps": 3,
    }
    example_condition = {"text": "Answer with the last letter."}

    def __init__(
        self,
        layouts: Sequence[Mapping[str, Sequence[int]]],
        adapter_config: Mapping[str, Any] | None = None,
        token_size: int = 4,
        latent_size: int = 64,
        latent_noise: float = 0.1,
        condition_size: int = 64,
        text_buckets: int = 256,
        sampling_steps: int = 25,
    ) -> None:
        super().__init__(
            layouts,
            token_size,
            latent_size,
            latent_noise=latent_noise,
            condition_size=condition_size,
            text_buckets=text_buckets,
            sampling_steps=sampling_steps,
            prediction_type="sample",
            linear=True,
        )
        self.adapter_config = dict(adapter_config or {})
        self.layout = {name: tuple(shape) for name, shape in layouts[0].items()}

    def write(self, text: str, *, seed: int = 0, scale: float = 1.0) -> Adapter:
        """Write an adapter for a text; the base model is not needed.

        Args:
            text: What the adapter is to do, in words like those of training.
            seed: Random seed; another one gives another adapter for the same text.
            scale: Factor on the updates.

        Raises:
            GeneratorError: The text has no words, or the generator was not trained on adapters.
        """
        if not self.adapter_config:
            raise GeneratorError(
                "This generator has no adapter_config, so what it writes has no scale. Train it on adapters."
            )
        with torch.no_grad():
            stacked = self.sample(_skeleton(self.layout), [{"text": text}], seed=seed)
        state = folder_names({name: value[0] for name, value in stacked.items()})
        adapter = adapter_of(state, self.adapter_config, "generated")
        # As factors that have the scale in them, so that no configuration has to tell it.
        return adapter if scale == 1.0 else adapter.map(lambda each: replace(each.with_scale(1 / scale), scale=1.0))


def _skeleton(shapes: Mapping[str, Sequence[int]]) -> nn.Module:
    """A module without values whose parameters have these names and shapes."""
    root = nn.Module()
    for name, shape in shapes.items():
        *path, last = name.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module._modules[part]  # type: ignore[assignment]
        module.register_parameter(last, nn.Parameter(torch.empty(tuple(shape), device="meta")))
    return root
