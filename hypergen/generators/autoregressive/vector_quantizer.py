"""Vectors ↔ a few codes each, by codebooks that refine one another."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hypergen.errors import ParameterError


class ResidualQuantizer(nn.Module):
    """Writes a vector as a sum of codebook entries, each the nearest one to what those before it leave.

    Lee et al., *Autoregressive Image Generation using Residual Quantization*, 2022 (arXiv 2203.01941). Codebooks are
    clusters of k-means on the vectors themselves: one that follows an encoder which learns at the same time collapsed,
    to a handful of entries out of 256, on weights.

    Args:
        stages: Codes per vector.
        codebook_size: Entries of each stage.
        size: Length of the vectors.

    Shapes:
        vectors ``[..., size]`` ↔ codes ``[..., stages]``, int64.
    """

    codebooks: Tensor

    def __init__(self, stages: int, codebook_size: int, size: int) -> None:
        super().__init__()
        self.register_buffer("codebooks", torch.zeros(stages, codebook_size, size))

    def forward(self, vectors: Tensor) -> Tensor:
        """The codes of vectors."""
        left, codes = vectors, []
        for codebook in self.codebooks:
            code = torch.cdist(left.reshape(-1, left.shape[-1]), codebook).argmin(1).view(left.shape[:-1])
            left = left - codebook[code]
            codes.append(code)
        return torch.stack(codes, -1)

    def partial_sums(self, codes: Tensor) -> Tensor:
        """What the codes before each one say, and after them what all say: ``[..., stages + 1, size]``."""
        entries = torch.stack([book[codes[..., stage]] for stage, book in enumerate(self.codebooks)], -2)
        return torch.cat([torch.zeros_like(entries[..., :1, :]), entries.cumsum(-2)], -2)

    @torch.no_grad()
    def fit(self, vectors: Tensor, seed: int = 0) -> None:
        """Set the codebooks from vectors.

        Args:
            vectors: ``[number, size]``.
            seed: Random seed of the first guess at the clusters.

        Raises:
            ParameterError: There are fewer vectors than entries.
        """
        from sklearn.cluster import MiniBatchKMeans  # Takes a second to import.

        size = self.codebooks.shape[1]
        if len(vectors) < size:
            raise ParameterError(
                f"{len(vectors)} weight tokens cannot be sorted into {size} clusters. Train on more networks, or take "
                "a smaller codebook_size."
            )
        left = vectors.cpu()
        for codebook in self.codebooks:
            clusters = MiniBatchKMeans(size, batch_size=4096, n_init=1, random_state=seed).fit(left.numpy())
            codebook.copy_(torch.from_numpy(clusters.cluster_centers_))
            left = left - codebook.cpu()[torch.from_numpy(clusters.predict(left.numpy())).long()]
