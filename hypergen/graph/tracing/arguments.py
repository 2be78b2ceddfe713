"""What an operation was called with → the attributes that decide what it computes, however they were given."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from torch import Tensor
from torch.overrides import get_testing_overrides

_CONV = "input weight bias=None stride=1 padding=0 dilation=1 groups=1"
_CONV_TRANSPOSE = "input weight bias=None stride=1 padding=0 output_padding=0 groups=1 dilation=1"
_MAX_POOL = "input kernel_size stride=None padding=0 dilation=1 ceil_mode=False"
_AVG_POOL = "input kernel_size stride=None padding=0 ceil_mode=False"
_RNN = "input hx params has_biases num_layers dropout train bidirectional batch_first"

# Arguments by position with their defaults. Tensors among them are called so where they are parameters; those of other
# operations keep the parameter's own name. Only what PyTorch does not tell, or tells under other names.
_SIGNATURES: dict[str, str] = {
    "conv1d": _CONV, "conv2d": _CONV, "conv3d": _CONV,
    "conv_transpose1d": _CONV_TRANSPOSE, "conv_transpose2d": _CONV_TRANSPOSE, "conv_transpose3d": _CONV_TRANSPOSE,
    "linear": "input weight bias=None",
    "bilinear": "input1 input2 weight bias=None",
    "batch_norm": "input running_mean running_var weight=None bias=None",
    "layer_norm": "input normalized_shape weight=None bias=None",
    "rms_norm": "input normalized_shape weight=None",
    "group_norm": "input num_groups weight=None bias=None",
    "instance_norm": "input running_mean running_var weight=None bias=None",
    "embedding": "input weight",
    "embedding_bag": "input weight",
    "prelu": "input weight",
    "addmm": "bias input weight",
    "max_pool1d": _MAX_POOL, "max_pool2d": _MAX_POOL, "max_pool3d": _MAX_POOL,
    "avg_pool1d": _AVG_POOL, "avg_pool2d": _AVG_POOL, "avg_pool3d": _AVG_POOL,
    "lstm": _RNN, "gru": _RNN, "rnn_tanh": _RNN, "rnn_relu": _RNN,
    "mean": "input dim=None", "sum": "input dim=None",
    "chunk": "input chunks dim=0", "split": "input split_size dim=0", "tensor_split": "input split_size dim=0",
    "flatten": "input start_dim=0 end_dim=-1", "transpose": "input dim0 dim1",
    "permute": "input dims", "flip": "input dims", "roll": "input shifts dims=None", "repeat": "input repeats",
    "unflatten": "input dim sizes", "unsqueeze": "input dim", "squeeze": "input dim=None",
    "einsum": "equation",
    "scaled_dot_product_attention": "query key value attn_mask=None dropout_p=0 is_causal=False scale=None",
    "multi_head_attention": "query key value embed_dim num_heads in_proj_weight in_proj_bias bias_k bias_v"
    " add_zero_attn dropout_p out_proj_weight out_proj_bias",
}  # fmt: skip

_SYNONYMS = {
    "axis": "dim", "axis0": "dim0", "axis1": "dim1", "axes": "dims", "self": "input",
    "split_size_or_sections": "split_size", "split_sizes": "split_size", "indices_or_sections": "split_size",
    "indices": "split_size",
    "sections": "split_size", "embed_dim_to_check": "embed_dim",
}  # fmt: skip

# What decides the computation and is no tensor.
_ATTRIBUTES = frozenset(
    """stride padding output_padding dilation groups kernel_size output_size num_groups normalized_shape dim dim0 dim1
    dims start_dim end_dim chunks split_size num_heads is_causal embed_dim equation k diagonal shifts repeats pad mode
    upscale_factor downscale_factor scale_factor approximate num_layers bidirectional batch_first""".split()
)
_AXES = frozenset(("dim", "dim0", "dim1", "dims", "start_dim", "end_dim"))
_SPATIAL = frozenset(("stride", "padding", "output_padding", "dilation", "kernel_size", "output_size"))
_SPATIAL_OP = re.compile(r".*(?:conv|conv_transpose|pool)(\d)d")
_RECURRENT = frozenset(("lstm", "gru", "rnn_tanh", "rnn_relu"))


def in_order(op: str, func: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments in the order in which an operation has them."""
    names, _ = _signature(op, func)
    place = {name: i for i, name in enumerate(names)}
    return dict(sorted(kwargs.items(), key=lambda item: place.get(_SYNONYMS.get(item[0], item[0]), len(place))))


