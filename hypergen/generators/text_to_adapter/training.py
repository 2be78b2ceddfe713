"""Training a generator of adapters: components first, then what adapted models do."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from hypergen.adapters import Adapter, check_fit, model_names
from hypergen.adapters.stack import Form, StackedAdapters, stack_adapters
from hypergen.data.zoo import LayoutNetworks
from hypergen.errors import GeneratorError, missing_extra
from hypergen.generators.latent_diffusion.behaviour import divergence
from hypergen.generators.latent_diffusion.training import LatentDiffusionTraining
from hypergen.generators.text_to_adapter.model import TextToAdapter
from hypergen.generators.tokens.network_batches import TrainingZoo


@dataclass(frozen=True)
class TextToAdapterReport:
    """How close adapted models with generated adapters come to those with trained ones, on the inputs of training.

    Attributes:
        closed: Share of the divergence between the base and trained adapters that generated ones close, for texts of
            training; 1 is as trained, 0 as the base. None without inputs.
        closed_shuffled: The same, each adapter generated for another one's text: what is closed without reading.
        closed_held_out: The same for adapters that were held out; None without any.
    """

    closed: float | None = None
    closed_shuffled: float | None = None
    closed_held_out: float | None = None

    def __str__(self) -> str:
        """In words."""
        if self.closed is None:
            return "Not measured: the generator was trained without inputs."
        text = (
            f"Of what trained adapters change in the outputs, generated ones give {self.closed:.2f} for texts of "
            f"training ({self.closed_shuffled:.2f} with the texts shuffled)"
        )
        if self.closed_held_out is not None:
            text += f" and {self.closed_held_out:.2f} for held-out texts"
        if self.closed < 0.5:
            return f"{text}. They do not work yet: train for more steps, or with more or more alike adapters."
        if (self.closed_shuffled or 0) > 0.5 * self.closed:
            return f"{text}. The text hardly matters: the adapters may be much alike, or the texts say too little."
        return f"{text}."


def train_text_to_adapter(
    adapters: Sequence[Adapter] | StackedAdapters,
    texts: Sequence[str | Sequence[str]],
    base: nn.Module,
    inputs: Tensor | None = None,
    *,
    form: Form = "aligned",
    held_out: Sequence[int] = (),
    steps: tuple[int, int] = (300, 150),
    learning_rates: tuple[float, float] = (5e-3, 3e-3),
    networks_per_step: int = 32,
    inputs_per_step: int = 16,
    behaviour_weight: float = 10.0,
    seed: int = 0,
    **arguments: Any,
) -> tuple[TextToAdapter, TextToAdapterReport]:
    """Train a generator on adapters of one base and their texts.

    Args:
        adapters: Adapters of one base, of any ranks and scales, or stacked already.
        texts: A text for each adapter, or several wordings of it.
        base: The base model. Its outputs may be those of Hugging Face models. On the meta device without inputs.
        inputs: What adapted models are compared on, ``[number, …]``, such as token numbers ``[number, length]``;
            without any, only the adapters' weights count, which is fast and rarely enough.
        form: Form of the adapters' factors; see :func:`hypergen.adapters.stack_adapters`.
        held_out: Positions of adapters that are only measured on.
        steps: Number of steps on weights, and on what adapted models do.
        learning_rates: Peak learning rates of both.
        networks_per_step: Adapters of a batch.
        inputs_per_step: Inputs of a batch.
        behaviour_weight: Weight of the divergence of outputs.
        seed: Random seed.
        **arguments: Arguments of :class:`TextToAdapter`.

    Returns:
        The generator, and how well it does.

    Raises:
        GeneratorError: Numbers of texts and adapters differ, or a text is none.
        ParameterError: An adapter does not fit the base, or they adapt different modules.
    """
    stacked = adapters if isinstance(adapters, StackedAdapters) else stack_adapters(adapters, form)
    wordings = [[text] if isinstance(text, str) else list(text) for text in texts]
    if len(wordings) != len(stacked) or not all(wordings):
        raise GeneratorError(f"There are {len(wordings)} texts for {len(stacked)} adapters. Pass one or more for each.")
    check_fit(stacked.adapter(0, "the first adapter"), base)
    model = adapted_model(base, stacked.config)
    parameters = _in_order(model, model_names(stacked.parameters))
    training = [number for number in range(len(stacked)) if number not in set(held_out)]
    rows = torch.tensor([number for number in training for _ in wordings[number]])
    conditions: list[dict[str, object]] = [{"text": text} for number in training for text in wordings[number]]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layout = {name: list(value.shape[1:]) for name, value in parameters.items()}
        generator = TextToAdapter([layout], _plain(stacked.config), **arguments)
        own = {name: value[rows] for name, value in parameters.items()}
        zoo = TrainingZoo.read(generator, [LayoutNetworks(model, own, conditions)])
        probes = torch.zeros(1, 1) if inputs is None else inputs
        stages: list[dict[str, Any]] = [
            {"latent_weight": 1.0, "behaviour_weight": 0.0},
            {"latent_weight": 0.3, "behaviour_weight": behaviour_weight},
        ]
        for stage, options in enumerate(stages[: 1 if inputs is None else 2]):
            module = LatentDiffusionTraining(
                generator,
                zoo,
                probes,
                steps=steps[stage],
                learning_rate=learning_rates[stage],
                noise_exponent=3.0,
                networks_per_step=networks_per_step,
                inputs_per_step=inputs_per_step,
                seed=2 * seed + stage,
                **options,
            )
            _fit(module, steps[stage])
    generator.eval()
    if inputs is None:
        return generator, TextToAdapterReport()
    run = zoo.outputs[0]
    first = [words[0] for words in wordings]
    report = _measure(generator, model, run, parameters, first, inputs, training, list(held_out))
    return generator, report


def adapted_model(base: nn.Module, config: Mapping[str, Any]) -> nn.Module:
    """The base under an adapter of PEFT of this configuration; the base's own modules are changed.

    Raises:
        HypergenError: PEFT is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise missing_extra("Training adapters", "peft", "peft") from error
    names = ("r", "lora_alpha", "target_modules", "rank_pattern", "alpha_pattern", "fan_in_fan_out", "use_rslora")
    own = {name: config[name] for name in names if config.get(name) is not None}
    return peft.get_peft_model(base, peft.LoraConfig(**own)).eval()


