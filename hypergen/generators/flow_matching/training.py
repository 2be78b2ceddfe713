"""Training a flow from noise to the weights of a zoo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hypergen.data.zoo import LayoutNetworks, ZooDataModule
from hypergen.errors import ParameterError
from hypergen.functional.stacked_outputs import StackedOutputs
from hypergen.generators.flow_matching.model import FlowMatching
from hypergen.generators.latent_diffusion.behaviour import divergence
from hypergen.generators.tokens.training import TokenGeneratorTraining


class FlowMatchingTraining(TokenGeneratorTraining):
    """Minimises the error of the velocity, and where wanted the divergence of what networks compute.

    ``loss = |v(x_s, s, c) - (e - x)|² + behaviour_weight · KL``, where KL is that of the predictions of the network
    ``x_s - s v``, to which the flow leads, from those of ``x``, on some inputs of the networks' task. By it the
    components, which write networks, are trained on, too.

    Args:
        generator: The generator; its statistics and components are set from the zoo.
        networks: The zoo, by layout, in one order of hidden units.
        inputs: Inputs that networks are compared on, ``[samples, …]``; by default the training inputs of the zoo's
            data. One batch suffices.
        behaviour_weight: Weight of the divergence; 0 leaves it out.
        behaviour_networks: Networks of a batch that are compared.
        behaviour_inputs: Inputs of a batch.
        **options: Keyword arguments of :class:`~hypergen.generators.tokens.training.TokenGeneratorTraining`.

    Raises:
        ParameterError: Behaviour has a weight, but there are no inputs.
    """

    def __init__(
        self,
        generator: FlowMatching,
        networks: Sequence[LayoutNetworks] | ZooDataModule,
        inputs: Tensor | None = None,
        *,
        behaviour_weight: float = 0.0,
        behaviour_networks: int = 16,
        behaviour_inputs: int = 32,
        **options: Any,
    ) -> None:
        if inputs is None and behaviour_weight and isinstance(networks, ZooDataModule) and networks.images is not None:
            inputs = networks.images.tensors("train")[0]
        if inputs is None and behaviour_weight:
            raise ParameterError("Networks are compared by what they do with inputs; pass inputs=, or a zoo with data.")
        super().__init__(generator, networks, **options)
        self.inputs, self.behaviour_weight = inputs, behaviour_weight
        self.behaviour_networks, self.behaviour_inputs = behaviour_networks, behaviour_inputs
        self.collate_conditions()
        self.vectors, self.outputs = [], []
        for number, each in zip(self.numbers, self.networks, strict=True):
            generator.fit_statistics(number, each.parameters)
            self.vectors.append(generator.encode(number, each.parameters))
            self.outputs.append(StackedOutputs(each.model).by_batch)

    def loss(self, which: int, index: Tensor, random: torch.Generator) -> Tensor:
        """The error of the velocity of one batch of networks."""
        generator, number = self.generator, self.numbers[which]
        condition = self.embed_conditions(which, index)
        clean = self.vectors[which][index].to(self.device)
        noise = torch.randn(clean.shape, generator=random).to(clean)
        times = torch.rand(len(clean), generator=random).to(clean)
        noisy = torch.lerp(clean, noise, times[:, None])
        velocity = generator.velocity(number, noisy, times, condition)
        error = (velocity - (noise - clean)).square().mean()
        if not self.behaviour_weight:
            return error
        assert self.inputs is not None
        some = slice(self.behaviour_networks)
        chosen = torch.randint(len(self.inputs), (self.behaviour_inputs,), generator=random)
        inputs = self.inputs[chosen].to(self.device)
        reached = generator.decode(number, (noisy - times[:, None] * velocity)[some])
        own = {name: value[index[some]].to(self.device) for name, value in self.networks[which].parameters.items()}
        with torch.no_grad():
            expected = self.outputs[which](own, inputs)
        apart = divergence(self.outputs[which](reached, inputs), expected)
        behaviour = apart
        self.log("train/behaviour", behaviour, prog_bar=True)
        return error + self.behaviour_weight * behaviour

    def trained(self) -> list[nn.Parameter]:
        """The velocity of each layout, the encoder of conditions, and the components where behaviour counts."""
        generator = self.generator
        written = generator.write.parameters() if self.behaviour_weight else ()
        return [*generator.velocities.parameters(), *generator.condition_encoder.parameters(), *written]
