"""Recurrent diffusion of network weights (RPG)."""

from typing import TYPE_CHECKING

from hypergen._lazy import lazy_exports

if TYPE_CHECKING:
    from hypergen.generators.recurrent_diffusion.model import RecurrentDiffusion
    from hypergen.generators.recurrent_diffusion.training import RecurrentDiffusionTraining

__getattr__, __dir__, __all__ = lazy_exports(__name__)
