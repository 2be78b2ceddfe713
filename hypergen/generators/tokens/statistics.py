"""The layouts of a zoo as standardised tokens; what standardises them ships with the generator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from hypergen.errors import GeneratorError
from hypergen.functional import expected_shapes
from hypergen.generators.tokens.weight_tokens import LayoutBatch, WeightTokens
from hypergen.graph import ComputationalGraph


class TokenStatistics(nn.Module):
    """Standardises tokens: each value by its mean over the zoo, each token by the deviation of its values from these.

    The same for all conditions, so a token of zeros says nothing about a task: all of them make the mean network.

    Args:
        layouts: A shape by parameter name for each layout.
        token_size: Values per token.

    Raises:
        GeneratorError: There are no layouts.
    """

    def __init__(self, layouts: Sequence[Mapping[str, Sequence[int]]], token_size: int) -> None:
        super().__init__()
        if not layouts:
            raise GeneratorError("A generator of checkpoints needs the layouts of its zoo. Pass at least one.")
        self.layouts = [
            WeightTokens({name: tuple(shape) for name, shape in layout.items()}, token_size) for layout in layouts
        ]
        self.batch = LayoutBatch.of(self.layouts)
        for number, layout in enumerate(self.layouts):
            self.register_buffer(f"mean_{number}", torch.zeros(layout.num_tokens, token_size))
            self.register_buffer(f"std_{number}", torch.ones(layout.num_tokens, 1))

    def number_of(self, target: nn.Module | ComputationalGraph | Mapping[str, Sequence[int]]) -> int:
        """Which of the layouts a target has.

        Raises:
            GeneratorError: None of them.
        """
        if isinstance(target, nn.Module):
            shapes: Mapping[str, Sequence[int]] = expected_shapes(target)
        else:
            shapes = target.parameter_shapes if isinstance(target, ComputationalGraph) else target
        given = {name: tuple(shape) for name, shape in shapes.items()}
        for number, layout in enumerate(self.layouts):
            if dict(layout.shapes) == given:
                return number
        listed = ", ".join(f"{name} {list(shape)}" for name, shape in list(given.items())[:4])
        raise GeneratorError(
            f"The zoo of this generator had no network with these {len(given)} parameters ({listed}, …). Pass a "
            "network of a layout of the zoo, or train a generator on networks like this one."
        )

    def positions(self, number: int, device: torch.device) -> Tensor:
        """Where each token stands, ``[num_tokens, NUM_POSITIONS]``."""
        return self.layouts[number].positions.to(device)

    def values(self, number: int, device: torch.device) -> Tensor:
        """Which values are no padding, ``[num_tokens, token_size]``."""
        return self.layouts[number].mask.to(device)

    @torch.no_grad()
    def measure(self, number: int, stacked: Mapping[str, Tensor]) -> None:
        """Take the statistics of a layout from its networks, ``[networks, *shape]`` by name."""
        tokens, mask = self.layouts[number].encode(stacked), self.layouts[number].mask
        mean = tokens.mean(0)
        variance = (tokens - mean).square().mean(0)
        # Of the token's own values; where they don't vary, as with one network, a unit that does no harm.
        deviation = ((variance * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)).sqrt()
        getattr(self, f"mean_{number}").copy_(mean)
        getattr(self, f"std_{number}").copy_(torch.where(deviation > 1e-6, deviation, torch.ones(())))

    def encode(self, number: int, stacked: Mapping[str, Tensor]) -> Tensor:
        """Networks to standardised tokens, ``[networks, num_tokens, token_size]``, 0 on padding."""
        tokens = self.layouts[number].encode(stacked)
        return (tokens - getattr(self, f"mean_{number}")) / getattr(self, f"std_{number}")

    def decode(self, number: int, tokens: Tensor) -> dict[str, Tensor]:
        """Undo :meth:`encode`, up to rounding; differentiable."""
        return self.layouts[number].decode(tokens * getattr(self, f"std_{number}") + getattr(self, f"mean_{number}"))