@torch.no_grad()
def _measure(
    generator: TextToAdapter,
    model: nn.Module,
    run: Any,
    parameters: Mapping[str, Tensor],
    texts: Sequence[str],
    inputs: Tensor,
    training: list[int],
    held_out: list[int],
) -> TextToAdapterReport:
    inputs = inputs[:64]

    def closed(numbers: list[int], given: list[str]) -> float:
        there = total = 0.0
        for number, text in zip(numbers, given, strict=True):
            expected = run({name: value[number : number + 1] for name, value in parameters.items()}, inputs)
            none = {name: torch.zeros_like(value[:1]) for name, value in parameters.items()}
            sampled = generator.sample(model, [{"text": text}], seed=number)
            there += float(divergence(run(sampled, inputs), expected))
            total += float(divergence(run(none, inputs), expected))
        return 1 - there / total if total else float("nan")

    shown = training[:: max(1, len(training) // 32)]
    turned = shown[1:] + shown[:1]
    return TextToAdapterReport(
        closed(shown, [texts[number] for number in shown]),
        closed(shown, [texts[number] for number in turned]),
        closed(held_out, [texts[number] for number in held_out]) if held_out else None,
    )


def _fit(module: pl.LightningModule, steps: int) -> None:
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    trainer = pl.Trainer(
        accelerator="cpu" if "CUDA_VISIBLE_DEVICES" not in os.environ and not torch.cuda.is_available() else "auto",
        devices=1,
        max_steps=steps,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module)


def _in_order(model: nn.Module, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors in the order of the model's parameters."""
    return {name: named[name] for name, value in model.named_parameters() if value.requires_grad}


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: sorted(value) if isinstance(value, (set, frozenset)) else value for key, value in config.items()}
