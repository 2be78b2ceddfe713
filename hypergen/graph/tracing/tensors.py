"""Tensors in nested containers, and which of them share memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

_PLAIN = frozenset((bool, int, float, str, torch.dtype, torch.device, torch.Size))
_MAX_ELEMENTS_COMPARED = 2**22


def as_meta(tensor: Tensor) -> Tensor:
    """A meta tensor (a meta parameter) of the same shape, strides and type."""
    if tensor.layout is torch.strided:
        meta = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    else:
        meta = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
    return nn.Parameter(meta, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else meta


def map_tensors(value: Any, function: Any) -> Any:
    """The same nested tuples, lists and dicts, with the function applied to every tensor."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, (tuple, list)):
        items = [map_tensors(item, function) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, dict):
        mapped = {key: map_tensors(item, function) for key, item in value.items()}
        return mapped if type(value) is dict else type(value)(mapped)
    return value


def tensors_in(values: Iterable[Any]) -> list[Tensor]:
    """The tensors in nested tuples, lists and mappings, in order."""
    tensors: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            tensors.append(value)
        elif value is None or type(value) in _PLAIN:
            continue  # most arguments; to find out that they are no mappings takes long
        elif isinstance(value, (tuple, list)):
            tensors += tensors_in(value)
        elif isinstance(value, Mapping):
            tensors += tensors_in(value.values())
    return tensors


def storage_of(tensor: Tensor) -> int:
    """A number for the memory that a tensor lies in."""
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # sparse, nested or wrapped: shares with no other
        return -id(tensor)


def overlap(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors in the same storage share elements; yes where that costs too much to find out."""
    if not one.numel() or not other.numel():
        return False
    (start, end), (other_start, other_end) = span(one), span(other)
    if end < other_start or other_end < start:
        return False
    size = max(end, other_end) + 1
    if one.dtype is not other.dtype or size > _MAX_ELEMENTS_COMPARED:
        return True
    if (one.is_contiguous() and start <= other_start) or (other.is_contiguous() and other_start <= start):
        return True
    # Interleaved, as the queries, keys and values in the output of one linear layer.
    places, marked = torch.arange(size, device="cpu"), torch.zeros(size, dtype=torch.bool, device="cpu")
    marked[places.as_strided(one.shape, one.stride(), one.storage_offset())] = True
    return bool(marked[places.as_strided(other.shape, other.stride(), other.storage_offset())].any())


def covers(tensor: Tensor, other: Tensor) -> bool:
    """Whether one tensor has all elements of another in the same storage; no where that costs too much to find out."""
    (start, end), (other_start, other_end) = span(tensor), span(other)
    dense = end - start + 1 == tensor.numel()
    return dense and tensor.dtype is other.dtype and start <= other_start and other_end <= end


def span(tensor: Tensor) -> tuple[int, int]:
    """The first and the last place in its storage that a tensor has elements at."""
    start = int(tensor.storage_offset())
    return start, start + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
