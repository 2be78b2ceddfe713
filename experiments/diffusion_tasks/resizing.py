"""Networks of one layout made into another by cropping and padding: what a generator of unseen layouts must beat."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hypergen.evaluation.zoo.data import Stacked


def resize_networks(stacked: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> Stacked:
    """Crop or pad every tensor, and leave out or put in layers in the middle.

    Padding is zeros, so units that are added do nothing, and a layer that is put in is the identity where it can be:
    a network of rectified layers that grows computes what it computed before, as in Net2Net (Chen et al., 2016,
    arXiv:1511.05641).

    Args:
        stacked: ``[networks, *shape]`` by name.
        shapes: The shapes to get, by name.

    Returns:
        ``[networks, *shape]`` by name.
    """
    count = len(next(iter(stacked.values())))
    old = list(dict.fromkeys(name.rpartition(".")[0] for name in stacked))
    new = list(dict.fromkeys(name.rpartition(".")[0] for name in shapes))
    kept = min(len(old), len(new))
    first = (kept + 1) // 2  # As many layers from the input as from the output, the middle changes.
    source = dict(zip(new[:first], old[:first], strict=True))
    source |= dict(zip(new[len(new) - kept + first :], old[len(old) - kept + first :], strict=True))
    resized = {}
    for name, shape in shapes.items():
        layer, _, last = name.rpartition(".")
        value = stacked.get(f"{source[layer]}.{last}") if layer in source else None
        result = torch.zeros(count, *shape)
        if value is None:
            if len(shape) == 2:
                result += torch.eye(*shape)
        else:
            common = tuple(slice(min(a, b)) for a, b in zip(value.shape[1:], shape, strict=True))
            result[(slice(None), *common)] = value[(slice(None), *common)]
        resized[name] = result
    return resized
