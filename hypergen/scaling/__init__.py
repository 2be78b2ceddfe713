"""Scale rules: initial scales and learning rates that hold when a network becomes wider or deeper."""

from typing import TYPE_CHECKING

from hypergen._lazy import lazy_exports

if TYPE_CHECKING:
    from hypergen.scaling.check import CoordinateCheck, coordinate_check
    from hypergen.scaling.report import Multiplier, ParameterScale, ScalingReport
    from hypergen.scaling.rules import RULES, scaling_rules

__getattr__, __dir__, __all__ = lazy_exports(__name__)
