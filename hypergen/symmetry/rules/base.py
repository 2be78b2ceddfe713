"""What the rules of operations read and write: the axes of tensors, and the notes that a solver works on."""

from __future__ import annotations

from collections.abc import Sequence

from hypergen.symmetry.axes import Axis, freeze
from hypergen.symmetry.unify import unify


class Operand:
    """A tensor that an operation reads: one axis per dimension.

    Attributes:
        axes: The axes.
        constant: Dimensions along which the tensor is known to be constant, though they have many indices.
    """

    __slots__ = ("axes", "constant")

    def __init__(self, axes: Sequence[Axis], constant: frozenset[int] = frozenset()) -> None:
        self.axes = list(axes)
        self.constant = constant

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the axes."""
        return tuple(axis.size for axis in self.axes)

    def dim(self) -> int:
        """The number of axes."""
        return len(self.axes)


class RuleContext:
    """What a rule knows of the call that it is applied to, and where it notes what the call does to axes.

    Attributes:
        outputs: Shapes of the outputs of the call.
        carriers: Sets of axes of which any that varies with another must find that one in the same set: those of the
            tensors, and of the products and sums that operations work out inside.
        summed: Axes over which an operation sums: only so does a permuted axis reach the outputs.
        random_is_exchangeable: Whether random numbers are as good in any other order, as the noise of training.
    """

    def __init__(self) -> None:
        self.outputs: Sequence[tuple[int, ...]] = ()
        self.carriers: list[Sequence[Axis]] = []
        self.summed: list[Axis] = []
        self.random_is_exchangeable = False

    def mix(self, operand: Operand, dims: Sequence[int], reason: str = "") -> None:
        """Note that an operation mixes the elements along some axes of a tensor.

        Nothing may then vary with these axes. With a reason, they are also frozen.
        """
        count = operand.dim()
        mixed = {dim % count for dim in dims}
        self.carriers.append([axis for dim, axis in enumerate(operand.axes) if dim not in mixed])
        for dim in mixed if reason else ():
            freeze(operand.axes[dim], reason)


def broadcast(operands: Sequence[Operand]) -> list[Axis]:
    """The axes of what is computed element by element from tensors of shapes that broadcast."""
    tensors = [operand for operand in operands if isinstance(operand, Operand)]
    count = max(tensor.dim() for tensor in tensors)
    result: list[Axis] = []
    for dim in range(-count, 0):
        aligned = [tensor.axes[dim] for tensor in tensors if tensor.dim() >= -dim]
        wide = [axis for axis in aligned if axis.size != 1]
        for axis in wide[1:]:
            unify(wide[0], axis)
        result.append(wide[0] if wide else aligned[0])
    return result
