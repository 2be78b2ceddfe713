"""What all generators trained on a zoo have in common: they sample networks for conditions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hypergen.errors import GeneratorError, ParameterError
from hypergen.functional import Parameters, check_parameters
from hypergen.functional.check import is_finite
from hypergen.generators.example import GeneratorExample, example_inputs, example_target
from hypergen.generators.generator import Generator
from hypergen.graph import ComputationalGraph

if TYPE_CHECKING:
    from hypergen.generators.zoo_pipeline import ZooPipeline

Condition = Mapping[str, Any]
"""What a network is generated for, by kind, such as ``{"code": [0, 1, 1], "metric": 0.1}``."""


class ZooGenerator(Generator):
    """Samples networks from a distribution that was learned from a zoo.

    A subclass implements :meth:`sample_stacked`.
    """

    @classmethod
    def example(cls) -> GeneratorExample:
        """A small generator of a zoo with one layout; see :meth:`Generator.example`."""
        target = example_target()
        layout = {name: list(value.shape) for name, value in target.named_parameters()}
        generator = cls(layouts=[layout], **cls.example_arguments)
        return GeneratorExample(generator, target, cls.example_condition, example_inputs())

    @property
    @abstractmethod
    def condition_kinds(self) -> tuple[str, ...]:
        """The kinds of condition that it can be given and that a zoo tells: code, metric, text, examples."""

    @abstractmethod
    def sample_stacked(
        self,
        target: nn.Module | ComputationalGraph,
        conditions: Sequence[Condition],
        random: torch.Generator,
        example_inputs: Any = None,
    ) -> dict[str, Tensor]:
        """Draw a network for each condition; what :meth:`sample` calls and checks.

        Args:
            target: A network of the layout to generate, or its graph.
            conditions: One for each network, at least one.
            random: All randomness comes from it.
            example_inputs: What the network is called with, where it has to be traced and does not tell.

        Returns:
            ``[len(conditions), *shape]`` by name of parameter.
        """

    def sample(
        self,
        target: nn.Module | ComputationalGraph,
        conditions: Sequence[Condition],
        *,
        seed: int | torch.Generator = 0,
        example_inputs: Any = None,
    ) -> dict[str, Tensor]:
        """Draw a network for each condition.

        Args:
            target: A network of the layout to generate, which is only read and may live on the meta device; or its
                graph.
            conditions: One for each network; repeat a condition for several networks.
            seed: The same seed gives the same networks on one machine. A ``torch.Generator`` is advanced.
            example_inputs: What the network is called with, where it does not tell.

        Returns:
            Stacked parameters by name, ``[len(conditions), *shape]``, each checked: names, shapes, finite.

        Raises:
            GeneratorError: There is no condition, or the generator does not know one.
            ParameterError: A network does not fit the target; its number is named.
        """
        conditions = list(conditions)
        if not conditions:
            raise GeneratorError("There are no conditions to sample networks for. Pass one for each network.")
        random = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
        stacked = self.sample_stacked(target, conditions, random, example_inputs)
        for name, value in stacked.items():
            if len(value) != len(conditions):
                raise ParameterError(
                    f"{type(self).__name__} returned {len(value)} networks' {name!r} for {len(conditions)} conditions."
                )
            if not is_finite(value):
                wrong = (~value.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
                raise ParameterError(f"{name!r} of the networks {wrong[:10]} is not finite. Sample with another seed.")
        if isinstance(target, nn.Module):
            # The shapes of all networks are those of the first one, and all values are finite.
            check_parameters(target, {name: value[0] for name, value in stacked.items()}, partial=True)
        return stacked

    def predict(
        self, target: nn.Module | ComputationalGraph, condition: Any = None, *, example_inputs: Any = None
    ) -> Parameters:
        """Draw one network; ``condition["seed"]`` chooses which, 0 by default.

        Raises:
            GeneratorError: The condition is no mapping, or one that the generator does not know.
        """
        if not isinstance(condition, Mapping):
            raise GeneratorError(
                f"{type(self).__name__} takes a condition by kind, such as {{'code': [0, 1]}}; got "
                f"{type(condition).__name__}."
            )
        given = dict(condition)
        seed = given.pop("seed", 0)
        stacked = self.sample(target, [given], seed=seed, example_inputs=example_inputs)
        return {name: value[0] for name, value in stacked.items()}

    def pipeline(self) -> ZooPipeline:
        """The generator as a pipeline of diffusers, which shares its weights."""
        from hypergen.generators.zoo_pipeline import ZooPipeline  # Takes seconds to import.

        return ZooPipeline.from_generator(self)
