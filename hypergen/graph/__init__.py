"""Networks as computational graphs."""

from typing import TYPE_CHECKING

from hypergen._lazy import lazy_exports

if TYPE_CHECKING:
    from hypergen.graph.computational_graph import ComputationalGraph, OpNode
    from hypergen.graph.inputs import example_arguments
    from hypergen.graph.tracing.trace import trace
    from hypergen.graph.visualize.draw import draw

__getattr__, __dir__, __all__ = lazy_exports(__name__)
