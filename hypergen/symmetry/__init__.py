"""The permutation symmetries of any traced network, and what they are good for: alignment, merging, pruning."""

from typing import TYPE_CHECKING

from hypergen._lazy import lazy_exports

if TYPE_CHECKING:
    from hypergen.symmetry.align.augmentation import augment
    from hypergen.symmetry.align.matching import match_weights
    from hypergen.symmetry.align.merging import Alignment, align_networks, interpolate
    from hypergen.symmetry.align.stacked import align as align_stacked
    from hypergen.symmetry.align.stacked import permute_units
    from hypergen.symmetry.merge.files import merge_files
    from hypergen.symmetry.merge.methods import MERGE_METHODS, merge_tensors, merge_weighted
    from hypergen.symmetry.merge.regression import fisher_importance, input_products, merge_regression
    from hypergen.symmetry.parameter_graph import ParameterGraph
    from hypergen.symmetry.prune.allocate import allocate
    from hypergen.symmetry.prune.importance import magnitude, most_important, random, taylor
    from hypergen.symmetry.prune.pruned import Pruned
    from hypergen.symmetry.prune.pruner import Pruner, half_of
    from hypergen.symmetry.structure import Choice, Group, Product, Structure, Sum
    from hypergen.symmetry.symmetry import Element, Symmetry, find_symmetry
    from hypergen.symmetry.verify import Verification

__getattr__, __dir__, __all__ = lazy_exports(__name__)
