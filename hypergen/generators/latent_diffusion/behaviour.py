"""How far generated networks are from those of a zoo in what they compute."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hypergen.generators.latent_diffusion.model import LatentDiffusion
from hypergen.generators.latent_diffusion.weight_autoencoder import by_layout
from hypergen.generators.tokens.network_batches import TrainingZoo


def behaviour_loss(
    generator: LatentDiffusion, zoo: TrainingZoo, networks: Tensor, tokens: Tensor, into: Tensor, inputs: Tensor
) -> Tensor:
    """Mean divergence between the predictions of decoded networks and of the zoo's networks that they stand for.

    Args:
        generator: Its scales are applied.
        zoo: The networks.
        networks: Numbers of the zoo's networks, ``[batch]``.
        tokens: Decoded, in scale, ``[batch, num_tokens, token_size]``.
        into: The layout of each decoded network, ``[batch]``.
        inputs: Probe inputs, ``[number, …]``.

    Returns:
        Kullback-Leibler divergence in nats, averaged over networks and inputs.
    """
    with torch.no_grad():
        expected = _outputs(generator, zoo, zoo.tokens[networks], zoo.layout[networks], inputs)
    return divergence(_outputs(generator, zoo, tokens, into, inputs), expected)


def _outputs(generator: LatentDiffusion, zoo: TrainingZoo, tokens: Tensor, layout: Tensor, inputs: Tensor) -> Tensor:
    """``[batch, inputs, outputs]``, in the order of the batch."""

    def run(number: int, own: Tensor) -> Tensor:
        each = zoo.layouts.layouts[number]
        return zoo.outputs[number](generator.network(own, each), inputs)

    return by_layout(run, tokens, layout)


def divergence(outputs: Tensor, expected: Tensor) -> Tensor:
    """Kullback-Leibler divergence of predictions: of Bernoulli distributions for one output, else of categorical ones.

    Args:
        outputs: Logits of generated networks, ``[networks, inputs, outputs]``.
        expected: Logits of those that they stand for, in the same form.
    """
    if expected.shape[-1] == 1:
        chances = expected.sigmoid()
        return F.binary_cross_entropy_with_logits(outputs, chances) - F.binary_cross_entropy(chances, chances)
    logs, expected_logs = outputs.log_softmax(-1), expected.log_softmax(-1)
    return (expected_logs.exp() * (expected_logs - logs)).sum(-1).mean()
