"""Attention: heads are blocks of channels."""

from __future__ import annotations

from typing import Any

from hypergen.symmetry.axes import Axis, cut, divide, freeze, product
from hypergen.symmetry.rules.base import Operand, RuleContext, broadcast
from hypergen.symmetry.rules.contractions import contract
from hypergen.symmetry.rules.shapes import REARRANGED
from hypergen.symmetry.unify import unify


def scaled_dot_product_attention(
    solver: RuleContext,
    query: Operand,
    key: Operand,
    value: Operand,
    attn_mask: Operand | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> list[Axis]:
    """``query [..., heads, queries, width]``, ``key`` and ``value [..., heads, keys, width]``."""
    batch = list(query.axes[:-2])
    if enable_gqa and query.axes[-3].size != key.axes[-3].size:
        count = key.axes[-3].size
        pair = divide(query.axes[-3], [count, query.axes[-3].size // count])
        if pair is None:
            raise ValueError
        unify(pair[0], key.axes[-3])
        unify(key.axes[-3], value.axes[-3])
        shared = [*batch[:-1], pair[0]]
        if batch[:-1]:
            broadcast([Operand(batch[:-1]), Operand(key.axes[:-3]), Operand(value.axes[:-3])])
    else:
        shared = broadcast([Operand(axes[:-2]) for axes in (query.axes, key.axes, value.axes)]) if batch else []
        batch = list(shared)
    unify(key.axes[-2], value.axes[-2])
    contract(solver, query.axes[-1], key.axes[-1], shared)
    solver.mix(query, [-1])
    solver.mix(key, [-1])
    solver.mix(value, [-2])
    solver.summed.append(key.axes[-2])
    logits = [*batch, query.axes[-2], key.axes[-2]]
    solver.carriers += [logits, [*shared, key.axes[-2]]]
    if attn_mask is not None:
        broadcast([Operand(logits), attn_mask])
    if is_causal:
        freeze(query.axes[-2], "a causal mask")
        freeze(key.axes[-2], "a causal mask")
    return [*batch, query.axes[-2], value.axes[-1]]


def multi_head_attention(
    solver: RuleContext,
    query: Operand,
    key: Operand,
    value: Operand,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Operand | None,
    in_proj_bias: Operand | None,
    bias_k: Operand | None,
    bias_v: Operand | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Operand,
    out_proj_bias: Operand | None,
    training: bool = True,
    key_padding_mask: Operand | None = None,
    need_weights: bool = True,
    attn_mask: Operand | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Operand | None = None,
    k_proj_weight: Operand | None = None,
    v_proj_weight: Operand | None = None,
    static_k: Operand | None = None,
    static_v: Operand | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> list[list[Axis]]:
    """``torch.nn.functional.multi_head_attention_forward``: three projections, heads, and a projection."""
    if static_k is not None or static_v is not None or add_zero_attn:
        raise ValueError
    size = embed_dim_to_check
    if use_separate_proj_weight:
        weights = [w for w in (q_proj_weight, k_proj_weight, v_proj_weight) if w is not None]
        outs = [weight.axes[0] for weight in weights]
        inputs = [weight.axes[1] for weight in weights]
    else:
        assert in_proj_weight is not None
        outs = _thirds(in_proj_weight.axes[0], size)
        inputs = [in_proj_weight.axes[1]] * 3
    if in_proj_bias is not None:
        for out, bias in zip(outs, _thirds(in_proj_bias.axes[0], size), strict=True):
            unify(out, bias)
    for tensor, axis in zip((query, key, value), inputs, strict=True):
        contract(solver, tensor.axes[-1], axis)
    for added, axis in ((bias_k, outs[1]), (bias_v, outs[2])):
        if added is not None:
            unify(added.axes[-1], axis)
    (heads, queries), (key_heads, keys), (value_heads, values) = (_heads(axis, num_heads) for axis in outs)
    unify(heads, key_heads)
    unify(heads, value_heads)
    contract(solver, queries, keys, [heads])
    unify(product([heads, values]), out_proj_weight.axes[1])
    solver.summed += [heads, values]
    solver.carriers.append([heads, values])
    if out_proj_bias is not None:
        unify(out_proj_weight.axes[0], out_proj_bias.axes[0])
    for axis in (query.axes[0], key.axes[0], value.axes[0]):
        freeze(axis, "a place in a sequence")
    if query.dim() == 3:
        unify(query.axes[1], key.axes[1])
        unify(query.axes[1], value.axes[1])
    for mask in (key_padding_mask, attn_mask):
        for axis in mask.axes if mask is not None else ():
            freeze(axis, "a mask")
    result = [[*query.axes[:-1], out_proj_weight.axes[0]]]
    if len(solver.outputs) > 1:
        sequence = [query.axes[0], Axis(solver.outputs[1][-1], "a place in a sequence")]
        result.append([*query.axes[1:-1], *([] if average_attn_weights else [heads]), *sequence])
    return result


def _thirds(axis: Axis, size: int) -> list[Axis]:
    thirds = cut(axis, [size] * 3)
    if thirds is None:
        freeze(axis, REARRANGED)
        raise ValueError
    return thirds


def _heads(axis: Axis, count: int) -> tuple[Axis, Axis]:
    pair = divide(axis, [count, axis.size // count])
    if pair is None:
        freeze(axis, REARRANGED)
        raise ValueError
    return pair[0], pair[1]


RULES: dict[str, Any] = {
    "scaled_dot_product_attention": scaled_dot_product_attention,
    "multi_head_attention": multi_head_attention,
}
