"""What the tracer knows about PyTorch's operations: names, arguments, and which only move data."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

# Questions about a tensor whose answers are not tensors, asked so often that they deserve a shortcut.
METADATA = frozenset(
    """shape dtype device ndim requires_grad is_cuda is_cpu is_meta is_mps is_nested is_sparse is_quantized is_leaf
    layout grad_fn size dim numel stride len is_floating_point is_complex is_contiguous get_device
    storage_offset""".split()
)

# Operations that hand their input on unchanged when a network is evaluated: they get no node.
TRANSPARENT = frozenset(
    """dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout feature_dropout contiguous clone detach
    to float half bfloat16 double bool byte char short int long cpu cuda xpu mps type type_as requires_grad data
    identity alias positive stop_gradient as_tensor asarray tensor lift_fresh""".split()
)

# Operations whose result depends on no value of their inputs.
CONSTANT_OPS = frozenset(
    """zeros ones empty full rand randn arange zeros_like ones_like empty_like full_like rand_like randn_like
    randint_like new_zeros new_ones new_empty new_full new_empty_strided new_tensor""".split()
)

# Operations that write into their first operand without reading it.
OVERWRITING = frozenset(("copy", "fill", "zero"))

ATTENTIONS = frozenset(("scaled_dot_product_attention", "attention"))

# Operations that rearrange or select values without computing new ones.
SHAPE_OPS = frozenset(
    """reshape view flatten unflatten squeeze unsqueeze permute transpose t T mT H mH swapaxes swapdims movedim moveaxis
    view_as expand expand_as broadcast_to getitem chunk split split_with_sizes tensor_split unbind narrow select
    index_select repeat repeat_interleave roll flip reshape_as pixel_shuffle pixel_unshuffle channel_shuffle unfold
    as_strided adjoint diagonal rot90 pad constant_pad_nd""".split()
)

# Shape operations that change nothing where the shape stays.
RESHAPES = frozenset(
    "reshape view reshape_as view_as flatten unflatten squeeze unsqueeze expand expand_as broadcast_to".split()
)

# Operations that ask their other tensors for a shape or a type only.
FIRST_OPERAND_OPS = TRANSPARENT | {"expand_as", "reshape_as", "view_as", "type_as"}

ALIASES = {
    "iadd": "add", "radd": "add", "isub": "sub", "rsub": "sub", "imul": "mul", "rmul": "mul",
    "truediv": "div", "rtruediv": "div", "itruediv": "div", "rdiv": "div", "idiv": "div", "floordiv": "floor_divide",
    "rpow": "pow", "ipow": "pow", "rmatmul": "matmul", "imatmul": "matmul", "concat": "cat", "concatenate": "cat",
    "multiply": "mul", "divide": "div", "true_divide": "div", "subtract": "sub",
    "and": "bitwise_and", "iand": "bitwise_and", "or": "bitwise_or", "ior": "bitwise_or", "ror": "bitwise_or",
    "xor": "bitwise_xor", "ixor": "bitwise_xor", "rxor": "bitwise_xor", "invert": "bitwise_not",
    "absolute": "abs", "negative": "neg", "clip": "clamp", "clamp_min": "clamp", "clamp_max": "clamp",
    "greater": "gt", "greater_equal": "ge", "less": "lt", "less_equal": "le", "not_equal": "ne",
    "special_expit": "sigmoid", "special_softmax": "softmax", "special_log_softmax": "log_softmax",
    "safe_softmax": "softmax", "linalg_vector_norm": "norm", "linalg_norm": "norm", "rfloordiv": "floor_divide",
    "upsample": "interpolate", "upsample_nearest": "interpolate", "upsample_bilinear": "interpolate",
    "rmod": "remainder", "mod": "remainder", "imod": "remainder",
    "multi_head_attention_forward": "multi_head_attention", "native_multi_head_attention": "multi_head_attention",
    "max_pool1d_with_indices": "max_pool1d", "max_pool2d_with_indices": "max_pool2d",
    "max_pool3d_with_indices": "max_pool3d", "adaptive_max_pool1d_with_indices": "adaptive_max_pool1d",
    "adaptive_max_pool2d_with_indices": "adaptive_max_pool2d", "log_sigmoid": "logsigmoid",
}  # fmt: skip

# Operations whose nodes go by the name of a more general one. (The calls keep the name: its arguments differ.)
MERGED = {
    "view": "reshape", "view_as": "reshape", "reshape_as": "reshape",
    "expand_as": "expand", "broadcast_to": "expand",
    "split_with_sizes": "split", "tensor_split": "split",
    "t": "transpose", "T": "transpose", "mT": "transpose", "H": "transpose", "mH": "transpose", "adjoint": "transpose",
    "swapaxes": "transpose", "swapdims": "transpose", "moveaxis": "movedim",
    "flex_attention": "scaled_dot_product_attention",
    "native_layer_norm": "layer_norm", "native_group_norm": "group_norm", "native_batch_norm": "batch_norm",
}  # fmt: skip


@lru_cache(maxsize=4096)
def operation_name(func: Any) -> str:
    """The name of an overridable function: ``__iadd__``, ``add_`` and ``add`` are the same operation."""
    name = getattr(func, "__name__", type(func).__name__)
    if name in ("__get__", "__set__"):  # a property of a tensor
        return ("set_" if name == "__set__" else "") + func.__self__.__name__.strip("_")
    if name == "__rand__":  # the reflected `&`, no random numbers
        return "bitwise_and"
    name = name.split(".")[0].strip("_")
    return ALIASES.get(name, name)
