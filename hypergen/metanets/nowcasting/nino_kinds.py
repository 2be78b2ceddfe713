"""The kinds of parameters that NiNo tells apart, and its names for them."""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor, nn


class Kind(IntEnum):
    """What an edge of NiNo's graph is; the numbers are the rows of its embedding."""

    LINEAR = 1
    OTHER = 2  # biases above all
    CONVOLUTION = 3
    NORM = 4
    WORD_EMBEDDING = 5
    POSITION_EMBEDDING = 6
    QUERY = 7
    KEY = 8
    VALUE = 9
    RESIDUAL = 10
    HEAD = 11
    SELF_LOOP = 13


# How the weights that have kinds of their own are called in the published families: those of Hugging Face and
# torchvision, and `nn.MultiheadAttention`.
_NAMES = {
    Kind.WORD_EMBEDDING: ("wte.weight", "embed_tokens.weight", "word_embeddings.weight", "class_token"),
    Kind.POSITION_EMBEDDING: ("wpe.weight", "position_embeddings.weight", "pos_embedding"),
    Kind.QUERY: ("attn.q_proj.weight", "self.query.weight"),
    Kind.KEY: ("attn.k_proj.weight", "self.key.weight"),
    Kind.VALUE: ("attn.v_proj.weight", "self.value.weight"),
}
# Queries, keys and values in one matrix → the axis along which they follow each other.
FUSED = {"attn.c_attn.weight": 1, "in_proj_weight": 0}


def kind_of(name: str, shape: tuple[int, ...]) -> Kind:
    """The kind of a parameter by its name and shape, as the published networks were trained with; not of fused ones."""
    named = next((kind for kind, endings in _NAMES.items() if name.endswith(endings) and len(shape) > 1), None)
    if named is not None:
        return named
    if len(shape) == 1:
        return Kind.NORM if name.endswith(".weight") else Kind.OTHER
    if len(shape) == 4:
        return Kind.CONVOLUTION
    return Kind.LINEAR if len(shape) == 2 and "embed" not in name else Kind.OTHER


def fused_axis(name: str) -> int | None:
    """The axis along which a parameter holds queries, keys and values; None if it does not."""
    return next((axis for ending, axis in FUSED.items() if name.endswith(ending)), None)


def parameter_kinds(model: nn.Module) -> dict[str, Tensor]:
    """The kind of every element of every parameter, int64, broadcastable to the parameter's shape."""
    kinds = {}
    for name, parameter in model.named_parameters():
        axis = fused_axis(name)
        if axis is None:
            kinds[name] = torch.full([1] * parameter.dim(), int(kind_of(name, tuple(parameter.shape))))
        else:
            thirds = torch.tensor([Kind.QUERY, Kind.KEY, Kind.VALUE]).repeat_interleave(parameter.shape[axis] // 3)
            kinds[name] = thirds.view([-1 if dim == axis else 1 for dim in range(parameter.dim())])
    return kinds
