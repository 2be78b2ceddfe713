"""Operations that work element by element, and constants."""

from __future__ import annotations

from typing import Any

from hypergen.symmetry.axes import Axis, frozen
from hypergen.symmetry.rules.base import Operand, RuleContext, broadcast
from hypergen.symmetry.unify import unify

_POINTWISE = """abs absolute neg negative sign sgn exp exp2 expm1 log log2 log10 log1p sqrt rsqrt square reciprocal sin
    cos tan asin acos atan sinh cosh asinh acosh atanh arctan arcsin arccos erf erfc erfinv sigmoid tanh floor ceil
    round trunc frac relu relu6 gelu silu mish elu selu celu leaky_relu rrelu hardtanh hardswish hardsigmoid
    hardshrink softshrink tanhshrink softplus softsign logsigmoid threshold add sub mul div floor_divide remainder fmod
    pow
    float_power rsub maximum minimum fmax fmin atan2 arctan2 hypot lerp addcmul addcdiv clamp clip clamp_min clamp_max
    clamp_max where masked_fill eq ne lt le gt ge equal_to not_equal less less_equal greater greater_equal isnan isinf
    isfinite isposinf isneginf logical_and logical_or logical_xor logical_not and or xor invert bitwise_and bitwise_or
    bitwise_xor bitwise_not ror rxor mod rmod nan_to_num xlogy special_xlogy special_expit special_erf
    special_log1p special_expm1 sigmoid_ logit special_logit sinc conj conj_physical real imag angle heaviside logaddexp
    copysign dropout dropout1d dropout2d dropout3d feature_dropout alpha_dropout feature_alpha_dropout rfloordiv deg2rad
    lshift rshift polygamma lgamma digamma i0 special_i0 bitwise_left_shift bitwise_right_shift complex mul_ copy fill
    zero""".split()

# Operations that hand on their first tensor, or one of its type.
_UNCHANGED = """contiguous clone detach to float half bfloat16 double bool byte char short int long cpu cuda type
    type_as data identity alias positive as_tensor asarray lift_fresh requires_grad cfloat cdouble resolve_conj
    resolve_neg stop_gradient pin_memory fake_quantize_per_tensor_affine""".split()

# The same value in every place: whatever permutes these tensors leaves them as they are.
_UNIFORM = """zeros ones full empty zeros_like ones_like full_like empty_like new_zeros new_ones new_full
    new_empty""".split()


def pointwise(solver: RuleContext, *args: Any, **kwargs: Any) -> list[Axis]:
    """Element by element, with broadcasting."""
    if "out" in kwargs:
        raise ValueError
    operands = [argument for argument in (*args, *kwargs.values()) if isinstance(argument, Operand)]
    axes = broadcast(operands)
    solver.carriers.append(axes)
    return axes


def in_place_first(solver: RuleContext, input: Operand, *args: Any, **kwargs: Any) -> list[Axis]:
    """Element by element into the first tensor."""
    pointwise(solver, input, *args, **kwargs)
    return input.axes


def unchanged(solver: RuleContext, input: Operand, *_: Any, **__: Any) -> list[Axis]:
    """The first tensor as it is."""
    return input.axes


def uniform(solver: RuleContext, *_: Any, **__: Any) -> list[Axis]:
    """A tensor with one value."""
    return [Axis(size) for size in solver.outputs[0]]


def constant(solver: RuleContext, *args: Any, **kwargs: Any) -> list[list[Axis]]:
    """A tensor made of nothing that the network computes."""
    if any(isinstance(argument, Operand) for argument in (*args, *kwargs.values())):
        raise ValueError
    return [[frozen(size, "a constant of the network") for size in shape] for shape in solver.outputs]


def rand(solver: RuleContext, *args: Any, **kwargs: Any) -> Any:
    """Random numbers, or ``number & tensor``."""
    operands = [argument for argument in args if isinstance(argument, Operand)]
    return pointwise(solver, *args, **kwargs) if operands else constant(solver, *args, **kwargs)


def prelu(solver: RuleContext, input: Operand, weight: Operand) -> list[Axis]:
    """A slope per channel."""
    if weight.axes[0].size != 1:
        unify(input.axes[1 if input.dim() > 1 else 0], weight.axes[0])
    return input.axes


RULES: dict[str, Any] = {
    **dict.fromkeys(_POINTWISE, pointwise),
    **dict.fromkeys(("copy", "fill", "zero"), in_place_first),
    **dict.fromkeys(_UNCHANGED, unchanged),
    **dict.fromkeys(_UNIFORM, uniform),
    **dict.fromkeys(("arange", "linspace", "randn", "eye", "tensor", "scalar_tensor"), constant),
    "rand": rand,
    "prelu": prelu,
}
