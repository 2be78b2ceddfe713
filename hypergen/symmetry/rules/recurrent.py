"""Recurrent layers: the gates of a layer share the permutation of its hidden units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypergen.symmetry.axes import Axis, choice, concatenation, cut, divide, freeze
from hypergen.symmetry.rules.base import Operand, RuleContext
from hypergen.symmetry.rules.shapes import REARRANGED
from hypergen.symmetry.unify import unify


def _gated(axis: Axis, gates: int) -> Axis:
    """The hidden units of rows ``(gates, hidden)``."""
    pair = divide(axis, [gates, axis.size // gates])
    if pair is None:
        freeze(axis, REARRANGED)
        raise ValueError
    freeze(pair[0], "gates")
    return pair[1]


def _recurrent(gates: int) -> Any:
    def rule(solver: RuleContext, input: Operand, *args: Any) -> list[list[Axis]]:
        if isinstance(args[0], Operand) and isinstance(args[2], tuple):  # a packed sequence: sizes of batches first
            hx, weights, has_biases, num_layers, _, _, bidirectional = args[1:8]
            solver.mix(input, [0], "time")
        else:
            hx, weights, has_biases, num_layers, _, _, bidirectional, batch_first = args[:8]
            solver.mix(input, [1 if batch_first and input.dim() == 3 else 0], "time")
        states = hx if isinstance(hx, tuple) else (hx,)
        directions = 2 if bidirectional else 1
        per_cell = len(weights) // (num_layers * directions)
        cells, outs, features = [], [], input.axes[-1]
        for layer in range(num_layers):
            layer_outs = []
            for direction in range(directions):
                start = (layer * directions + direction) * per_cell
                hidden, out = _cell(solver, features, weights[start : start + per_cell], gates, bool(has_biases))
                cells.append(hidden)
                outs.append(out)
                layer_outs.append(out)
            features = concatenation(layer_outs)
        for state, own in zip(states, (outs, cells), strict=False):
            _tie(state, own)
        finals = []
        for own, shape in zip((outs, cells), solver.outputs[1:], strict=False):
            places = [Axis(1) for _ in own]
            middle = states[0].axes[1:-1]
            finals.append([concatenation(places), *middle, choice(places, own)] if len(shape) > 1 else [own[0]])
        return [[*input.axes[:-1], features], *finals]

    return rule


def _cell(
    solver: RuleContext, features: Axis, weights: Sequence[Operand], gates: int, has_biases: bool
) -> tuple[Axis, Axis]:
    """Ties the weights of one direction of one layer; the hidden units, and what the cell gives out."""
    from_input, from_hidden, *rest = weights
    hidden = _gated(from_input.axes[0], gates)
    unify(features, from_input.axes[1])
    rows = [from_hidden.axes[0]] + [tensor.axes[0] for tensor in rest[: 2 if has_biases else 0]]
    for axis in rows:
        unify(hidden, _gated(axis, gates))
    solver.carriers += [[features], [hidden]]
    solver.summed += [features, hidden]
    out = hidden
    projection = rest[2 if has_biases else 0 :]
    if projection:
        out = projection[0].axes[0]
        solver.summed.append(out)
        unify(hidden, projection[0].axes[1])
    unify(out, from_hidden.axes[1])
    return hidden, out


def _tie(state: Operand, own: list[Axis]) -> None:
    """The first state ``[layers, batch, hidden]`` follows the hidden units of each layer."""
    if len(own) == 1:
        unify(state.axes[-1], own[0])
        return
    places = cut(state.axes[0], [1] * len(own))
    if places is None:
        raise ValueError
    unify(state.axes[-1], choice(places, own))


def _cell_rule(gates: int) -> Any:
    def rule(
        solver: RuleContext,
        input: Operand,
        hx: Any,
        w_ih: Operand,
        w_hh: Operand,
        b_ih: Operand | None = None,
        b_hh: Operand | None = None,
    ) -> list[list[Axis]]:
        biases = [bias for bias in (b_ih, b_hh) if bias is not None]
        hidden, _ = _cell(solver, input.axes[-1], [w_ih, w_hh, *biases], gates, bool(biases))
        for state in hx if isinstance(hx, tuple) else (hx,):
            unify(state.axes[-1], hidden)
        return [[*input.axes[:-1], hidden] for _ in solver.outputs]

    return rule


_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
RULES: dict[str, Any] = {
    **{name: _recurrent(gates) for name, gates in _GATES.items()},
    **{f"{name}_cell": _cell_rule(gates) for name, gates in _GATES.items()},
}
