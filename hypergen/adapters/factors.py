"""The update of one weight as two factors: their canonical form, and what they tell without forming the update."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hypergen.errors import ParameterError


@dataclass(frozen=True)
class LowRank:
    """The update ``ΔW = scale · up · down`` of a weight, as LoRA has it.

    Hu et al., *LoRA: Low-Rank Adaptation of Large Language Models*, 2021, arXiv:2106.09685. Any invertible ``G`` gives
    other factors ``(up G⁻¹, G down)`` of the same update; :meth:`canonical` picks one pair.

    Args:
        up: ``[outputs, rank, …]``; further axes are those of a convolution's kernel and have size 1.
        down: ``[rank, inputs, …]``; further axes are those of a convolution's kernel.
        scale: Factor on the product, α / rank or what stands for it.
        embedding: Whether the weight is an embedding's, which is the update's transpose.

    Raises:
        ParameterError: The shapes do not fit each other.
    """

    up: Tensor
    down: Tensor
    scale: float = 1.0
    embedding: bool = False

    def __post_init__(self) -> None:
        up, down = self.up, self.down
        if up.dim() < 2 or down.dim() < 2 or up.shape[1] != down.shape[0] or up[0, 0].numel() != 1:
            raise ParameterError(
                f"Factors {list(up.shape)} and {list(down.shape)} are none of one update. Expected [outputs, rank] and "
                "[rank, inputs], with the axes of the kernel after the latter for a convolution without groups."
            )

    @property
    def rank(self) -> int:
        """Number of columns of ``up``, whether used or not."""
        return self.down.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs, and inputs times kernel size."""
        return self.up.shape[0], self.down[0].numel()

    @property
    def matrices(self) -> tuple[Tensor, Tensor]:
        """The factors in float64 as ``[outputs, rank]`` and ``[rank, inputs]``, without the scale."""
        return self.up.flatten(1).double(), self.down.flatten(1).double()

    def canonical(self) -> LowRank:
        """The same update by balanced factors ``up = U √σ``, ``down = √σ Vᵀ`` of its singular value decomposition.

        Computed from QR decompositions of both factors and a decomposition of ``[rank, rank]``; the update is never
        formed. Singular values descend, and the largest entry of each column of ``U`` is positive. Where singular
        values are equal, their directions are any of a subspace's.
        """
        left, sigma, right = self.decompose()
        root = sigma.sqrt()
        return self._with(left * root, root[:, None] * right)

    def decompose(self, scaled: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Singular value decomposition of the update, in float64.

        Args:
            scaled: Whether of ``scale · up · down`` instead of ``up · down``; the sign of the scale goes to ``U``.

        Returns:
            ``U`` ``[outputs, rank]``, singular values ``[rank]`` and ``Vᵀ`` ``[rank, inputs]``. Directions that the
            factors do not have are 0.
        """
        up, down = self.matrices
        basis_up, triangle_up = torch.linalg.qr(up)
        basis_down, triangle_down = torch.linalg.qr(down.T)
        left, sigma, right = torch.linalg.svd(triangle_up @ triangle_down.T, full_matrices=False)
        left, right = basis_up @ left, right @ basis_down.T
        largest = left.abs().argmax(0)
        sign = left.gather(0, largest[None])[0].sign()
        sign = torch.where(sign == 0, torch.ones_like(sign), sign)
        left, right = left * sign, right * sign[:, None]
        # A factor wider than the weight has fewer singular values than columns; an update of 0 has no directions.
        used = sigma > 1e-14 * sigma[:1].clamp_min(torch.finfo(sigma.dtype).tiny)
        left, sigma, right = left * used, sigma * used, right * used[:, None]
        if missing := self.rank - len(sigma):
            left = torch.nn.functional.pad(left, (0, missing))
            sigma = torch.nn.functional.pad(sigma, (0, missing))
            right = torch.nn.functional.pad(right, (0, 0, 0, missing))
        if not scaled:
            return left, sigma, right
        return left * (-1.0 if self.scale < 0 else 1.0), sigma * abs(self.scale), right

    def singular_values(self) -> Tensor:
        """Those of ``scale · up · down``, descending, ``[rank]`` in float64; for statistics.

        From Gram matrices of the factors in float32, ten times as fast as :meth:`decompose`: values below about 1e-3 of
        the largest are not resolved.
        """
        up, down = self.up.flatten(1).float(), self.down.flatten(1).float()
        values, vectors = torch.linalg.eigh((up.T @ up).double())
        root = values.clamp_min(0).sqrt()[:, None] * vectors.T
        squares = torch.linalg.eigvalsh(root @ (down @ down.T).double() @ root.T)
        return squares.clamp_min(0).sqrt().flip(0) * abs(self.scale)

    def with_rank(self, rank: int) -> LowRank:
        """The best approximation of this rank, or the same update with columns of 0 added; canonical."""
        if rank < 1:
            raise ParameterError(f"A rank of {rank} is none; expected 1 or more.")
        own = self.canonical()
        up, down = own.up.flatten(1)[:, :rank], own.down.flatten(1)[:rank]
        if missing := rank - up.shape[1]:
            up = torch.nn.functional.pad(up, (0, missing))
            down = torch.nn.functional.pad(down, (0, 0, 0, missing))
        return self._with(up, down)

    def with_scale(self, scale: float) -> LowRank:
        """The same update with another scale; factors stay as balanced as they were.

        Raises:
            ParameterError: The scale is 0.
        """
        if scale == 0:
            raise ParameterError("A scale of 0 leaves nothing of an update. Pass another number.")
        ratio = self.scale / scale
        root = abs(ratio) ** 0.5
        up, down = self.matrices
        return replace(self._with(up * (root if ratio >= 0 else -root), down * root), scale=float(scale))

    def inner(self, other: LowRank) -> float:
        """Inner product of two updates of one weight."""
        up, down = self.matrices
        other_up, other_down = other.matrices
        return float(((up.T @ other_up) * (down @ other_down.T)).sum()) * self.scale * other.scale

    def update(self) -> Tensor:
        """The update itself, as the weight lies: ``[outputs, inputs, …]``, or ``[entries, size]`` of an embedding."""
        up, down = self.matrices
        product = (up @ down * self.scale).to(self.up.dtype).unflatten(1, self.down.shape[1:])
        return product.T if self.embedding else product

    def _with(self, up: Tensor, down: Tensor) -> LowRank:
        """Factors in place of the own ones, in at least 32 bits, with the axes of the kernel."""
        kind = torch.promote_types(self.up.dtype, torch.float32)
        up = up.to(kind).reshape(*up.shape, *self.up.shape[2:]).contiguous()
        down = down.to(kind).reshape(len(down), *self.down.shape[1:]).contiguous()
        return replace(self, up=up, down=down)
