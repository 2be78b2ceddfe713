"""Latent diffusion over the weights of a zoo: an autoencoder of weight tokens and a denoiser of its latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor, nn

from hypergen.errors import GeneratorError
from hypergen.functional import expected_shapes
from hypergen.generators.conditions import ConditionEncoder
from hypergen.generators.ghn.features import GraphFeatures, graph_features
from hypergen.generators.latent_diffusion.architecture_encoder import ArchitectureEncoder
from hypergen.generators.latent_diffusion.latent_denoiser import LatentDenoiser
from hypergen.generators.latent_diffusion.linear_denoiser import LinearDenoiser
from hypergen.generators.latent_diffusion.weight_autoencoder import WeightAutoencoder
from hypergen.generators.latent_diffusion.weight_components import WeightComponents
from hypergen.generators.registry import register_generator
from hypergen.generators.tokens.weight_tokens import LayoutBatch, WeightTokens
from hypergen.generators.zoo_generator import Condition, ZooGenerator
from hypergen.graph import ComputationalGraph, trace


@register_generator
class LatentDiffusion(ZooGenerator):
    """Samples weights by denoising a latent of an autoencoder, for a task, a metric to reach and an architecture.

    After D2NWG (Soro et al., *Diffusion-Based Neural Network Weights Generation*, 2024, arXiv:2402.18153) and COND
    P-DIFF (Jin et al., *Conditional LoRA Parameter Generation*, 2024, arXiv:2408.01415). Unlike COND P-DIFF, what
    normalises weights is the same for all tasks. A latent says what a network does, for a task or a metric; the decoder
    writes it for an architecture, which it reads as the computational graph.

    Args:
        layouts: Those of the zoo, each a shape by parameter name. Others can be generated only with an embedding of
            the architecture.
        token_size: Values per weight token.
        latent_size: Length of the latent of a network.
        hidden: Width of the autoencoder.
        latent_noise: Strength of the latent noise of the autoencoder, at the start of training.
        denoiser_hidden: Width of the denoiser.
        denoiser_layers: Its residual blocks.
        condition_size: Length of the condition's embedding.
        code_size: Numbers in a task code; 0 for none. This and the next five are those of
            :class:`~hypergen.generators.conditions.ConditionEncoder`.
        metric_size: Metrics to reach.
        text_buckets: Different words of a text.
        example_size: Values in a labelled example's input.
        example_labels: Different labels of examples.
        condition_dropout: How often a kind of condition is left out in training, as for classifier-free guidance.
        architecture_size: Length of the embedding of the computational graph; 0 for none.
        prediction_type: What the denoiser predicts: ``"sample"``, ``"v_prediction"`` or ``"epsilon"``.
        num_train_timesteps: Number of timesteps of the noise schedule.
        sampling_steps: Number of sampling steps of DDIM.
        guidance_scale: Scale of classifier-free guidance; 1 for none.
        linear: For zoos of few tasks and one layout, such as some dozens of adapters: principal components instead of
            the learned autoencoder, and a denoiser that is linear in latent and condition, which takes
            ``prediction_type="sample"``.

    Raises:
        GeneratorError: ``linear`` contradicts another argument.
    """

    example_arguments = {
        "token_size": 4,
        "latent_size": 6,
        "hidden": 16,
        "denoiser_hidden": 16,
        "denoiser_layers": 1,
        "condition_size": 8,
        "code_size": 2,
        "sampling_steps": 3,
    }
    example_condition = {"code": [0, 1]}

    def __init__(
        self,
        layouts: Sequence[Mapping[str, Sequence[int]]] = (),
        token_size: int = 64,
        latent_size: int = 128,
        hidden: int = 256,
        latent_noise: float = 0.1,
        denoiser_hidden: int = 256,
        denoiser_layers: int = 3,
        condition_size: int = 128,
        code_size: int = 0,
        metric_size: int = 0,
        text_buckets: int = 0,
        example_size: int = 0,
        example_labels: int = 0,
        condition_dropout: float = 0.0,
        architecture_size: int = 0,
        prediction_type: str = "v_prediction",
        num_train_timesteps: int = 1000,
        sampling_steps: int = 25,
        guidance_scale: float = 1.0,
        linear: bool = False,
    ) -> None:
        super().__init__()
        if linear and (len(layouts) != 1 or architecture_size or prediction_type != "sample"):
            raise GeneratorError(
                'linear=True needs one layout, architecture_size=0 and prediction_type="sample"; got '
                f"{len(layouts)} layouts, {architecture_size} and {prediction_type!r}."
            )
        self.known_layouts = frozenset(WeightTokens(_shapes(layout), token_size).key for layout in layouts)
        self.token_size = token_size
        self.sampling_steps = sampling_steps
        self.guidance_scale = guidance_scale
        self.autoencoder: Any
        if linear:
            num_tokens = WeightTokens(_shapes(layouts[0]), token_size).num_tokens
            self.autoencoder = WeightComponents(num_tokens, token_size, latent_size, latent_noise)
        else:
            self.autoencoder = WeightAutoencoder(token_size, latent_size, hidden, architecture_size, latent_noise)
        self.condition_encoder = ConditionEncoder(
            condition_size, code_size, metric_size, text_buckets, example_size, example_labels, condition_dropout
        )
        self.architecture_encoder = ArchitectureEncoder(architecture_size) if architecture_size else None
        self.denoiser: Any
        if linear:
            self.denoiser = LinearDenoiser(latent_size, condition_size)
        else:
            self.denoiser = LatentDenoiser(latent_size, condition_size, denoiser_hidden, denoiser_layers)
        self.scheduler = DDPMScheduler(
            num_train_timesteps=num_train_timesteps,
            beta_schedule="squaredcos_cap_v2",
            prediction_type=prediction_type,
            clip_sample=False,
            timestep_spacing="trailing",
        )
        self.sampling_scheduler: Any = DDIMScheduler.from_config(self.scheduler.config)

    @property
    def condition_kinds(self) -> tuple[str, ...]:
        """The kinds of condition that it knows."""
        return self.condition_encoder.kinds

    def sample_stacked(
        self,
        target: nn.Module | ComputationalGraph,
        conditions: Sequence[Condition],
        random: torch.Generator,
        example_inputs: Any = None,
    ) -> dict[str, Tensor]:
        """Denoise a latent for each condition, and decode it into the target's layout.

        Raises:
            GeneratorError: A condition is unknown, missing or does not fit; or the layout was not in the zoo and the
                generator is not conditioned on architectures.
            TraceError: The target could not be traced, for its architecture.
        """
        guided = self.guidance_scale != 1
        if guided and not self.condition_encoder.config.dropout:
            raise GeneratorError(
                f"guidance_scale={self.guidance_scale} compares with no condition, which is learned only with a "
                "condition_dropout above 0. Train with one, or leave the scale at 1."
            )
        layout, graph = self.read_target(target, example_inputs)
        layouts = LayoutBatch.of([layout], self.device)
        architectures = self.embed_architectures([graph])
        known = self.condition_encoder.at_home(self.condition_encoder.collate(conditions))
        latents = sample_latents(
            self.denoiser,
            self.sampling_scheduler,
            self.condition_encoder(known, len(conditions)),
            random,
            self.sampling_steps,
            self.condition_encoder({}, len(conditions)) if guided else None,
            self.guidance_scale,
        )
        own = latents * self.autoencoder.latent_std + self.autoencoder.latent_mean
        only = torch.zeros(len(own), dtype=torch.int64)
        return self.network(self.autoencoder.decode(own, layouts, only, architectures), layout)

    def read_target(
        self, target: nn.Module | ComputationalGraph, example_inputs: Any = None
    ) -> tuple[WeightTokens, GraphFeatures | None]:
        """The layout of a target, and its graph where the generator is conditioned on architectures.

        Raises:
            GeneratorError: The layout was not in the zoo, and the generator is not conditioned on architectures.
            TraceError: The target could not be traced.

        Of a target with frozen parameters, such as one with an adapter, the rest may be the layout.
        """
        shapes = expected_shapes(target) if isinstance(target, nn.Module) else target.parameter_shapes
        layout = WeightTokens(_shapes(shapes), self.token_size)
        if isinstance(target, nn.Module) and layout.key not in self.known_layouts:
            layout = self._known_adapter(target) or layout
        if self.architecture_encoder is not None:
            graph = trace(target, example_inputs) if isinstance(target, nn.Module) else target
            return layout, graph_features(graph, "as_traced")
        if layout.key not in self.known_layouts:
            raise GeneratorError(
                f"The zoo of this generator had no network with these {len(layout.shapes)} parameters "
                f"({', '.join(f'{name} {list(shape)}' for name, shape in list(layout.shapes.items())[:4])}, …), and it "
                "is not conditioned on architectures. Pass a network of a layout of the zoo, or train with "
                "architecture_size above 0."
            )
        return layout, None

    def _known_adapter(self, target: nn.Module) -> WeightTokens | None:
        """The layout of what is trained of a target whose other parameters are frozen, if the zoo had it."""
        trained = {name: tuple(value.shape) for name, value in target.named_parameters() if value.requires_grad}
        layout = WeightTokens(trained, self.token_size) if trained else None
        return layout if layout is not None and layout.key in self.known_layouts else None

    def embed_architectures(self, graphs: Sequence[GraphFeatures | None]) -> Tensor | None:
        """``[len(graphs), architecture_size]``; None where the generator is not conditioned on architectures."""
        if self.architecture_encoder is None:
            return None
        return self.architecture_encoder([graph for graph in graphs if graph is not None])

    def network(self, tokens: Tensor, layout: WeightTokens) -> dict[str, Tensor]:
        """Tokens in scale, ``[networks, num_tokens, token_size]`` → stacked parameters by name."""
        return layout.decode(tokens[:, : layout.num_tokens] * self.autoencoder.scales(layout))


def sample_latents(
    denoiser: nn.Module,
    scheduler: Any,
    condition: Tensor,
    random: torch.Generator,
    steps: int,
    without_condition: Tensor | None = None,
    guidance_scale: float = 1.0,
) -> Tensor:
    """Denoise latents from pure noise.

    Args:
        denoiser: Predicts what the scheduler says.
        scheduler: One of diffusers'.
        condition: ``[batch, condition_size]``.
        random: Draws the noise.
        steps: Number of steps of the scheduler.
        without_condition: What the denoiser reads where there is no condition, for guidance.
        guidance_scale: Scale of classifier-free guidance.

    Returns:
        ``[batch, latent_size]``.
    """
    config: Any = denoiser.config
    # Drawn where the generator of random numbers is, so that all devices start from the same noise.
    latents = torch.randn(len(condition), config.latent_size, generator=random, device=random.device)
    latents = latents.to(condition)
    scheduler.set_timesteps(steps, device=condition.device)
    for time in scheduler.timesteps:
        scaled = scheduler.scale_model_input(latents, time)
        times = time.expand(len(latents))
        predicted = denoiser(scaled, times, condition)
        if without_condition is not None:
            unconditioned = denoiser(scaled, times, without_condition)
            predicted = unconditioned + guidance_scale * (predicted - unconditioned)
        latents = scheduler.step(predicted, time, latents).prev_sample
    return latents


def _shapes(layout: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(shape) for name, shape in layout.items()}
