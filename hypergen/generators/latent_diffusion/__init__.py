"""Latent diffusion of network weights."""

from typing import TYPE_CHECKING

from hypergen._lazy import lazy_exports

if TYPE_CHECKING:
    from hypergen.generators.latent_diffusion.autoencoder_training import WeightAutoencoderTraining
    from hypergen.generators.latent_diffusion.model import LatentDiffusion
    from hypergen.generators.latent_diffusion.training import LatentDiffusionTraining
    from hypergen.generators.latent_diffusion.weight_autoencoder import WeightAutoencoder
    from hypergen.generators.latent_diffusion.weight_components import WeightComponents

__getattr__, __dir__, __all__ = lazy_exports(__name__)
