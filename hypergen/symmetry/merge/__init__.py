"""Several trained networks of one architecture into one: from formulas on tensors to files on disk."""

from typing import TYPE_CHECKING

from hypergen._lazy import lazy_exports

if TYPE_CHECKING:
    from hypergen.symmetry.merge.files import merge_files
    from hypergen.symmetry.merge.methods import MERGE_METHODS, merge_tensors, merge_weighted
    from hypergen.symmetry.merge.regression import fisher_importance, input_products, merge_regression

__getattr__, __dir__, __all__ = lazy_exports(__name__)
