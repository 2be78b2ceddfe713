"""Weight matching: the hidden units of trained networks in the same order, and what is between two networks."""

from typing import TYPE_CHECKING

from hypergen._lazy import lazy_exports

if TYPE_CHECKING:
    from hypergen.symmetry.align.augmentation import augment
    from hypergen.symmetry.align.matching import match_weights
    from hypergen.symmetry.align.merging import Alignment, align_networks, interpolate
    from hypergen.symmetry.align.stacked import align

__getattr__, __dir__, __all__ = lazy_exports(__name__)
