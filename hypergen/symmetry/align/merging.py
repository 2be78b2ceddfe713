"""Two trained networks of one architecture: the same order of hidden units, and the networks between them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hypergen.errors import ParameterError
from hypergen.functional.check import is_finite
from hypergen.graph import ComputationalGraph, trace
from hypergen.symmetry.align.matching import match_weights
from hypergen.symmetry.symmetry import Element

_SHOWN = 10


@dataclass(frozen=True)
class Alignment:
    """A network whose hidden units were brought into the order of another one's.

    Attributes:
        aligned: Its tensors; it computes what it did.
        element: What was permuted, an element of ``graph.symmetry()``.
        before: Euclidean distance of all parameters of the two networks as they were.
        after: The same when aligned; never greater.
        groups: How many groups of units there are.
        moved: In how many of them something was permuted.
        unsupported: Operations without a rule of symmetry: what they touch stays as it is.
    """

    aligned: dict[str, Tensor]
    element: Element
    before: float
    after: float
    groups: int
    moved: int
    unsupported: tuple[str, ...]


def align_networks(
    model: nn.Module | ComputationalGraph, a: Mapping[str, Tensor], b: Mapping[str, Tensor], example_inputs: Any = None
) -> Alignment:
    """Permute the hidden units of ``b`` so that it comes near ``a``; what it computes stays the same.

    Weight matching (Ainsworth et al., *Git Re-Basin*, 2022, arXiv 2209.04836) over every group that the network's
    symmetry has; see :func:`hypergen.symmetry.align.matching.match_weights`.

    Args:
        model: The network, which is only read and may be on the meta device; or its graph.
        a: The state dict of the network that stays; parameters, and buffers where they matter.
        b: That of the network to permute, with the same names and shapes.
        example_inputs: What ``model(...)`` is called with, when it cannot be worked out.

    Returns:
        The permuted ``b``, with the distances before and after.

    Raises:
        ParameterError: Names or shapes are not those of the network, or values are not finite; the message names the
            tensors.
        TraceError: The network could not be run on example inputs.
    """
    graph = model if isinstance(model, ComputationalGraph) else trace(model, example_inputs)
    known = None if isinstance(model, ComputationalGraph) else model.state_dict()
    symmetry = graph.symmetry()
    _check("a", a, graph, known)
    _check("b", b, graph, known)
    odd = [name for name in (*a, *b) if name not in a or name not in b or a[name].shape != b[name].shape]
    if odd:
        raise ParameterError(
            f"The two networks do not have the same tensors: {_listed(odd)}. Use checkpoints of one run."
        )
    names = list(graph.parameter_shapes)
    own, reference = {name: b[name] for name in names}, {name: a[name] for name in names}
    element = match_weights(symmetry, own, reference)
    aligned = symmetry.apply(b, element)
    aligned |= {alias: aligned[name] for alias, name in graph.tied_parameters.items() if alias in aligned}
    before = _distance(own, reference)
    # A sum of the same squares in another order may round up.
    after = min(before, _distance(aligned, reference))
    identity = symmetry.identity()
    moved = sum(not torch.equal(element[group.name], identity[group.name]) for group in symmetry.groups)
    return Alignment(aligned, element, before, after, len(symmetry.groups), moved, symmetry.unsupported)


def interpolate(a: Mapping[str, Tensor], b: Mapping[str, Tensor], share: float = 0.5) -> dict[str, Tensor]:
    """The network on the straight line between two.

    Running statistics of batch norms are interpolated, too, which is not what the network between sees: estimate them
    anew by :func:`hypergen.functional.calibrate_batch_norm` (Jordan et al., *REPAIR*, 2022, arXiv 2211.08403).

    Args:
        a: Tensors by name; further leading axes are batches.
        b: Tensors to mix in, in the same form.
        share: Share of ``b``: 0 is ``a``, 1 is ``b``, 0.5 their mean.

    Returns:
        The names of ``a`` in its data types; integers are those of ``a``.
    """
    result = {}
    for name, one in a.items():
        if one.is_floating_point():
            accurate = torch.promote_types(one.dtype, torch.float32)
            result[name] = torch.lerp(one.to(accurate), b[name].to(accurate), share).to(one.dtype)
        else:
            result[name] = one
    return result


def _check(
    which: str, tensors: Mapping[str, Tensor], graph: ComputationalGraph, known: Mapping[str, Tensor] | None
) -> None:
    shapes = dict(graph.parameter_shapes)
    if known is not None:
        shapes |= {name: tuple(value.shape) for name, value in known.items()}
    required = graph.parameter_shapes
    problems = [f"{name}: missing, expected shape {list(required[name])}" for name in required if name not in tensors]
    for name, value in tensors.items():
        if name not in shapes:
            if known is not None:
                problems.append(f"{name}: not a tensor of this network")
        elif tuple(value.shape) != shapes[name]:
            problems.append(f"{name}: shape {list(value.shape)}, expected {list(shapes[name])}")
        if value.is_floating_point() and not is_finite(value):
            count = int((~value.isfinite()).sum())
            problems.append(f"{name}: {count:,} of {value.numel():,} values are not finite")
    if problems:
        raise ParameterError(f"The tensors of {which} do not fit the network:\n  {_listed(problems, chr(10) + '  ')}")


def _distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    return math.sqrt(sum(float((one[name].double() - value.double()).square().sum()) for name, value in other.items()))


def _listed(items: Iterable[str], separator: str = ", ") -> str:
    unique = list(dict.fromkeys(items))
    more = len(unique) - _SHOWN
    return separator.join(unique[:_SHOWN]) + (f"{separator}and {more} more" if more > 0 else "")
