"""Giving predicted parameters the diversity that training starts better from."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from hypergen.errors import ParameterError, UnknownNameError
from hypergen.functional.check import Parameters
from hypergen.graph import ComputationalGraph

DIVERSIFICATIONS = ("noise", "orthogonal", "variance")
_STRENGTH = {"noise": 0.1, "orthogonal": 3e-5}
_LEAST = 1e-12


def diversify(
    parameters: Mapping[str, Tensor],
    kind: str,
    *,
    strength: float | None = None,
    leave_out: Collection[str] = (),
    own: Mapping[str, Tensor] | None = None,
    seed: int = 0,
) -> Parameters:
    """Make rows of predicted matrices differ more, without forgetting what was predicted altogether.

    Predicted rows resemble each other, which hurts the training of modern networks. The kinds:

    - ``noise``: independent normal values are added, of ``strength`` times the matrix's standard deviation.
    - ``orthogonal``: after such noise, the nearest thing to it with orthonormal rows or columns that a QR decomposition
      gives, signs fixed, at the matrix's own Frobenius norm (Knyazev et al., *Pretraining a Neural Network before
      Knowing Its Architecture*, 2022, arXiv:2207.10049).
    - ``variance``: the matrix is scaled to the standard deviation of the network's own initialisation.

    Only parameters with two or more axes change; kernels count as matrices ``[out, in · positions]``.

    Args:
        parameters: What was predicted; it is only read.
        kind: One of those.
        strength: Strength of the noise; by default 0.1 for ``noise`` and, as published, 3e-5 for ``orthogonal``.
        leave_out: Names that stay as they are, usually the last layer's.
        own: The network's own initial values, for ``variance``.
        seed: Random seed of the noise.

    Returns:
        All parameters; those that stay as they are, are the same tensors.

    Raises:
        UnknownNameError: There is no such kind.
        ParameterError: ``variance`` without own values, a strength that has no effect or is negative.
    """
    if kind not in DIVERSIFICATIONS:
        raise UnknownNameError("diversification", kind, DIVERSIFICATIONS)
    if strength is not None and (kind not in _STRENGTH or not 0 <= strength < math.inf):
        raise ParameterError(
            f"A strength of {strength} does not go with diversify={kind!r}: noise and orthogonal take one, 0 or more."
        )
    amount = _STRENGTH.get(kind, 0.0) if strength is None else strength
    result = dict(parameters)
    with torch.no_grad():
        for number, (name, value) in enumerate(parameters.items()):
            if value.dim() < 2 or name in leave_out:
                continue
            matrix = value.detach().reshape(len(value), -1).float()
            if min(matrix.shape) < 2:
                continue  # a table of one row, or a kernel per channel, has nothing to be orthogonal to
            if kind == "variance":
                changed = matrix * (_spread(_own(own, name)) / _spread(matrix).clamp_min(_LEAST))
            else:
                # A stream of its own for each parameter: one that is left out does not change the others.
                random = torch.Generator().manual_seed((seed << 20) + number)
                noise = torch.randn(matrix.shape, generator=random).to(matrix)
                changed = matrix + amount * _spread(matrix) * noise
                if kind == "orthogonal":
                    changed = _orthogonal(changed) * (matrix.norm() / math.sqrt(min(matrix.shape)))
            result[name] = changed.reshape(value.shape).to(value.dtype)
    return result


def last_weights(graph: ComputationalGraph) -> tuple[str, ...]:
    """The matrices that the last operation with any of them reads: those that give the outputs."""
    for node in reversed(graph.nodes):
        names = (*node.parameters.values(), *node.shared.values())
        if weights := tuple(name for name in names if len(graph.parameter_shapes[name]) > 1):
            return weights
    return ()


def _orthogonal(matrix: Tensor) -> Tensor:
    """Orthonormal rows or columns, whichever are fewer, that span the same."""
    tall = matrix if len(matrix) >= matrix.shape[1] else matrix.t()
    q, r = torch.linalg.qr(tall)
    # Without this, the signs would be those of the decomposition's algorithm.
    q = q * torch.where(r.diagonal() < 0, -1.0, 1.0)
    return q if tall is matrix else q.t()


def _own(own: Mapping[str, Tensor] | None, name: str) -> Tensor:
    value = None if own is None else own.get(name)
    if value is None or value.is_meta:
        raise ParameterError(
            f"diversify='variance' takes the scale of {name!r} from the network's own initialisation, and there is "
            "none: build the network with real values, not on the meta device."
        )
    return value.detach().float()


def _spread(value: Tensor) -> Tensor:
    return value.std(correction=0)
