"""The sizes that PyTorch's modules note down in attributes, brought in line with parameters of other shapes."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

Kept = Mapping[str, tuple[Tensor, ...]]
"""Name of a parameter or buffer → for each axis which indices are left, bool."""


def resize_modules(model: nn.Module, kept: Kept) -> None:
    """Let the attributes of PyTorch's own modules say the sizes of their new parameters, in place.

    Args:
        model: Its parameters have their new shapes already.
        kept: What is left of those that changed.
    """
    owners: dict[str, dict[str, tuple[Tensor, ...]]] = {}
    for name, masks in kept.items():
        path, _, leaf = name.partition(".parametrizations.")[0].rpartition(".")
        if ".parametrizations." in name:
            path, leaf = name.partition(".parametrizations.")[0], "parametrized"
        owners.setdefault(path, {})[_RENAMED.get(leaf, leaf)] = masks
    for path, own in owners.items():
        _resize_known(model.get_submodule(path), own)


# What old weight and spectral norms make weights from.
_RENAMED = {"weight_v": "weight", "weight_orig": "weight"}


def _resize_known(module: nn.Module, own: Kept) -> None:
    parameters = module._parameters
    weight = parameters.get("weight_v", parameters.get("weight_orig", getattr(module, "weight", None)))
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
    elif isinstance(module, nn.RNNBase) and "weight_hh_l0" in own:
        hidden, inward = parameters["weight_hh_l0"], parameters["weight_ih_l0"]
        assert hidden is not None and inward is not None
        gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
        module.hidden_size = hidden.shape[0] // gates
        module.input_size = inward.shape[1]
    elif isinstance(module, nn.RNNCellBase) and isinstance(module.weight_ih, Tensor):
        module.hidden_size, module.input_size = module.weight_hh.shape[1], module.weight_ih.shape[1]


def _blocks(kept: Tensor, blocks: int) -> int:
    """Of how many equal blocks anything is left."""
    return int(kept.view(blocks, -1).any(1).sum())
