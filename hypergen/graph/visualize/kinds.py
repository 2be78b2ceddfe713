"""Kinds of operations, which a drawing tells apart by colour."""

from __future__ import annotations

from hypergen.graph.operations import SHAPE_OPS

# Kind of operation → its colour, and its operations: those whose names hold one of these words.
KINDS = {
    "input": ("#d9d9d9", ("input",)),
    "attention": ("#f4a6a0", ("attention",)),
    "recurrent": ("#e3a3cf", ("lstm", "gru", "rnn")),
    "norm": ("#b5dcae", ("norm",)),
    "embedding": ("#a5dcd6", ("embedding",)),
    "weights": ("#a9c8ec", ("conv", "linear", "addmm", "matmul", "bmm", "einsum", "bilinear")),
    "pooling": ("#cbb8e3", ("pool", "mean", "sum", "amax", "interpolate", "upsample")),
    "arithmetic": ("#f6e29a", ("add", "sub", "mul", "div", "pow", "sqrt", "cat", "stack", "neg", "where", "setitem")),
    "activation": (
        "#f7c08a",
        ("relu", "elu", "gelu", "silu", "swish", "mish", "tanh", "sigmoid", "softmax", "softplus", "softsign", "exp"),
    ),
    "shape": ("#efefef", ()),
    "other": ("#ffffff", ()),
}


def kind_of(op: str) -> str:
    """The kind of an operation, which decides its colour."""
    if op in SHAPE_OPS:
        return "shape"
    return next((kind for kind, (_, words) in KINDS.items() if any(word in op for word in words)), "other")
