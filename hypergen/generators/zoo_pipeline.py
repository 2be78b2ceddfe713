"""Generators of a zoo as pipelines of diffusers; kept apart because importing pipelines takes seconds."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from diffusers import ConfigMixin, DiffusionPipeline, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from torch import Tensor, nn

from hypergen.errors import GeneratorError
from hypergen.generators.generator import Generator
from hypergen.generators.registry import generator_class

if TYPE_CHECKING:
    from hypergen.graph import ComputationalGraph


@dataclass
class WeightsOutput(BaseOutput):  # type: ignore[misc]
    """What :class:`ZooPipeline` returns.

    Attributes:
        parameters: ``[networks, *shape]`` by name.
    """

    parameters: dict[str, Tensor]


class GeneratorModel(ModelMixin, ConfigMixin):
    """A generator in the form in which diffusers saves and loads what a pipeline consists of.

    Args:
        class_name: Registered name of the generator's class.
        arguments: Arguments of its constructor, as JSON: diffusers sorts keys, but the order of a layout's matters.
        generator: The generator itself, where there is one already.
    """

    ignore_for_config = ["generator"]

    @register_to_config
    def __init__(self, class_name: str, arguments: str, generator: Generator | None = None) -> None:
        super().__init__()
        if generator is None:
            generator = generator_class(class_name, "A pipeline")(**json.loads(arguments))
        self.generator = generator


class ZooPipeline(DiffusionPipeline):  # type: ignore[misc]
    """A generator of networks and the scheduler that it samples with, if it is a diffusion.

    Schedulers are swapped as in any pipeline: ``pipeline.scheduler = DPMSolverMultistepScheduler.from_config(…)``.

    Args:
        model: The generator.
        scheduler: Scheduler of diffusers.
    """

    _optional_components = ["scheduler"]

    def __init__(self, model: GeneratorModel, scheduler: Any = None) -> None:
        super().__init__()
        self.register_modules(model=model, scheduler=scheduler)

    @classmethod
    def from_generator(cls, generator: Generator) -> ZooPipeline:
        """Share a generator."""
        model = GeneratorModel(type(generator).__name__, json.dumps(generator.config), generator)
        scheduler = getattr(generator, "sampling_scheduler", None)
        return cls(model, scheduler and type(scheduler).from_config(scheduler.config))

    def generator(self) -> Generator:
        """The generator, for ``initialize`` and ``predict_params``."""
        return self.model.generator

    @torch.no_grad()
    def __call__(
        self,
        target: nn.Module | ComputationalGraph,
        conditions: Sequence[Mapping[str, Any]],
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | None = None,
        example_inputs: Any = None,
    ) -> WeightsOutput:
        """Sample a network for each condition.

        Args:
            target: A network of the layout to generate, or its graph.
            conditions: Condition of each network.
            num_inference_steps: Steps of the scheduler; the generator's by default.
            guidance_scale: Scale of classifier-free guidance; the generator's by default.
            generator: Source of random numbers; seeded with 0 by default.
            example_inputs: What the target is called with, where it does not tell.

        Returns:
            Stacked parameters, each checked.

        Raises:
            GeneratorError: The generator has no steps or no guidance; or see
                :meth:`~hypergen.generators.zoo_generator.ZooGenerator.sample`.
        """
        sampler: Any = copy.copy(self.generator())  # Its own settings stay as they are; its weights are shared.
        settings = {
            "num_inference_steps": ("sampling_steps", num_inference_steps),
            "guidance_scale": ("guidance_scale", guidance_scale),
            "scheduler": ("sampling_scheduler", self.scheduler),
        }
        for option, (name, value) in settings.items():
            if value is not None:
                if not hasattr(sampler, name):
                    raise GeneratorError(f"A {type(sampler).__name__} has no {option}. Leave it out.")
                setattr(sampler, name, value)
        random = torch.Generator().manual_seed(0) if generator is None else generator
        return WeightsOutput(sampler.sample(target, conditions, seed=random, example_inputs=example_inputs))
