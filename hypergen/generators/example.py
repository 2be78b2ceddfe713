"""A generator small enough for tests and documentation, with what it is called with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class GeneratorExample:
    """A small generator and a call of it, ``generator.generate(target, condition, example_inputs=…)``.

    Attributes:
        generator: Generator, untrained.
        target: Network whose parameters it can generate.
        condition: Condition that it understands.
        example_inputs: What the target is called with.
        differentiable: Whether what it generates has gradients with respect to its parameters.
    """

    generator: Any
    target: nn.Module
    condition: Any
    example_inputs: Tensor
    differentiable: bool = True


def example_target() -> nn.Module:
    """A small network, the target of examples: 6 inputs, 5 hidden units, 3 outputs."""
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def example_inputs() -> Tensor:
    """Inputs of :func:`example_target`, ``[2, 6]``."""
    return torch.zeros(2, 6)
