"""An autoencoder of weight tokens whose latents are sampled by kernel density estimation (SANE)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hypergen.errors import GeneratorError
from hypergen.generators.conditions import numbers_of
from hypergen.generators.latent_diffusion.weight_autoencoder import PositionFeatures
from hypergen.generators.registry import register_generator
from hypergen.generators.tokens.statistics import TokenStatistics
from hypergen.generators.zoo_generator import Condition, ZooGenerator
from hypergen.graph import ComputationalGraph


@register_generator
class HyperRepresentation(ZooGenerator):
    """Samples networks near those of a zoo whose conditions are nearest, in a learned latent space of tokens.

    Schürholt, Mahoney, Borth, *Towards Scalable and Versatile Weight Space Learning*, 2024 (arXiv 2406.09997). A
    transformer maps each token of a network, among the others of its window, to a latent, another one maps back; it is
    trained to reconstruct masked tokens, and to tell two views of a network from other networks. Latents of some of the
    zoo's networks, the anchors, are kept. To sample, each token's latent is drawn from a Gaussian kernel density
    estimate over the anchors of the nearest conditions: ``z_t = z_t(anchor) + h s_t ε``. Batch-norm statistics of a
    sampled network are to be estimated anew (``initialize(…, calibrate=…)``).

    Args:
        layouts: Those of the zoo, each a shape by parameter name.
        token_size: Values per token.
        latent_size: Length of a token's latent.
        width: Width of both transformers.
        depth: Blocks of each.
        heads: Number of attention heads.
        window: Tokens that attend to each other; longer networks are read window by window.
        anchors: Networks kept of each layout.
        neighbours: Anchors that a density is estimated from.
        bandwidth: h, in units of the anchors' standard deviation; None for Scott's rule.
        joint: Whether all tokens of a network come from one anchor; else each token is drawn for itself, as published.
        code_size: Numbers in a task code; 0 for none.
        metric_size: Metrics; 0 for none.

    Shapes:
        tokens ``[networks, num_tokens, token_size]`` ↔ latents ``[networks, num_tokens, latent_size]``.
    """

    example_arguments = {
        "token_size": 4,
        "code_size": 2,
        "width": 16,
        "depth": 1,
        "heads": 2,
        "anchors": 6,
        "neighbours": 3,
    }
    example_condition = {"code": [0, 1]}

    def __init__(
        self,
        layouts: Sequence[Mapping[str, Sequence[int]]],
        token_size: int = 64,
        latent_size: int = 32,
        width: int = 96,
        depth: int = 2,
        heads: int = 4,
        window: int = 256,
        anchors: int = 256,
        neighbours: int = 8,
        bandwidth: float | None = None,
        joint: bool = False,
        code_size: int = 0,
        metric_size: int = 0,
    ) -> None:
        super().__init__()
        if not 1 <= neighbours <= anchors:
            raise GeneratorError(f"neighbours must lie from 1 to the number of anchors, {anchors}; got {neighbours}.")
        self.window, self.neighbours, self.joint = window, neighbours, joint
        self.bandwidth = neighbours ** (-1 / 5) if bandwidth is None else bandwidth
        self.code_size, self.metric_size = code_size, metric_size
        self.statistics = TokenStatistics(layouts, token_size)
        self.read, self.write = nn.Linear(token_size, width), nn.Linear(width, token_size)
        self.read_positions, self.write_positions = PositionFeatures(width, width), PositionFeatures(width, width)
        self.encoder, self.decoder = (_transformer(width, depth, heads) for _ in range(2))
        self.to_latent, self.from_latent = nn.Linear(width, latent_size), nn.Linear(latent_size, width)
        for number, layout in enumerate(self.statistics.layouts):
            self.register_buffer(f"latents_{number}", torch.zeros(anchors, layout.num_tokens, latent_size))
            self.register_buffer(f"conditions_{number}", torch.zeros(anchors, code_size + metric_size))

    @property
    def condition_kinds(self) -> tuple[str, ...]:
        """The kinds of condition that it knows."""
        sizes = {"code": self.code_size, "metric": self.metric_size}
        return tuple(kind for kind, size in sizes.items() if size)

    def encode(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Latents of tokens, window by window.

        Args:
            tokens: Standardised, ``[networks, tokens, token_size]``.
            positions: ``[tokens, NUM_POSITIONS]``.
        """
        placed = self.read(tokens) + self.read_positions(positions)
        return torch.cat([self.to_latent(self.encoder(part)) for part in placed.split(self.window, 1)], 1)

    def decode(self, latents: Tensor, positions: Tensor) -> Tensor:
        """Tokens of latents, window by window; see :meth:`encode`."""
        placed = self.from_latent(latents) + self.write_positions(positions)
        return torch.cat([self.write(self.decoder(part)) for part in placed.split(self.window, 1)], 1)

    @torch.no_grad()
    def keep_anchors(self, number: int, stacked: Mapping[str, Tensor], conditions: Tensor, seed: int = 0) -> None:
        """Keep latents of some networks of a layout; of all, in turn, where there are fewer than anchors.

        Args:
            number: Number of the layout.
            stacked: ``[networks, *shape]`` by name.
            conditions: Code and metric of each, ``[networks, code_size + metric_size]``.
            seed: Random seed of the choice.
        """
        latents, kept = getattr(self, f"latents_{number}"), getattr(self, f"conditions_{number}")
        order = torch.randperm(len(conditions), generator=torch.Generator().manual_seed(seed))
        chosen = order[torch.arange(len(latents)) % len(order)]
        tokens = self.statistics.encode(number, {name: value[chosen] for name, value in stacked.items()})
        latents.copy_(self.encode(tokens.to(latents), self.statistics.positions(number, latents.device)))
        kept.copy_(conditions[chosen])

    def read_conditions(self, conditions: Sequence[Condition]) -> Tensor:
        """Code and metric of each condition, ``[conditions, code_size + metric_size]``.

        Raises:
            GeneratorError: A kind is unknown or missing, or has another size.
        """
        return numbers_of(conditions, {"code": self.code_size, "metric": self.metric_size})

    def sample_stacked(
        self,
        target: nn.Module | ComputationalGraph,
        conditions: Sequence[Condition],
        random: torch.Generator,
        example_inputs: Any = None,
    ) -> dict[str, Tensor]:
        """Draw latents from the density of the nearest anchors, and decode them.

        Raises:
            GeneratorError: A condition is unknown, missing or does not fit, or the layout was not in the zoo.
        """
        number = self.statistics.number_of(target)
        latents, known = getattr(self, f"latents_{number}"), getattr(self, f"conditions_{number}")
        wanted = self.read_conditions(conditions).to(known)
        unit = known.std(0).clamp_min(1e-6)
        # Anchors of equal conditions are equally near; which of them are taken is left to chance.
        order = torch.randperm(len(known), generator=random).to(known.device)
        near = order[torch.cdist(wanted / unit, known[order] / unit).argsort(dim=1, stable=True)[:, : self.neighbours]]
        shape = (len(wanted), 1 if self.joint else latents.shape[1])
        pick = torch.randint(self.neighbours, shape, generator=random).expand(-1, latents.shape[1])
        chosen = near.gather(1, pick.to(near.device))  # [networks, tokens]
        centre = latents[chosen, torch.arange(latents.shape[1])]
        spread = latents[near].std(1, unbiased=False)  # [networks, tokens, latent_size]
        noise = torch.randn(centre.shape, generator=random).to(centre)
        drawn = centre + self.bandwidth * spread * noise
        return self.statistics.decode(number, self.decode(drawn, self.statistics.positions(number, drawn.device)))


def _transformer(width: int, depth: int, heads: int) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(
        width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)