def bound_arguments(op: str, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Name → argument, as far as names are known, with the defaults of attributes; ``self`` is ``input``."""
    names, defaults = _signature(op, func)
    if op in _RECURRENT and len(args) > 3 and isinstance(args[3], (tuple, list)):  # a packed sequence
        args = (args[0], *args[2:])
    if len(args) > len(names) > 1 and names[-1] in ("dims", "repeats"):  # x.permute(0, 2, 1)
        args = (*args[: len(names) - 1], args[len(names) - 1 :])
    bound = dict(defaults)
    bound.update(zip(names, args, strict=False))
    for key, value in kwargs.items():
        bound[_SYNONYMS.get(key, key)] = value
    return bound


@cache
def role_names(op: str) -> frozenset[str]:
    """The arguments whose names say what a parameter in their place is for."""
    names = {argument.partition("=")[0] for argument in _SIGNATURES.get(op, "").split()}
    return frozenset(names - {"input", "equation"})


def attributes_of(op: str, bound: Mapping[str, Any], input_rank: int, output_rank: int) -> dict[str, Any]:
    """The attributes of an operation in one form: axes count from the front, spatial sizes are tuples.

    Args:
        op: The operation's name.
        bound: Its arguments by name.
        input_rank: Axes of its (first) input.
        output_rank: Axes of its (first) output.
    """
    attributes: dict[str, Any] = {}
    spatial = _spatial_axes(op)
    for key, value in bound.items():
        if key not in _ATTRIBUTES or value is None or isinstance(value, Tensor):
            continue
        if key in _AXES:
            value = _from_the_front(value, output_rank if op in ("stack", "unsqueeze") else input_rank)
        elif spatial and key in _SPATIAL:
            value = _per_axis(value, spatial)
        elif isinstance(value, list):
            value = tuple(value)
        attributes[key] = value
    if spatial and "kernel_size" in attributes and "conv" not in op:
        attributes.setdefault("stride", attributes["kernel_size"])
    if op == "transpose":
        axes = attributes.get("dim0", max(input_rank - 2, 0)), attributes.get("dim1", max(input_rank - 1, 0))
        attributes["dim0"], attributes["dim1"] = min(axes), max(axes)
    if op == "multi_head_attention" and attributes.get("num_heads"):
        attributes["head_dim"] = attributes["embed_dim"] // attributes["num_heads"]
    return attributes


@cache
def _spatial_axes(op: str) -> int:
    """How many axes a convolution or pooling moves along; 0 for other operations."""
    match = _SPATIAL_OP.fullmatch(op)
    return int(match[1]) if match else 0


def _from_the_front(axes: Any, rank: int) -> Any:
    if isinstance(axes, (tuple, list)):
        return tuple([_from_the_front(axis, rank) for axis in axes])
    return axes + rank if type(axes) is int and axes < 0 else axes


def _per_axis(value: Any, count: int) -> Any:
    if isinstance(value, (tuple, list)):
        return tuple(value) * count if len(value) == 1 else tuple(value)
    return value if isinstance(value, str) else (value,) * count


@cache
def _signature(op: str, func: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Argument names by position, and the defaults of those that are attributes."""
    if op in _SIGNATURES:
        arguments = [argument.partition("=") for argument in _SIGNATURES[op].split()]
        names = tuple(name for name, _, _ in arguments)
        defaults = {name: _DEFAULTS[value] for name, _, value in arguments if value}
    else:
        try:
            told = inspect.signature(get_testing_overrides().get(func, func)).parameters
        except (TypeError, ValueError):
            return (), {}
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        names = tuple(_SYNONYMS.get(name, name) for name, argument in told.items() if argument.kind in kinds)
        defaults = {
            _SYNONYMS.get(name, name): argument.default
            for name, argument in told.items()
            if argument.default is not inspect.Parameter.empty
        }
    return names, {name: value for name, value in defaults.items() if name in _ATTRIBUTES and value is not None}


_DEFAULTS = {"0": 0, "1": 1, "-1": -1, "None": None, "False": False}
