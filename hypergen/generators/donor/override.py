"""Layers that the user pairs by name, over what the graphs say."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from hypergen.errors import ParameterError, UnknownNameError
from hypergen.generators.donor.layers import Layer
from hypergen.generators.donor.matching import LayerPair


def override_pairs(
    pairs: Sequence[LayerPair], target: Sequence[Layer], donor: Sequence[Layer], match: Mapping[str, str | None]
) -> list[LayerPair]:
    """Replace the partners of the target's layers that ``match`` names.

    Args:
        pairs: What was found by structure.
        target: All layers of the target.
        donor: All layers of the donor.
        match: Name of a layer or parameter of the target → that of the donor's, or None for a layer that keeps its own
            values. A ``*`` stands for any part of a name; the donor's are filled in with the same texts, in order.

    Raises:
        UnknownNameError: A name is of no layer of its network.
        ParameterError: Two layers compute different things, or a name is of several layers of the donor, which are
            listed.
    """
    chosen = {_key(pair.target): pair for pair in pairs}
    for pattern, partner in match.items():
        expression = re.compile(_expression(pattern))
        found = [(layer, hit) for layer in target if (hit := _first(expression, layer)) is not None]
        if not found:
            raise UnknownNameError("layer of the target", pattern, _names(target))
        for layer, hit in found:
            if partner is None:
                chosen.pop(_key(layer), None)
                continue
            name = partner
            for text in hit.groups():
                name = name.replace("*", text, 1)
            candidates = [other for other in donor if _first(re.compile(_expression(name)), other) is not None]
            if not candidates:
                raise UnknownNameError("layer of the donor", name, _names(donor))
            if len(candidates) > 1:
                raise ParameterError(
                    f"match: {pattern!r} → {name!r} is ambiguous: it is {len(candidates)} layers of the donor, "
                    f"{', '.join(map(repr, _names(candidates)[:8]))}. Name one of them."
                )
            if candidates[0].kind != layer.kind:
                raise ParameterError(
                    f"match: {_names([layer])[0]!r} is a {layer.kind}, the donor's {name!r} a {candidates[0].kind}; "
                    "only layers that compute the same can be paired."
                )
            chosen[_key(layer)] = LayerPair(layer, candidates[0])
    order = {_key(layer): number for number, layer in enumerate(target)}
    return sorted(chosen.values(), key=lambda pair: order[_key(pair.target)])


def _expression(pattern: str) -> str:
    return "(.*)".join(map(re.escape, pattern.split("*")))


def _homes(layer: Layer) -> list[str]:
    """The names that a layer goes by: its modules', and those of its parameters."""
    names = [name for some in layer.tensors.values() for name in some]
    return list(dict.fromkeys([*(name.rpartition(".")[0] for name in names), *names]))


def _key(layer: Layer) -> tuple[str, ...]:
    """What tells a layer from the others of its network; ``nn.MultiheadAttention`` is two layers of one node."""
    return next(iter(layer.tensors.values()))


def _names(layers: Sequence[Layer]) -> list[str]:
    return [_homes(layer)[0] for layer in layers]


def _first(expression: re.Pattern[str], layer: Layer) -> re.Match[str] | None:
    return next((hit for name in _homes(layer) if (hit := expression.fullmatch(name)) is not None), None)
