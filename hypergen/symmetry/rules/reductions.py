"""Sums, means, maxima and softmaxes along axes, and what runs along an axis in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypergen.symmetry.axes import Axis, frozen
from hypergen.symmetry.rules.base import Operand, RuleContext, broadcast
from hypergen.symmetry.rules.pointwise import pointwise
from hypergen.symmetry.rules.shapes import pieces
from hypergen.symmetry.unify import unify

ORDERED = "computed in order along the axis"


def reduced(solver: RuleContext, input: Operand, dims: Sequence[int]) -> list[Axis]:
    """The axes of a tensor that was reduced along some of them, kept or not as the output's shape tells."""
    places = {dim % input.dim() for dim in dims} if input.dim() else set()
    solver.mix(input, sorted(places))
    solver.summed += [input.axes[dim] for dim in places]
    if len(solver.outputs[0]) == input.dim():
        return [Axis(1) if dim in places else axis for dim, axis in enumerate(input.axes)]
    return [axis for dim, axis in enumerate(input.axes) if dim not in places]


def reduction(solver: RuleContext, input: Operand, dim: Any = None, *_: Any, **kwargs: Any) -> list[list[Axis]]:
    """``sum(dim)`` and its like: the order of the elements does not matter."""
    dim = kwargs.get("axis", dim)
    if isinstance(dim, bool) or (dim is None and kwargs.get("dims")):
        raise ValueError
    dims = range(input.dim()) if dim is None or dim == () else dim if isinstance(dim, tuple) else (dim,)
    axes = reduced(solver, input, list(dims))
    return [list(axes) for _ in solver.outputs]


def sum_(solver: RuleContext, input: Operand, *args: Any, **kwargs: Any) -> list[list[Axis]]:
    """``sum`` takes its axes as several arguments, too."""
    if len(args) > 1 and all(type(argument) is int for argument in args):
        args = (args,)
    return reduction(solver, input, *args, **kwargs)


def extremum(solver: RuleContext, input: Operand, *args: Any, **kwargs: Any) -> Any:
    """``max``: of all elements, along an axis with the place where it was, or of two tensors."""
    if any(isinstance(argument, Operand) for argument in (*args, *kwargs.values())):
        return pointwise(solver, input, *args, **kwargs)
    if not args and "dim" not in kwargs:
        return reduction(solver, input)
    return located(solver, input, *args, **kwargs)


def located(solver: RuleContext, input: Operand, dim: int | None = None, *_: Any, **__: Any) -> list[list[Axis]]:
    """A reduction that tells a place along the axis."""
    dims = range(input.dim()) if dim is None else (dim,)
    solver.mix(input, dims, "a place along the axis is told")
    return reduction(solver, input, dim)


def norm(
    solver: RuleContext, input: Operand, p: Any = None, dim: Any = None, *_: Any, **kwargs: Any
) -> list[list[Axis]]:
    """``norm(input, p, dim)``."""
    return reduction(solver, input, kwargs.get("axis", dim))


def softmax(solver: RuleContext, input: Operand, dim: int | None = -1, *_: Any, **__: Any) -> list[Axis]:
    """Normalised along an axis."""
    if dim is None:
        raise ValueError
    solver.mix(input, [dim])
    return input.axes


def normalize(solver: RuleContext, input: Operand, p: float = 2.0, dim: int = 1, *_: Any, **__: Any) -> list[Axis]:
    """``normalize(input, p, dim)``."""
    return softmax(solver, input, dim)


def running(solver: RuleContext, input: Operand, dim: int = -1, *_: Any, **__: Any) -> list[list[Axis]]:
    """``cumsum`` and its like."""
    solver.mix(input, [dim], ORDERED)
    return [list(input.axes) for _ in solver.outputs]


def triangle(solver: RuleContext, input: Operand, *_: Any, **__: Any) -> list[Axis]:
    """The part of matrices above or below a diagonal."""
    solver.mix(input, [-2, -1], "a triangle of a matrix is taken")
    return input.axes


