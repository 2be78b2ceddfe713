"""Numbers that say what an adapter changes: five of each kind of module, and a sketch that tells adapters apart."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import torch
from torch import Tensor

from hypergen.adapters.adapter import Adapter
from hypergen.adapters.factors import LowRank

STATISTICS = ("sigma_1", "frobenius", "concentration", "entropy", "kurtosis")
_SAMPLED = 256


def update_statistics(update: LowRank, sigma: Tensor | None = None) -> dict[str, float]:
    """Five numbers of an update.

    ``sigma_1``: the largest singular value. ``frobenius``: the Frobenius norm. ``concentration``: the share of the
    energy ``Σ σ²`` in the largest. ``entropy``: that of the energies, in nats. ``kurtosis``: of the update's entries, 3
    for a normal distribution; of up to 256 × 256 evenly spaced ones.

    Args:
        update: The update.
        sigma: Its singular values, where they are known.
    """
    sigma = update.singular_values() if sigma is None else sigma
    energy = sigma.square()
    total = float(energy.sum())
    share = energy / total if total > 0 else torch.full_like(energy, 1 / len(energy))
    return {
        "sigma_1": float(sigma[0]),
        "frobenius": math.sqrt(total),
        "concentration": float(share[0]),
        "entropy": float(-(share * share.clamp_min(1e-30).log()).sum()),
        "kurtosis": kurtosis(update),
    }


def kurtosis(update: LowRank) -> float:
    """Fourth central moment of the update's entries over the squared second; 0 of an update of zeros."""
    up, down = update.up.flatten(1), update.down.flatten(1)
    rows, columns = _spaced(up.shape[0], _SAMPLED), _spaced(down.shape[1], _SAMPLED)
    values = (up[rows].float() @ down[:, columns].float()).flatten()
    squares = (values - values.mean()).square()
    second = float(squares.mean())
    return float(squares.square().mean()) / second**2 if second > 0 else 0.0


def rank_used(sigma: Tensor, share: float = 0.99) -> int:
    """How many directions hold a share of the energy of singular values that descend."""
    energy = sigma.square()
    total = energy.sum()
    return int((energy.cumsum(0) / total < share).sum()) + 1 if total > 0 else 0


def kind_of(module: str) -> str:
    """The kind of a module: the last part of its name that is no number, as ``q_proj`` or ``to_out``."""
    return next((part for part in reversed(module.split(".")) if not part.isdigit()), module)


def layer_of(module: str) -> int | None:
    """The first number in a module's name, which numbers the blocks of most networks."""
    return next((int(part) for part in module.replace("_", ".").split(".") if part.isdigit()), None)


def adapter_statistics(by_module: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Statistics of an adapter, ``<kind>.<statistic>``: means over the modules of each kind.

    With adapters of the four projections of attention these are the 20 numbers by which backdoored adapters are
    screened.

    Args:
        by_module: What :func:`update_statistics` gives, by module.
    """
    sums: dict[str, list[float]] = {}
    for module, numbers in by_module.items():
        for name, value in numbers.items():
            sums.setdefault(f"{kind_of(module)}.{name}", []).append(value)
    return {name: sum(values) / len(values) for name, values in sorted(sums.items())}


def sketch(adapter: Adapter, size: int = 32) -> Tensor:
    """A vector whose inner products are close to those of the adapters' updates.

    Each update is projected from both sides, ``Pᵀ ΔW Q``, by random matrices that depend on its module's name alone;
    where a side is no longer than ``size`` it is kept whole. Gauge does not matter, and the update is never formed.

    Args:
        adapter: The adapter.
        size: Columns of the projections. The error of a cosine over M modules is about ``1 / (size √M)``.

    Returns:
        ``[numbers]``, equally long for adapters of the same modules.
    """
    parts = []
    for name, update in sorted(adapter.modules.items()):
        up, down = update.up.flatten(1).float(), update.down.flatten(1).float()
        left = _project(up.T, f"{name}.up", size)  # [rank, size]
        right = _project(down, f"{name}.down", size)
        parts.append((left.T @ right).flatten() * update.scale)
    return torch.cat(parts)


_projections: dict[tuple[str, int, int], Tensor] = {}


def _project(values: Tensor, name: str, size: int) -> Tensor:
    """Values ``[rank, length]`` by a random matrix to ``[rank, size]``; as they are where they are shorter."""
    length = values.shape[1]
    if length <= size:
        return values
    # One matrix for all modules of a length would do for one module, but sums over modules need independent ones; a few
    # suffice, with columns turned by the module's name.
    key = (name.rpartition(".")[2], length, size)
    matrix = _projections.get(key)
    if matrix is None:
        random = torch.Generator().manual_seed(zlib.crc32(repr(key).encode()))
        matrix = torch.randn(length, size, generator=random) / math.sqrt(size)
        _projections.clear() if len(_projections) > 32 else None
        _projections[key] = matrix
    turned = zlib.crc32(name.encode()) % length
    return values.roll(turned, 1) @ matrix


def _spaced(length: int, most: int) -> Tensor:
    return torch.linspace(0, length - 1, min(length, most)).round().long()
