"""Flow matching over the aligned weights of a zoo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from hypergen.errors import GeneratorError
from hypergen.generators.conditions import ConditionEncoder
from hypergen.generators.latent_diffusion.latent_denoiser import LatentDenoiser
from hypergen.generators.registry import register_generator
from hypergen.generators.tokens.statistics import TokenStatistics
from hypergen.generators.zoo_generator import Condition, ZooGenerator
from hypergen.graph import ComputationalGraph

_TIMES = 1000


@register_generator
class FlowMatching(ZooGenerator):
    """Carries noise to the weights of a network along a learned flow.

    Gupta, Biggs, Laber, Shafi, Walters and Paul, *DeepWeightFlow: Re-Basined Flow Matching for Generating Neural
    Network Weights*, 2026 (arXiv:2601.05052). Networks are brought into one order of their hidden units first, as
    :class:`~hypergen.data.zoo.ZooDataModule` does; each is then one vector, standardised by the zoo, or its coordinates
    along the zoo's principal components. With a network ``x``, noise ``e`` and a time ``s`` from 0 to 1,
    ``x_s = (1 - s) x + s e``, and a residual perceptron learns the velocity ``e - x``, given ``x_s``, ``s`` and the
    condition. Sampling follows it from ``s = 1`` to ``s = 0`` by Euler's steps. Unlike the paper it takes conditions,
    and may be trained by what networks compute, too. Statistics of batch norms are not written: they are estimated
    afterwards (:func:`hypergen.functional.calibrate_batch_norm`).

    Args:
        layouts: Layouts of the zoo, each a shape by parameter name.
        components: Number of principal components; 0 for the weights themselves.
        hidden: Width of the velocity's perceptron.
        layers: Its residual blocks.
        condition_size: Length of the condition's embedding.
        code_size: Numbers in a task code; 0 for none.
        metric_size: Number of metrics; 0 for none.
        token_size: Values per token, within which weights have one scale.
        sampling_steps: Number of Euler's steps.
        temperature: Standard deviation of the noise that sampling starts from; below 1 samples are nearer the mean.

    Shapes:
        x: ``[networks, components]``, or ``[networks, num_tokens · token_size]``; s: ``[networks]``.

    Raises:
        GeneratorError: A size is negative.
    """

    example_arguments = {
        "components": 3,
        "hidden": 8,
        "layers": 1,
        "condition_size": 4,
        "code_size": 2,
        "token_size": 4,
        "sampling_steps": 3,
    }
    example_condition = {"code": [0.0, 1.0]}

    def __init__(
        self,
        layouts: Sequence[Mapping[str, Sequence[int]]],
        components: int = 128,
        hidden: int = 256,
        layers: int = 3,
        condition_size: int = 64,
        code_size: int = 0,
        metric_size: int = 0,
        token_size: int = 64,
        sampling_steps: int = 50,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        if components < 0 or sampling_steps < 1 or temperature < 0:
            raise GeneratorError(
                "components and temperature must be 0 or greater, sampling_steps positive; got "
                f"{components}, {temperature}, {sampling_steps}."
            )
        self.token_size = token_size
        self.components, self.sampling_steps, self.temperature = components, sampling_steps, temperature
        self.statistics = TokenStatistics(layouts, token_size)
        self.condition_encoder = ConditionEncoder(condition_size, code_size, metric_size)
        self.velocities, self.write = nn.ModuleList(), nn.ModuleList()
        for number, layout in enumerate(self.statistics.layouts):
            values = layout.num_tokens * token_size
            self.velocities.append(LatentDenoiser(components or values, condition_size, hidden, layers))
            if components:
                self.register_buffer(f"basis_{number}", torch.zeros(components, values))
                write = nn.Linear(components, values)
                nn.init.zeros_(write.weight)  # Set by the zoo's components.
                nn.init.zeros_(write.bias)
                self.write.append(write)
        self.sampling_scheduler: Any = FlowMatchEulerDiscreteScheduler(num_train_timesteps=_TIMES)

    @property
    def condition_kinds(self) -> tuple[str, ...]:
        """The kinds of condition that it knows."""
        return self.condition_encoder.kinds

    @torch.no_grad()
    def fit_statistics(self, number: int, stacked: Mapping[str, Tensor]) -> None:
        """Standardise the weights of a layout, and find their principal components.

        Args:
            number: Number of the layout.
            stacked: Aligned networks of the layout, ``[networks, *shape]`` by name.
        """
        self.statistics.measure(number, stacked)
        if not self.components:
            return
        z = self.statistics.encode(number, stacked).flatten(1)
        _, strength, main = torch.linalg.svd(z, full_matrices=False)
        kept = min(self.components, len(strength), max(len(z) - 1, 1))
        basis = getattr(self, f"basis_{number}").zero_()
        # One unit for all components, as for weights: weak ones stay weak.
        unit = strength[:kept].square().sum().div(max(len(z) - 1, 1) * kept).sqrt().clamp_min(1e-6)
        basis[:kept] = main[:kept] * unit
        self.write[number].weight.copy_(basis.T)  # type: ignore[operator, union-attr]

    def encode(self, number: int, stacked: Mapping[str, Tensor]) -> Tensor:
        """Networks of a layout as vectors, ``[networks, size]``."""
        z = self.statistics.encode(number, stacked).flatten(1)
        if not self.components:
            return z
        basis = getattr(self, f"basis_{number}")
        return z @ basis.T / basis.square().sum(1).clamp_min(1e-12)

    def decode(self, number: int, vectors: Tensor) -> dict[str, Tensor]:
        """Undo :meth:`encode`, within the span of the components unless these were trained on; differentiable."""
        z = self.write[number](vectors) if self.components else vectors
        return self.statistics.decode(number, z.unflatten(1, (-1, self.statistics.layouts[number].token_size)))

    def velocity(self, number: int, vectors: Tensor, times: Tensor, condition: Tensor) -> Tensor:
        """The learned velocity.

        Args:
            number: Number of the layout.
            vectors: ``[networks, size]``.
            times: From 0 (networks) to 1 (noise), ``[networks]``.
            condition: Embedded, ``[networks, condition_size]``.
        """
        return self.velocities[number](vectors, _TIMES * times, condition)

    def sample_stacked(
        self,
        target: nn.Module | ComputationalGraph,
        conditions: Sequence[Condition],
        random: torch.Generator,
        example_inputs: object = None,
    ) -> dict[str, Tensor]:
        """Follow the flow from noise, for each condition.

        Raises:
            GeneratorError: A condition is unknown, missing or does not fit, or the layout was not in the zoo.
        """
        number = self.statistics.number_of(target)
        known = self.condition_encoder.at_home(self.condition_encoder.collate(conditions))
        condition = self.condition_encoder(known, len(conditions))
        size = self.components or self.statistics.layouts[number].num_tokens * self.token_size
        vectors = self.temperature * torch.randn(len(conditions), size, generator=random).to(condition)
        scheduler = type(self.sampling_scheduler).from_config(self.sampling_scheduler.config)  # It counts its steps.
        scheduler.set_timesteps(self.sampling_steps, device=condition.device)
        for time in scheduler.timesteps:
            velocity = self.velocity(number, vectors, (time / _TIMES).expand(len(vectors)), condition)
            vectors = scheduler.step(velocity, time, vectors).prev_sample
        return self.decode(number, vectors)
