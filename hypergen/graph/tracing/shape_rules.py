"""Output shapes of the operations that networks run most, without running them.

PyTorch's meta kernels for these are written in Python and take 0.1 to 1 ms each, most of the time of a trace; the rules
take microseconds. A rule answers only in the plain case (contiguous inputs of one floating type and fitting shapes) and
returns :data:`ASK_PYTORCH` in any other, so that PyTorch decides and raises its own errors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import _VF, Tensor

ASK_PYTORCH = object()


def _empty(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device="meta")


def _plain(*tensors: Tensor | None) -> bool:
    """Whether these are contiguous tensors of one floating type."""
    dtype = None
    for tensor in tensors:
        if tensor is not None:
            if not isinstance(tensor, Tensor) or not tensor.is_contiguous():
                return False
            dtype = dtype or tensor.dtype
            if tensor.dtype is not dtype or not dtype.is_floating_point:
                return False
    return True


def _pointwise(input: Tensor, *args: Any, inplace: bool = False, **options: Any) -> Any:
    if any(arg is True for arg in args) or "out" in options or not input.is_floating_point():
        return ASK_PYTORCH  # True: `inplace` by position
    if inplace:
        return input
    return _empty(input, input.shape) if input.is_contiguous() else ASK_PYTORCH


def _pointwise_in_place(input: Tensor, *_: Any, **__: Any) -> Any:
    return input if input.is_floating_point() else ASK_PYTORCH


def _arithmetic(input: Any, other: Any, **options: Any) -> Any:
    if options or not isinstance(input, Tensor):
        return ASK_PYTORCH
    if type(other) in (int, float):
        return _empty(input, input.shape) if _plain(input) else ASK_PYTORCH
    if not _plain(input, other):
        return ASK_PYTORCH
    if input.shape == other.shape:
        return _empty(input, input.shape)
    # The common broadcasts: one operand is a vector of features, or one value per channel.
    larger, smaller = (input, other) if input.numel() >= other.numel() else (other, input)
    aligned = larger.shape[larger.dim() - smaller.dim() :] if larger.dim() >= smaller.dim() else ()
    fits = len(aligned) == smaller.dim() and all(n in (1, m) for n, m in zip(smaller.shape, aligned, strict=True))
    return _empty(larger, larger.shape) if fits else ASK_PYTORCH


def _arithmetic_in_place(input: Tensor, other: Any, **options: Any) -> Any:
    if options or not input.is_floating_point():
        return ASK_PYTORCH
    fits = type(other) in (int, float) or (isinstance(other, Tensor) and other.shape == input.shape)
    return input if fits else ASK_PYTORCH


def _channel_norm(input: Tensor, *tensors: Tensor | None) -> Any:
    if not _plain(input, *tensors) or any(t is not None and t.shape != input.shape[1:2] for t in tensors):
        return ASK_PYTORCH
    return _empty(input, input.shape)


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *_: Any,
    **__: Any,
) -> Any:
    return _channel_norm(input, running_mean, running_var, weight, bias)


def _group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, *_: Any, **__: Any
) -> Any:
    return ASK_PYTORCH if input.shape[1] % num_groups else _channel_norm(input, weight, bias)


def _layer_norm(
    input: Tensor, normalized_shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, *_: Any, **__: Any
) -> Any:
    shape = torch.Size(normalized_shape)
    fits = input.is_floating_point() and input.shape[-len(shape) :] == shape
    for tensor in (weight, bias):
        fits = fits and (tensor is None or (tensor.shape == shape and tensor.dtype is input.dtype))
    return _empty(input, input.shape) if fits else ASK_PYTORCH  # contiguous, whatever the input is


def _rms_norm(input: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Any:
    return _layer_norm(input, normalized_shape, weight) if input.is_contiguous() else ASK_PYTORCH


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    if weight.dim() != 2 or input.shape[-1:] != weight.shape[1:] or input.dtype is not weight.dtype:
        return ASK_PYTORCH
    if bias is not None and (bias.shape != weight.shape[:1] or bias.dtype is not weight.dtype):
        return ASK_PYTORCH
    return _empty(input, (*input.shape[:-1], weight.shape[0]))


def _addmm(bias: Tensor, input: Tensor, weight: Tensor, **options: Any) -> Any:
    fits = not options and input.dim() == weight.dim() == 2 and input.shape[1] == weight.shape[0]
    if not fits or bias.shape != weight.shape[1:] or not _plain(bias, input, weight):
        return ASK_PYTORCH
    return _empty(input, (input.shape[0], weight.shape[1]))


def grouped_mm(mat_a: Tensor, mat_b: Tensor, offs: Tensor | None = None, *rest: Any, **options: Any) -> Any:
    """Rows by each expert's matrix. PyTorch's own rule takes bfloat16 only, its kernels take other types as well."""
    plain = mat_a.dim() == 2 and mat_b.dim() == 3 and not any(value is not None for value in (*rest, *options.values()))
    fits = plain and mat_a.shape[1] == mat_b.shape[1] and mat_a.dtype is mat_b.dtype and mat_a.is_floating_point()
    if not fits or offs is None or offs.shape != mat_b.shape[:1]:
        return ASK_PYTORCH
    return _empty(mat_a, (mat_a.shape[0], mat_b.shape[2]))


def _adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Any:
    size = output_size if isinstance(output_size, (tuple, list)) else (output_size, output_size)
    if input.dim() != 4 or None in size or not _plain(input):
        return ASK_PYTORCH
    return _empty(input, (*input.shape[:2], *size))


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *_: Any, **options: Any
) -> Any:
    fits = (
        query.dim() == key.dim() == value.dim() == 4
        and query.shape[:2] == key.shape[:2] == value.shape[:2]
        and query.shape[3] == key.shape[3]
        and key.shape[2] == value.shape[2]
        and query.dtype is key.dtype is value.dtype
        and (attn_mask is None or _mask_fits(attn_mask.shape, (*query.shape[:3], key.shape[2])))
        and not options.get("enable_gqa")
    )
    return _empty(query, (*query.shape[:3], value.shape[3])) if fits else ASK_PYTORCH


def _mask_fits(shape: Sequence[int], scores: Sequence[int]) -> bool:
    if not 2 <= len(shape) <= 4 or shape[-2:] != scores[-2:]:
        return False
    return all(n in (1, m) for n, m in zip(shape[:-2], scores[4 - len(shape) : 2], strict=True))


def _multi_head_attention(
    query: Tensor, key: Tensor, value: Tensor, embed_dim_to_check: int, num_heads: int, *args: Any, **options: Any
) -> Any:
    extra_keys = (options.get("static_k"), options.get("static_v"), *args[2:4])
    fits = (
        query.dim() == key.dim() == value.dim() == 3
        and query.shape[2] == embed_dim_to_check
        and key.shape[:2] == value.shape[:2]
        and key.shape[1] == query.shape[1]
        and embed_dim_to_check % num_heads == 0
        and len(args) == 8
        and not args[4]  # add_zero_attn
        and all(tensor is None for tensor in extra_keys)
        and options.get("attn_mask") is None
        and options.get("key_padding_mask") is None
    )
    if not fits:
        return ASK_PYTORCH
    weights = None
    if options.get("need_weights", True):
        heads = () if options.get("average_attn_weights", True) else (num_heads,)
        weights = _empty(query, (query.shape[1], *heads, query.shape[0], key.shape[0]))
    return _empty(query, query.shape), weights


def _recurrent(input: Tensor, hx: Any, *rest: Any) -> Any:
    states = hx if isinstance(hx, (tuple, list)) else (hx,)
    # Packed sequences pass batch sizes, and weights or states, in these places.
    if len(rest) != 7 or not isinstance(rest[0], (tuple, list)) or not all(isinstance(s, Tensor) for s in states):
        return ASK_PYTORCH
    bidirectional, batch_first = rest[5:]
    shape = (*input.shape[:-1], (2 if bidirectional else 1) * states[0].shape[-1])
    # Computed step by step: the time axis comes first in memory.
    output = _empty(input, (shape[1], shape[0], shape[2])).transpose(0, 1) if batch_first else _empty(input, shape)
    return output, *(_empty(state, state.shape) for state in states)


_POINTWISE = """relu relu6 gelu silu hardswish hardsigmoid hardtanh mish selu celu elu leaky_relu softplus tanh sigmoid
    logsigmoid softsign tanhshrink""".split()
_ARITHMETIC = ("add", "sub", "mul", "div", "pow")

RULES: dict[Any, Callable[..., Any]] = {
    F.batch_norm: _batch_norm,
    F.group_norm: _group_norm,
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    F.linear: _linear,
    torch.addmm: _addmm,
    F.adaptive_avg_pool2d: _adaptive_avg_pool2d,
    F.scaled_dot_product_attention: _attention,
    F.multi_head_attention_forward: _multi_head_attention,
    **{getattr(_VF, name): _recurrent for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")},
}
for _home in (F, torch, Tensor):
    RULES |= {getattr(_home, name): _pointwise for name in _POINTWISE if hasattr(_home, name)}
    RULES |= {getattr(_home, f"{name}_"): _pointwise_in_place for name in _POINTWISE if hasattr(_home, f"{name}_")}
for _home in (F, torch):
    RULES |= {getattr(_home, name): grouped_mm for name in ("grouped_mm", "_grouped_mm") if hasattr(_home, name)}
for _name in _ARITHMETIC:
    RULES |= {getattr(torch, _name): _arithmetic, getattr(Tensor, _name): _arithmetic}
    for _in_place in (f"{_name}_", f"__i{_name}__"):
        RULES[getattr(Tensor, _in_place)] = _arithmetic_in_place
