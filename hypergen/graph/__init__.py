"""Networks as computational graphs."""

from hypergen.graph.computational_graph import ComputationalGraph, OpNode
from hypergen.graph.tracing.trace import trace

__all__ = ["ComputationalGraph", "OpNode", "trace"]
