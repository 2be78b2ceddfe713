"""Building a zoo from a plan."""

from typing import TYPE_CHECKING

from hypergen._lazy import lazy_exports

if TYPE_CHECKING:
    from hypergen.zoo.build.build import BuildReport, build_zoo
    from hypergen.zoo.build.plan import ZooPlan, binary_relabellings, permuted_labels

__getattr__, __dir__, __all__ = lazy_exports(__name__)
