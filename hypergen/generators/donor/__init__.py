"""Parameters taken from a trained network of another size."""

from hypergen.generators.donor.mapping import map_parameters
from hypergen.generators.donor.report import DonorMapping, TensorSource

__all__ = ["DonorMapping", "TensorSource", "map_parameters"]
