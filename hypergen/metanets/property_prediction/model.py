"""Properties of networks from their weights and from their responses to probes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hypergen.functional.stacked_module import StackedModule
from hypergen.metanets.metanetwork import GraphMetanetwork, InvariantMetanetwork
from hypergen.metanets.probes import Probes
from hypergen.symmetry.parameter_graph import ParameterGraph


class PropertyPredictor(nn.Module):
    """Predicts properties of classifiers by a metanetwork on their parameter graph, by probes, or by both.

    With both, their outputs are added. All networks must take the same inputs and have the same classes; otherwise any
    architectures will do. The prediction is the same for all permutations of a network's neurons.

    Args:
        outputs: How many properties.
        classes: Number of classes of the networks.
        input_shape: What they take, without the batch.
        graph: Whether to read the parameter graph.
        probes: How many inputs to run the networks on.
        latent: Numbers that an input is made from; see :class:`Probes`.
        hidden: Channels.
        dropout: Dropout probability of responses to probes, and before the last layer.
        layers: Rounds of messages on the graph.
        message: Their form; see :class:`GraphMetanetwork`, which takes further ``options``.
        **options: Keyword arguments, passed on in the same way.

    Raises:
        ValueError: There is neither a graph nor a probe to read.
    """

    def __init__(
        self,
        outputs: int,
        classes: int,
        input_shape: Sequence[int],
        graph: bool = True,
        probes: int = 64,
        latent: int = 32,
        hidden: int = 32,
        dropout: float = 0.3,
        layers: int = 3,
        message: Any = "product",
        **options: Any,
    ) -> None:
        super().__init__()
        if not graph and not probes:
            raise ValueError("a predictor needs something to read: the graph, or a number of probes")
        self.probes = Probes(probes, input_shape, latent) if probes else None
        self.metanetwork: InvariantMetanetwork | None = None
        if graph:
            encoder = GraphMetanetwork(1, hidden, layers, message, **options)
            self.metanetwork = InvariantMetanetwork(encoder, outputs, dropout=dropout)
        if self.probes is not None:
            self.head = nn.Sequential(
                nn.Dropout(dropout),
                nn.Linear(self.probes.num_features(classes), 2 * hidden),
                nn.ReLU(),
                nn.Dropout(dropout),
                nn.Linear(2 * hidden, outputs),
            )

    def forward(self, graph: ParameterGraph, network: StackedModule, tensors: Mapping[str, Tensor]) -> Tensor:
        """Properties of networks of one architecture.

        Args:
            graph: Its parameter graph.
            network: Runs such networks.
            tensors: ``[networks, *shape]`` by name, buffers included.

        Returns:
            ``[networks, outputs]``.
        """
        parts = []
        if self.probes is not None:
            parts.append(self.head(self.probes(network, tensors)))
        if self.metanetwork is not None:
            parts.append(self.metanetwork(graph, tensors))
        return torch.stack(parts).sum(0)
