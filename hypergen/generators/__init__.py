"""The generator contract, the registry, and one folder a method."""

from typing import TYPE_CHECKING

from hypergen._lazy import lazy_exports

if TYPE_CHECKING:
    from hypergen.generators.autoregressive import *
    from hypergen.generators.checkpoint_transformer import *
    from hypergen.generators.conditions import ConditionEncoder
    from hypergen.generators.factory import list_generators, load_generator
    from hypergen.generators.generator import Generator
    from hypergen.generators.ghn import *
    from hypergen.generators.hyper_representation import *
    from hypergen.generators.latent_diffusion import *
    from hypergen.generators.published import *
    from hypergen.generators.recurrent_diffusion import *
    from hypergen.generators.registry import (
        generator_class,
        register_generator,
    )
    from hypergen.generators.tokens import *
    from hypergen.generators.zoo_generator import Condition, ZooGenerator
    from hypergen.generators.zoo_pipeline import ZooPipeline

__getattr__, __dir__, __all__ = lazy_exports(__name__, subpackages=True)
