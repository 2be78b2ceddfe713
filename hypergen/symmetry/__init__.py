"""The permutation symmetries of any traced network."""

from hypergen.symmetry.structure import Choice, Group, Product, Structure, Sum
from hypergen.symmetry.symmetry import Element, Symmetry, find_symmetry

__all__ = ["Choice", "Element", "Group", "Product", "Structure", "Sum", "Symmetry", "find_symmetry"]
