"""A few numbers about a network's weights, whatever its architecture."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hypergen.graph import trace
from hypergen.metanets.metanetwork import GraphMetanetwork, InvariantMetanetwork, Message


class WeightFeatures:
    """Reads a network by a graph metanetwork with random weights of its own.

    The features are the same for all permutations of a network's neurons. What they are worth is for those to learn who
    use them; learning the metanetwork, too, takes more networks than a search for hyperparameters trains.

    Args:
        features: How many numbers.
        hidden: Channels of the metanetwork.
        layers: Its rounds.
        message: Their form, as for :class:`GraphMetanetwork`.
        example_inputs: What networks are called with to trace them, where that cannot be worked out.
        seed: Random seed of the metanetwork's weights.
    """

    def __init__(
        self,
        features: int = 32,
        hidden: int = 16,
        layers: int = 2,
        message: Message = "edge",
        example_inputs: Any = None,
        seed: int = 0,
    ) -> None:
        self.example_inputs = example_inputs
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = GraphMetanetwork(hidden=hidden, layers=layers, message=message)
            self.metanetwork = InvariantMetanetwork(encoder, outputs=features).eval()

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> Tensor:
        """Features of a network, ``[features]``.

        Args:
            model: The network; only read.

        Raises:
            TraceError: It could not be traced.
            ParameterError: A weight is not finite.
        """
        graph = trace(model, self.example_inputs).parameter_graph()
        tensors = {name: value.detach().to("cpu", torch.float32) for name, value in model.state_dict().items()}
        return self.metanetwork(graph, tensors)[0]
