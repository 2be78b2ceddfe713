"""Batches of a zoo's networks, of one or several layouts, as generators are trained on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from hypergen.data.zoo import LayoutNetworks, ZooDataModule
from hypergen.errors import ParameterError
from hypergen.functional.stacked_outputs import StackedOutputs
from hypergen.generators.ghn.features import GraphFeatures
from hypergen.generators.latent_diffusion.model import LatentDiffusion
from hypergen.generators.tokens.weight_tokens import LayoutBatch


@dataclass(frozen=True)
class TrainingZoo:
    """All networks that a generator is trained on, as it reads them.

    Attributes:
        layouts: The layouts, of which the first ``known`` have networks.
        graphs: Computational graphs of each layout; None where the generator is not conditioned on architectures.
        outputs: Forward function of each layout: stacked parameters and inputs → outputs ``[networks, inputs, …]``.
        layout: Layout index of each network, ``[networks]``; ascending.
        tokens: In scale, padded, ``[networks, num_tokens, token_size]``.
        conditions: Collated, ``[networks, …]`` each.
        known: How many layouts have networks.
    """

    layouts: LayoutBatch
    graphs: tuple[GraphFeatures | None, ...]
    outputs: tuple[Callable[[dict[str, Tensor], Tensor], Tensor], ...]
    layout: Tensor
    tokens: Tensor
    conditions: dict[str, Tensor]
    known: int

    @classmethod
    def read(
        cls,
        generator: LatentDiffusion,
        networks: Sequence[LayoutNetworks],
        more: Sequence[nn.Module] = (),
        example_inputs: Any = None,
    ) -> TrainingZoo:
        """Cut networks into tokens, and measure the scales that the generator normalises them and their metrics by.

        Args:
            generator: Its scales are set.
            networks: By layout.
            more: Networks of layouts that the zoo lacks, which latents may be decoded into.
            example_inputs: What the networks are called with, to trace them.

        Raises:
            ParameterError: There are no networks.
        """
        if not networks or not all(networks_of.conditions for networks_of in networks):
            raise ParameterError("A generator is trained on networks of each layout; there are none.")
        models = [each.model for each in networks] + list(more)
        layouts, graphs = zip(*(generator.read_target(model, example_inputs) for model in models), strict=True)
        raw = [layout.encode(each.parameters) for layout, each in zip(layouts, networks, strict=False)]
        generator.autoencoder.measure_scales(zip(layouts, raw, strict=False))
        batch = LayoutBatch.of(layouts)
        tokens = [
            batch.pad(each / generator.autoencoder.scales(layout)) for layout, each in zip(layouts, raw, strict=False)
        ]
        counts = torch.tensor([len(each) for each in tokens])
        conditions = generator.condition_encoder.collate([each for some in networks for each in some.conditions])
        if "metric" in conditions:
            generator.condition_encoder.measure_metrics(conditions["metric"])
        return cls(
            batch,
            graphs,
            tuple(_stacked_call(model) for model in models),
            torch.repeat_interleave(torch.arange(len(networks)), counts),
            torch.cat(tokens),
            conditions,
            len(networks),
        )

    def __len__(self) -> int:
        return len(self.tokens)


class NetworkBatches(IterableDataset[tuple[Tensor, Tensor, Tensor]]):
    """Endless batches: networks of one layout, the layout that each is decoded into, and probe inputs; as indices.

    A batch has one layout, drawn by its share of the networks: matrices that many networks share are fast.

    Args:
        zoo: The networks.
        num_inputs: Probe inputs there are.
        networks_per_step: Networks in a batch.
        inputs_per_step: Probe inputs in a batch.
        other_layouts: Share of batches that are decoded into a layout drawn at random instead of their own.
        seed: Random seed of the draws.
    """

    def __init__(
        self,
        zoo: TrainingZoo,
        num_inputs: int,
        networks_per_step: int,
        inputs_per_step: int,
        other_layouts: float,
        seed: int,
    ) -> None:
        self.zoo = zoo
        self.num_inputs = num_inputs
        self.networks_per_step = networks_per_step
        self.inputs_per_step = inputs_per_step
        self.other_layouts = other_layouts
        self.seed = seed

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        random = torch.Generator().manual_seed(self.seed)
        count = len(self.zoo.layouts.layouts)
        while True:
            own = self.zoo.layout[torch.randint(len(self.zoo), (), generator=random)]
            there = (self.zoo.layout == own).nonzero().flatten()
            networks = there[torch.randint(len(there), (self.networks_per_step,), generator=random)]
            if count > 1 and torch.rand((), generator=random) < self.other_layouts:
                own = torch.randint(count, (), generator=random)
            inputs = torch.randint(max(self.num_inputs, 1), (self.inputs_per_step,), generator=random)
            yield networks, own.expand(len(networks)), inputs


def read_data(
    generator: LatentDiffusion, zoo: TrainingZoo | ZooDataModule, inputs: Tensor | None
) -> tuple[TrainingZoo, Tensor]:
    """The networks of a zoo as a generator reads them, and the inputs that they are compared on.

    Raises:
        ParameterError: There are no inputs: neither given nor with the zoo.
    """
    if isinstance(zoo, TrainingZoo):
        if inputs is None:
            raise ParameterError("Networks are compared by what they do with inputs; pass inputs=.")
        return zoo, inputs
    if inputs is None:
        if zoo.images is None:
            raise ParameterError("Networks are compared by what they do with images; pass ZooDataModule(…, images=…).")
        inputs = zoo.images.tensors("train")[0]
    networks = zoo.networks("train", generator.condition_kinds)
    return TrainingZoo.read(generator, networks, example_inputs=inputs[:1]), inputs


def network_loader(
    zoo: TrainingZoo, num_inputs: int, networks_per_step: int, inputs_per_step: int, seed: int
) -> DataLoader[tuple[Tensor, Tensor, Tensor]]:
    """Loader of :class:`NetworkBatches` that are decoded into their own layouts."""
    batches = NetworkBatches(zoo, num_inputs, networks_per_step, inputs_per_step, 0.0, seed)
    return DataLoader(batches, batch_size=None)


def _stacked_call(model: nn.Module) -> Callable[[dict[str, Tensor], Tensor], Tensor]:
    # Batch norms normalise by the inputs: statistics of networks that are being learnt change with every step.
    return StackedOutputs(model).by_batch
