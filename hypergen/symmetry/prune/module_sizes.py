"""The sizes that modules note down in attributes, brought in line with parameters of other shapes."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from hypergen.symmetry.structure import Structure, leaves

Kept = Mapping[str, tuple[Tensor, ...]]
"""Name of a parameter or buffer → for each axis which indices are left, bool."""


def resize_modules(
    model: nn.Module,
    kept: Kept,
    axes: Mapping[str, tuple[Structure, ...]],
    counts: Mapping[str, int],
    eager: bool = False,
) -> None:
    """Let the attributes of modules say the sizes of their new parameters, in place.

    The modules of PyTorch whose attributes have a known meaning are set by it. In any other module an integer that was
    the size of an axis or a group of the parameters below it becomes the new size.

    Args:
        model: Its parameters have their new shapes already.
        kept: What is left of those that changed.
        axes: What the axes of the parameters were made of.
        counts: Group name → how many of its indices are left, for those that changed.
        eager: Also change an integer that was the size of several axes of which not all changed.
    """
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        if not any(name.startswith(prefix) for name in kept):
            continue
        own = {name.removeprefix(prefix): masks for name, masks in kept.items() if name.startswith(prefix)}
        if not _resize_known(module, own):
            _resize_integers(module, _changes(prefix, kept, axes, counts), eager)


def _resize_known(module: nn.Module, own: Kept) -> bool:
    """Set the attributes of a module of PyTorch; False for any other."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        weight = None
    if isinstance(module, nn.Linear) and weight is not None:
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, _ConvNd) and weight is not None:
        if "weight" in own:
            module.groups = _blocks(own["weight"][0], module.groups)
        outer, inner = weight.shape[0], weight.shape[1] * module.groups
        module.in_channels, module.out_channels = (outer, inner) if module.transposed else (inner, outer)
    elif isinstance(module, _NormBase):
        follower = weight if weight is not None else module.running_mean
        if follower is not None:
            module.num_features = len(follower)
    elif isinstance(module, nn.GroupNorm) and weight is not None:
        if "weight" in own:
            module.num_groups = _blocks(own["weight"][0], module.num_groups)
        module.num_channels = len(weight)
    elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and weight is not None:
        module.normalized_shape = tuple(weight.shape)
    elif isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        module.num_embeddings, module.embedding_dim = weight.shape if weight is not None else (0, 0)
    else:
        return False
    return True


def _blocks(kept: Tensor, blocks: int) -> int:
    """Of how many equal blocks anything is left."""
    return int(kept.view(blocks, -1).any(1).sum())


def _changes(
    prefix: str, kept: Kept, axes: Mapping[str, tuple[Structure, ...]], counts: Mapping[str, int]
) -> dict[int, set[int]]:
    """Old → new sizes of the axes below a module, and of the groups in them."""
    changes: dict[int, set[int]] = {}
    for name, structures in axes.items():
        if not name.startswith(prefix):
            continue
        masks = kept.get(name)
        for dim, structure in enumerate(structures):
            left = structure.size if masks is None else int(masks[dim].sum())
            changes.setdefault(structure.size, set()).add(left)
            for group in leaves(structure):
                changes.setdefault(group.size, set()).add(counts.get(group.name, group.size))
    return changes


def _resize_integers(module: nn.Module, changes: Mapping[int, set[int]], eager: bool) -> None:
    for attribute, value in list(vars(module).items()):
        if type(value) is not int or value not in changes:
            continue
        smaller = changes[value] - {value}
        if len(smaller) == 1 and (eager or value not in changes[value]):
            setattr(module, attribute, smaller.pop())
