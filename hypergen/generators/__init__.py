"""The generator contract, the registry, and one folder a method."""

from typing import TYPE_CHECKING

from hypergen._lazy import lazy_exports

if TYPE_CHECKING:
    from hypergen.generators.autoregressive.model import AutoregressiveGenerator
    from hypergen.generators.autoregressive.training import AutoregressiveGeneratorTraining
    from hypergen.generators.autoregressive.vector_quantizer import ResidualQuantizer
    from hypergen.generators.checkpoint_transformer.model import CheckpointTransformer
    from hypergen.generators.checkpoint_transformer.training import CheckpointTransformerTraining
    from hypergen.generators.conditions import ConditionEncoder
    from hypergen.generators.factory import list_generators, load_generator
    from hypergen.generators.generator import Generator
    from hypergen.generators.ghn.meta_batches import MetaBatchDataModule
    from hypergen.generators.ghn.model import GraphHypernetwork
    from hypergen.generators.ghn.training import GraphHypernetworkTraining
    from hypergen.generators.hyper_representation.model import HyperRepresentation
    from hypergen.generators.hyper_representation.training import HyperRepresentationTraining
    from hypergen.generators.latent_diffusion.autoencoder_training import WeightAutoencoderTraining
    from hypergen.generators.latent_diffusion.model import LatentDiffusion
    from hypergen.generators.latent_diffusion.training import LatentDiffusionTraining
    from hypergen.generators.latent_diffusion.weight_autoencoder import WeightAutoencoder
    from hypergen.generators.latent_diffusion.weight_components import WeightComponents
    from hypergen.generators.published.model import ReleasedGraphHypernetwork
    from hypergen.generators.recurrent_diffusion.model import RecurrentDiffusion
    from hypergen.generators.recurrent_diffusion.training import RecurrentDiffusionTraining
    from hypergen.generators.registry import generator_class, register_generator
    from hypergen.generators.tokens.network_batches import LayoutNetworks, NetworkBatches, TrainingZoo
    from hypergen.generators.tokens.unit_tokens import UnitTokens
    from hypergen.generators.tokens.weight_tokens import WeightTokens
    from hypergen.generators.zoo_generator import Condition, ZooGenerator
    from hypergen.generators.zoo_pipeline import ZooPipeline

__getattr__, __dir__, __all__ = lazy_exports(__name__, subpackages=True)
