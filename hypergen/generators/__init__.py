"""The generator contract, the registry, and one method per file."""

from hypergen.generators.generator import Generator
from hypergen.generators.registry import generator_class, list_generators, load_generator, register_generator

__all__ = ["Generator", "generator_class", "list_generators", "load_generator", "register_generator"]
