"""What each operation says about the axes of its tensors, by the operation's name.

A rule is called like the operation, behind the solver: with :class:`~hypergen.symmetry.rules.base.Operand` in the
place of tensors. It unifies and freezes axes, and returns the axes of the output, or a list of them for several
outputs. It raises, or returns None, where it is not called as it expects; then every axis of the operation is frozen.
"""

from hypergen.symmetry.rules import (
    attention,
    contractions,
    convolutions,
    indexing,
    normalization,
    pointwise,
    recurrent,
    reductions,
    shapes,
)

RULES = {
    **pointwise.RULES,
    **shapes.RULES,
    **indexing.RULES,
    **reductions.RULES,
    **contractions.RULES,
    **convolutions.RULES,
    **normalization.RULES,
    **attention.RULES,
    **recurrent.RULES,
}

__all__ = ["RULES"]
