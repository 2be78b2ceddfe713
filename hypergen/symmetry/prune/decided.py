"""Which axis each argument of a call decides, and over which axes calls take statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hypergen.graph.calls import Call, Value
from hypergen.symmetry.prune.runs import Told
from hypergen.symmetry.structure import Product, Structure

Axes = Mapping[Value, tuple[Structure, ...]]
_SHAPED = frozenset(
    "view reshape expand broadcast_to zeros ones empty full new_zeros new_ones new_empty new_full".split()
)
_SPLITS = frozenset(("split", "split_with_sizes", "tensor_split"))
_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
NORMS = frozenset("layer_norm native_layer_norm rms_norm mean var std var_mean std_mean".split())


def decided_axis(call: Call, path: tuple[Any, ...], axes: Axes) -> Structure | None:
    """The axis whose size an argument tells; None where that is not known."""
    outputs = [axes.get(value) for value in call.outputs]
    out = outputs[0] if outputs else None
    source = axes.get(call.args[0]) if call.args and isinstance(call.args[0], Value) else None
    if call.op in _SHAPED and out is not None:
        place = _position(call, path)
        return out[place] if place is not None and place < len(out) else None
    if call.op == "unflatten" and out is not None and len(path) == 2:
        return out[call.args[1] % len(source or out) + path[1]]
    if call.op in _SPLITS and path[:1] in ((1,), ("split_size_or_sections",), ("split_size",)):
        piece = outputs[path[1] if len(path) > 1 else 0]
        dim = call.kwargs.get("dim", call.args[2] if len(call.args) > 2 else 0)
        return None if piece is None else piece[dim]
    if call.op == "narrow" and path in ((3,), ("length",)) and out is not None:
        return out[call.args[1]]
    if call.op == "getitem" and path[-1] == "stop" and out is not None:
        return _sliced(call, path, out)
    if call.op in _CONVOLUTIONS and path in ((6,), ("groups",)):
        weight = axes.get(_argument(call, 1, "weight"))
        index = 1 if "transpose" in call.op else 0
        return _outer((source[1] if source else None) if index else weight[0] if weight else None)
    if call.op == "group_norm" and path in ((1,), ("num_groups",)) and source is not None:
        return _outer(source[1])
    if call.op in ("layer_norm", "rms_norm") and path[0] in (1, "normalized_shape") and source is not None:
        sizes = _argument(call, 1, "normalized_shape")
        count = len(sizes) if isinstance(sizes, (tuple, list)) else 1
        return source[len(source) - count + (path[1] if len(path) > 1 else 0)]
    if call.op == "multi_head_attention" and source is not None and path in ((3,), ("embed_dim_to_check",)):
        return source[-1]
    return None


def _argument(call: Call, place: int, name: str) -> Any:
    return call.kwargs.get(name, call.args[place] if len(call.args) > place else None)


def _outer(structure: Structure | None) -> Structure | None:
    return structure.factors[0] if isinstance(structure, Product) else structure


def _position(call: Call, path: tuple[Any, ...]) -> int | None:
    """Which of the sizes of a shape an argument is."""
    if isinstance(path[0], str):
        return path[1] if path[0] in ("size", "shape") and len(path) == 2 else None
    start = 1 if call.args and isinstance(call.args[0], Value) else 0
    if path[0] < start:
        return None
    nested = isinstance(call.args[start], (tuple, list))
    if nested:
        return path[1] if path[0] == start and len(path) == 2 else None
    return path[0] - start if len(path) == 1 else None


def shape_argument(op: str, args: Sequence[Any]) -> list[Any] | None:
    """The sizes that an operation was given as a shape; None for other operations."""
    if op not in _SHAPED or not args:
        return None
    rest = list(args[1:]) if not isinstance(args[0], (int, tuple, list)) else list(args)
    if rest and isinstance(rest[0], (tuple, list)):
        rest = list(rest[0])
    return rest if rest and all(isinstance(item, int) for item in rest) else None


def _sliced(call: Call, path: tuple[Any, ...], out: Sequence[Structure]) -> Structure | None:
    items = list(call.args[1]) if isinstance(call.args[1], (tuple, list)) else [call.args[1]]
    place = path[1] if isinstance(call.args[1], (tuple, list)) else 0
    if any(item is ... for item in items):
        dots = next(i for i, item in enumerate(items) if item is ...)
        if place > dots:
            after = [item for item in items[place:] if item is None or isinstance(item, slice)]
            return out[-len(after)] if not items[place].start and not items[place].step else None
    if any(isinstance(item, Value) for item in items) or items[place].start or items[place].step:
        return None
    before = [item for item in items[:place] if item is None or isinstance(item, slice)]
    return out[len(before)]


def held_axes(calls: Sequence[Call], told: Sequence[Told], axes: Axes) -> dict[Any, list[Structure]]:
    """For every attribute that is used as it is, the axes whose size it tells."""
    held: dict[Any, list[Structure]] = {}
    for note in told:
        if note.size.exact:
            found = held.setdefault(note.size.attribute, [])
            axis = decided_axis(calls[note.call], note.path, axes)
            if axis is not None and axis.size == int(note.size) and not any(axis is other for other in found):
                found.append(axis)
    return {attribute: found for attribute, found in held.items() if found}


def statistics(call: Call, axes: Axes) -> tuple[list[Structure], bool]:
    """The axes over which a call averages, and whether it does so to normalise."""
    source = axes.get(call.args[0]) if call.args and isinstance(call.args[0], Value) else None
    if source is None:
        return [], False
    if call.op in ("layer_norm", "native_layer_norm", "rms_norm"):
        sizes = _argument(call, 1, "normalized_shape")
        count = len(sizes) if isinstance(sizes, (tuple, list)) else 1
        return list(source[len(source) - count :]), True
    if call.op == "group_norm":
        parts = source[1].factors[1:] if isinstance(source[1], Product) else ()
        return list(parts), False
    if call.op in ("mean", "var", "std", "var_mean", "std_mean", "softmax", "log_softmax"):
        dim = call.kwargs.get("dim", call.kwargs.get("axis", call.args[1] if len(call.args) > 1 else None))
        dims = (
            range(len(source))
            if dim is None or isinstance(dim, bool)
            else dim
            if isinstance(dim, (tuple, list))
            else (dim,)
        )
        keeps = bool(call.shapes) and len(call.shapes[0]) == len(source) and call.op in NORMS
        return [source[d] for d in dims], keeps
    if call.op == "multi_head_attention":
        inner = [axes.get(_argument(call, place, "")) for place in (6, 11)]
        return [own[dim] for own, dim in zip(inner, (0, 1), strict=True) if own is not None], False
    if call.op == "scaled_dot_product_attention" and call.kwargs.get("scale") is None and len(call.args) < 7:
        return [source[-1]], False
    return [], False
