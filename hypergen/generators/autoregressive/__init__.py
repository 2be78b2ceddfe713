"""Autoregressive generation of weight codes (IGPG)."""

from typing import TYPE_CHECKING

from hypergen._lazy import lazy_exports

if TYPE_CHECKING:
    from hypergen.generators.autoregressive.model import AutoregressiveGenerator
    from hypergen.generators.autoregressive.training import AutoregressiveGeneratorTraining
    from hypergen.generators.autoregressive.vector_quantizer import ResidualQuantizer

__getattr__, __dir__, __all__ = lazy_exports(__name__)
