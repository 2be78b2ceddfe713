"""Predict the parameters of any ``torch.nn.Module``.

The public names load when they are first used, so that ``import hypergen`` costs little beyond torch's own import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypergen._lazy import lazy_exports
from hypergen._moved import explain_moved_modules
from hypergen._torchvision import declare_operators
from hypergen._version import __version__

if TYPE_CHECKING:
    from hypergen.api.disk import predict_to_disk
    from hypergen.api.predict import InitializationReport, initialize, predict_params
    from hypergen.generators.factory import list_generators, load_generator
    from hypergen.generators.generator import Generator
    from hypergen.generators.hypernetwork.model import HyperNetwork
    from hypergen.graph.computational_graph import ComputationalGraph
    from hypergen.graph.tracing.trace import trace
    from hypergen.symmetry.align.merging import align_networks as align

# Before anything in the package gets to import torchvision, itself or through torchmetrics and Lightning.
declare_operators()
explain_moved_modules()

__getattr__, __dir__, __all__ = lazy_exports(__name__)
