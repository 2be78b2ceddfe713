"""A recurrent network over weight tokens whose outputs condition a diffusion of each token (RPG)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor, nn

from hypergen.generators.conditions import ConditionEncoder
from hypergen.generators.latent_diffusion.latent_denoiser import LatentDenoiser
from hypergen.generators.latent_diffusion.model import sample_latents
from hypergen.generators.latent_diffusion.weight_autoencoder import PositionFeatures
from hypergen.generators.registry import register_generator
from hypergen.generators.tokens.statistics import TokenStatistics
from hypergen.generators.zoo_generator import Condition, ZooGenerator
from hypergen.graph import ComputationalGraph


@register_generator
class RecurrentDiffusion(ZooGenerator):
    """Writes a network token by token: a recurrent state says what each token is about, a diffusion what it is.

    Wang et al., *Recurrent Diffusion for Large-Scale Parameter Generation*, 2025 (arXiv 2501.11587). With positions
    p_t and the condition's embedding c, ``h_t, s_t = GRU([p_t, c], s_{t-1})``, and each token is denoised on its own,
    given ``h_t``. Tokens are handled window by window with the state carried over, so memory does not grow with depth.
    A GRU stands for the published Mamba, which needs a GPU. Unlike there, nothing tells the generator which checkpoint
    it reproduces.

    Args:
        layouts: Those of the zoo, each a shape by parameter name.
        token_size: Values per token.
        width: Width of the recurrent state; and of what it says of a token.
        depth: Recurrent layers.
        denoiser_hidden: Width of the denoiser.
        denoiser_layers: Its residual blocks.
        window: Tokens that are handled together.
        code_size: Numbers in a task code; 0 for none. This and the next are those of
            :class:`~hypergen.generators.conditions.ConditionEncoder`.
        metric_size: Metrics to reach.
        text_buckets: Different words of a text.
        num_train_timesteps: Number of timesteps of the noise schedule.
        sampling_steps: Number of sampling steps of DDIM.

    Shapes:
        tokens ``[networks, num_tokens, token_size]``; prototypes ``[networks, num_tokens, width]``.
    """

    example_arguments = {
        "token_size": 4,
        "code_size": 2,
        "width": 16,
        "window": 5,
        "denoiser_hidden": 16,
        "denoiser_layers": 1,
        "sampling_steps": 3,
    }
    example_condition = {"code": [0, 1]}

    def __init__(
        self,
        layouts: Sequence[Mapping[str, Sequence[int]]],
        token_size: int = 64,
        width: int = 192,
        depth: int = 2,
        denoiser_hidden: int = 256,
        denoiser_layers: int = 3,
        window: int = 256,
        code_size: int = 0,
        metric_size: int = 0,
        text_buckets: int = 0,
        num_train_timesteps: int = 1000,
        sampling_steps: int = 20,
    ) -> None:
        super().__init__()
        self.window, self.sampling_steps = window, sampling_steps
        self.statistics = TokenStatistics(layouts, token_size)
        self.positions = PositionFeatures(width, width)
        self.condition_encoder = ConditionEncoder(width, code_size, metric_size, text_buckets)
        self.recurrent = nn.GRU(2 * width, width, depth, batch_first=True)
        self.prototype = nn.Sequential(nn.Linear(3 * width, width), nn.GELU(), nn.Linear(width, width))
        self.denoiser = LatentDenoiser(token_size, width, denoiser_hidden, denoiser_layers)
        self.scheduler = DDPMScheduler(
            num_train_timesteps=num_train_timesteps,
            beta_schedule="squaredcos_cap_v2",
            prediction_type="v_prediction",
            clip_sample=False,
            timestep_spacing="trailing",
        )
        self.sampling_scheduler: Any = DDIMScheduler.from_config(self.scheduler.config)

    @property
    def condition_kinds(self) -> tuple[str, ...]:
        """The kinds of condition that it knows."""
        return self.condition_encoder.kinds

    def prototypes(self, positions: Tensor, condition: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What the tokens of a window are about.

        Args:
            positions: ``[tokens, NUM_POSITIONS]``.
            condition: Embedded, ``[networks, width]``.
            state: State of the recurrent network after the window before.

        Returns:
            ``[networks, tokens, width]``, and the state afterwards.
        """
        places = self.positions(positions).expand(len(condition), -1, -1)
        told = condition[:, None].expand(-1, places.shape[1], -1)
        out, state = self.recurrent(torch.cat([places, told], 2), state)
        return self.prototype(torch.cat([out, places, told], 2)), state

    def windows(self, number: int, condition: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """The windows of a layout, and the prototypes in each; gradients stay within a window."""
        positions = self.statistics.positions(number, condition.device)
        state = None
        for start in range(0, len(positions), self.window):
            part = slice(start, min(start + self.window, len(positions)))
            found, state = self.prototypes(positions[part], condition, state)
            state = state.detach()
            yield part, found

    def sample_stacked(
        self,
        target: nn.Module | ComputationalGraph,
        conditions: Sequence[Condition],
        random: torch.Generator,
        example_inputs: Any = None,
    ) -> dict[str, Tensor]:
        """Denoise the tokens of each window in turn.

        Raises:
            GeneratorError: A condition is unknown, missing or does not fit, or the layout was not in the zoo.
        """
        number = self.statistics.number_of(target)
        known = self.condition_encoder.at_home(self.condition_encoder.collate(conditions))
        embedded = self.condition_encoder(known, len(conditions))
        parts = []
        for _, found in self.windows(number, embedded):
            drawn = sample_latents(
                self.denoiser, self.sampling_scheduler, found.flatten(0, 1), random, self.sampling_steps
            )
            parts.append(drawn.unflatten(0, (len(conditions), -1)))
        return self.statistics.decode(number, torch.cat(parts, 1))
