"""Vectors to the nearest entries of a codebook that follows them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class VectorQuantizer(nn.Module):
    """Replaces vectors by the nearest entries of a codebook, each the moving average of what it replaces.

    Van den Oord, Vinyals, Kavukcuoglu, *Neural Discrete Representation Learning*, 2017 (arXiv 1711.00937). Gradients
    pass through as if nothing had been replaced. An entry that is hardly used moves to a vector of the batch.
    (diffusers has a quantiser for images only, which learns its codebook by gradients.)

    Args:
        codebook_size: Entries.
        size: Length of an entry.
        decay: Of the moving averages.
    """

    codebook: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(self, codebook_size: int, size: int, decay: float = 0.98) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("codebook", torch.randn(codebook_size, size))
        self.register_buffer("counts", torch.zeros(codebook_size))
        self.register_buffer("sums", torch.zeros(codebook_size, size))

    def forward(self, vectors: Tensor) -> Tensor:
        """The index of the entry nearest to each vector, ``[..., size]`` → ``[...]``, int64."""
        return torch.cdist(vectors.reshape(-1, vectors.shape[-1]), self.codebook).argmin(1).view(vectors.shape[:-1])

    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest entries, with the gradient of the vectors; and how far off the vectors are (commitment)."""
        entries = self.codebook[self(vectors)]
        return vectors + (entries - vectors).detach(), F.mse_loss(vectors, entries)

    @torch.no_grad()
    def follow(self, vectors: Tensor, random: torch.Generator) -> None:
        """Move the codebook on by a batch of vectors, ``[..., size]``."""
        flat = vectors.reshape(-1, vectors.shape[-1])
        index = self(flat)
        self.counts.lerp_(index.bincount(minlength=len(self.counts)).float(), 1 - self.decay)
        self.sums.lerp_(torch.zeros_like(self.sums).index_add_(0, index, flat), 1 - self.decay)
        used = self.counts > 0.01 * len(flat) / len(self.counts)
        fresh = flat[torch.randint(len(flat), (len(self.counts),), generator=random).to(flat.device)]
        self.codebook.copy_(torch.where(used[:, None], self.sums / self.counts.clamp_min(1e-9)[:, None], fresh))
