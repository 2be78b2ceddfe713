"""Mimetic initialisation, which attention layers are compared at."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from hypergen.architectures.families.token_nets import Attention

_QUERY_KEY, _VALUE_PROJECTION = (0.7, 0.7), (0.4, 0.4)


def mimetic(model: nn.Module, seed: int = 0) -> int:
    """Initialise attention layers to look like trained ones, in place; other layers stay as they are.

    Per head ``W_qᵀ W_k ≈ 0.7 Z + 0.7 I``, and of the whole layer ``W_proj W_v ≈ 0.4 Z − 0.4 I``, with ``Z`` normal of
    variance 1 / width, factored by singular values (Trockman and Kolter, *Mimetic Initialization of Self-Attention
    Layers*, 2023, arXiv:2305.09828). Queries are scaled so that this holds after the division by √(head width).

    Args:
        model: A network with attention layers of :mod:`hypergen.architectures`.
        seed: Random seed of ``Z``.

    Returns:
        The number of attention layers.
    """
    random = torch.Generator().manual_seed(seed)
    layers = list(_layers(model))
    with torch.no_grad():
        for layer in layers:
            width = layer.proj.in_features
            inner = width // layer.heads
            queries, keys = [], []
            for _ in range(layer.heads):
                noise, one = _target(width, random)
                query, key = _factors(_QUERY_KEY[0] * noise + _QUERY_KEY[1] * one, inner)
                queries.append(query)
                keys.append(key)
            noise, one = _target(width, random)
            out, value = _factors(_VALUE_PROJECTION[0] * noise - _VALUE_PROJECTION[1] * one, width)
            layer.qkv.weight.copy_(
                torch.cat([*(q * inner**0.25 for q in queries), *(k * inner**0.25 for k in keys), value])
            )
            layer.proj.weight.copy_(out.t())
    return len(layers)


def _layers(model: nn.Module) -> Iterator[Attention]:
    return (module for module in model.modules() if isinstance(module, Attention))


def _target(width: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randn(width, width, generator=random) / math.sqrt(width), torch.eye(width)


def _factors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """``leftᵀ right`` near ``matrix`` [width, width], each [rank, width]."""
    left, values, right = torch.linalg.svd(matrix)
    roots = values[:rank].sqrt()[:, None]
    return left.t()[:rank] * roots, right[:rank] * roots