def glu(solver: RuleContext, input: Operand, dim: int = -1) -> list[Axis]:
    """One half of an axis gates the other."""
    half = input.axes[dim].size // 2
    first, second = pieces(solver, input, dim, [half, half])
    for one, other in zip(first, second, strict=True):
        unify(one, other)
    return first


def cosine_similarity(solver: RuleContext, x1: Operand, x2: Operand, dim: int = 1, *_: Any, **__: Any) -> list[Axis]:
    """A product and a sum along an axis."""
    axes = Operand(broadcast([x1, x2]))
    solver.carriers.append(axes.axes)
    return reduced(solver, axes, [dim])


def fourier(solver: RuleContext, input: Operand, *args: Any, **kwargs: Any) -> list[Axis]:
    """Fourier transforms: every axis whose size they may change is frozen with the last ones."""
    dims = kwargs.get("dim", args[1] if len(args) > 1 else (-2, -1))
    places = [dim % input.dim() for dim in (dims if isinstance(dims, tuple) else (dims,))]
    solver.mix(input, places, "a Fourier transform runs along the axis")
    return [frozen(solver.outputs[0][dim], ORDERED) if dim in places else axis for dim, axis in enumerate(input.axes)]


def fourier_all(solver: RuleContext, input: Operand, s: Any = None, dim: Any = None, *_: Any, **__: Any) -> list[Axis]:
    """Fourier transforms along all axes, if none are told."""
    return fourier(solver, input, dim=tuple(range(input.dim())) if dim is None else dim)


def fourier_1d(solver: RuleContext, input: Operand, n: Any = None, dim: int = -1, *_: Any, **__: Any) -> list[Axis]:
    """Fourier transforms along one axis."""
    return fourier(solver, input, dim=dim)


def meshgrid(solver: RuleContext, *tensors: Any, indexing: str = "ij") -> list[list[Axis]]:
    """Coordinates of a grid."""
    tensors = tensors[0] if len(tensors) == 1 and isinstance(tensors[0], tuple) else tensors
    for tensor in tensors:
        solver.mix(tensor, range(tensor.dim()), "coordinates of a grid")
    return [[frozen(size, "coordinates of a grid") for size in shape] for shape in solver.outputs]


def as_real(solver: RuleContext, input: Operand) -> list[Axis]:
    """A new axis of the real and the imaginary part."""
    return [*input.axes, frozen(2, "real and imaginary part")]


def as_complex(solver: RuleContext, input: Operand) -> list[Axis]:
    """The last axis is the real and the imaginary part."""
    solver.mix(input, [-1], "real and imaginary part")
    return input.axes[:-1]


RULES: dict[str, Any] = {
    **dict.fromkeys("mean prod amax amin var std any all logsumexp nansum nanmean".split(), reduction),
    **dict.fromkeys(("var_mean", "std_mean", "count_nonzero"), reduction),
    "sum": sum_, "max": extremum, "min": extremum, "argmax": located, "argmin": located, "median": located,
    "norm": norm, "linalg_vector_norm": norm, "linalg_norm": norm,
    "softmax": softmax, "log_softmax": softmax, "softmin": softmax, "normalize": normalize,
    **dict.fromkeys("cumsum cumprod logcumsumexp cummax cummin".split(), running),
    "triu": triangle, "tril": triangle,
    "glu": glu, "cosine_similarity": cosine_similarity,
    **dict.fromkeys("fft_rfft2 fft_irfft2 fft_fft2 fft_ifft2".split(), fourier),
    **dict.fromkeys("fft_fftn fft_ifftn fft_rfftn fft_irfftn".split(), fourier_all),
    **dict.fromkeys("fft_fft fft_ifft fft_rfft fft_irfft".split(), fourier_1d),
    "meshgrid": meshgrid,
    "view_as_real": as_real, "view_as_complex": as_complex,
}  # fmt: skip
