"""A Gaussian over the weights of a zoo, around a prediction that is linear in the condition."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from hypergen.generators.conditions import numbers_of
from hypergen.generators.example import GeneratorExample
from hypergen.generators.registry import register_generator
from hypergen.generators.tokens.statistics import TokenStatistics
from hypergen.generators.zoo_generator import Condition, ZooGenerator
from hypergen.graph import ComputationalGraph


@register_generator
class Gaussian(ZooGenerator):
    """Samples networks from a normal distribution with the zoo's mean, main directions and deviations.

    Low-rank and diagonal covariance as in Maddox et al., *A Simple Baseline for Bayesian Uncertainty in Deep Learning*,
    2019 (SWAG, arXiv:1902.02476), over the networks of a zoo instead of the steps of one training: what every other zoo
    generator has to beat. With standardised weights ``z`` and a condition ``c``,
    ``z ~ N(c B, Rᵀ R + diag(s²))``: ``B`` is ridge regression, ``R`` the ``rank`` principal directions of its
    residuals, and ``s`` what deviation these leave in each value.

    Args:
        layouts: Layouts of the zoo, each a shape by parameter name.
        rank: Number of principal directions; 0 for independent values.
        penalty: Penalty of the ridge regression from condition to weights.
        code_size: Numbers in a task code; 0 for none.
        metric_size: Number of metrics; 0 for none.
        token_size: Values per token.

    Shapes:
        z: ``[networks, num_tokens · token_size]``; B: ``[code_size + metric_size, num_tokens · token_size]``;
        R: ``[rank, num_tokens · token_size]``.

    Raises:
        GeneratorError: There are no layouts.
        ValueError: The rank is negative.
    """

    example_arguments = {"rank": 3, "code_size": 2, "token_size": 4}
    example_condition = {"code": [0.0, 1.0]}

    def __init__(
        self,
        layouts: Sequence[Mapping[str, Sequence[int]]],
        rank: int = 32,
        penalty: float = 1.0,
        code_size: int = 0,
        metric_size: int = 0,
        token_size: int = 64,
    ) -> None:
        super().__init__()
        self.rank, self.penalty = rank, penalty
        self.sizes = {"code": code_size, "metric": metric_size}
        self.statistics = TokenStatistics(layouts, token_size)
        inputs = code_size + metric_size
        for number, layout in enumerate(self.statistics.layouts):
            values = layout.num_tokens * token_size
            for name, shape in (("centre", (inputs,)), ("slope", (inputs, values)), ("directions", (rank, values))):
                self.register_buffer(f"{name}_{number}", torch.zeros(shape))
            self.register_buffer(f"deviation_{number}", torch.ones(values))

    @classmethod
    def example(cls) -> GeneratorExample:
        """A small generator; it has no parameters that gradients could reach."""
        return replace(super().example(), differentiable=False)

    @property
    def condition_kinds(self) -> tuple[str, ...]:
        """The kinds of condition that it knows."""
        return tuple(kind for kind, size in self.sizes.items() if size)

    @torch.no_grad()
    def fit_statistics(
        self, number: int, stacked: Mapping[str, Tensor], conditions: Sequence[Condition] | None = None
    ) -> None:
        """Fit the distribution of one layout, in closed form.

        Args:
            number: Number of the layout.
            stacked: Networks of the layout, ``[networks, *shape]`` by name.
            conditions: What each network was trained for; may be left out where the generator takes none.
        """
        self.statistics.measure(number, stacked)
        z = self.statistics.encode(number, stacked).flatten(1)
        rows = numbers_of([{}] * len(z) if conditions is None else conditions, self.sizes).to(z)
        centre = rows.mean(0)
        gram = (rows - centre).T @ (rows - centre) + self.penalty * torch.eye(rows.shape[1])
        slope = torch.linalg.solve(gram, (rows - centre).T @ z)
        residuals = (z - (rows - centre) @ slope) / math.sqrt(max(len(z) - 1, 1))
        directions = torch.zeros(self.rank, z.shape[1])
        _, strength, main = torch.linalg.svd(residuals, full_matrices=False)
        kept = min(self.rank, len(strength))
        directions[:kept] = strength[:kept, None] * main[:kept]
        left = residuals.square().sum(0) - directions.square().sum(0)
        for name, value in (("centre", centre), ("slope", slope), ("directions", directions)):
            getattr(self, f"{name}_{number}").copy_(value)
        getattr(self, f"deviation_{number}").copy_(left.clamp_min(0).sqrt())

    def sample_stacked(
        self,
        target: nn.Module | ComputationalGraph,
        conditions: Sequence[Condition],
        random: torch.Generator,
        example_inputs: object = None,
    ) -> dict[str, Tensor]:
        """Draw a network for each condition.

        Raises:
            GeneratorError: A condition is unknown, missing or does not fit, or the layout was not in the zoo.
        """
        number = self.statistics.number_of(target)
        centre, slope, directions, deviation = (
            getattr(self, f"{name}_{number}") for name in ("centre", "slope", "directions", "deviation")
        )
        mean = (numbers_of(conditions, self.sizes).to(centre) - centre) @ slope
        along = torch.randn(len(conditions), self.rank, generator=random).to(mean)
        each = torch.randn(mean.shape, generator=random).to(mean)
        z = mean + along @ directions + each * deviation
        return self.statistics.decode(number, z.unflatten(1, (-1, self.statistics.layouts[number].token_size)))
