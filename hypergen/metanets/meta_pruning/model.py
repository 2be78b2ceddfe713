"""A metanetwork that makes networks easier to prune."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hypergen.metanets.metanetwork import EquivariantMetanetwork, GraphMetanetwork, Message
from hypergen.symmetry.parameter_graph import ParameterGraph


class PruningMetanetwork(nn.Module):
    """Rewrites the parameters of a network, so that less is lost when its units of least norm are taken out.

    Liu et al., *Meta Pruning via Graph Metanetworks: A Universal Meta Learning Framework for Network Pruning*, 2025
    (arXiv 2506.12041): the new parameters are the old ones plus a multiple of what the metanetwork writes. It reads the
    parameters, running statistics of batch norms, and, beyond the paper, the gradient of a loss.

    Args:
        hidden: Channels.
        layers: Rounds of messages.
        message: As of :class:`~hypergen.metanets.GraphMetanetwork`.
        ratio: What the prediction, in units of the root mean square of each tensor, is multiplied by.
    """

    def __init__(
        self,
        hidden: int = 24,
        layers: int = 3,
        message: Message = "product",
        ratio: float = 1.0,
    ) -> None:
        super().__init__()
        self.ratio = ratio
        self.metanetwork = EquivariantMetanetwork(GraphMetanetwork(2, hidden, layers, message), 1)

    def forward(
        self, graph: ParameterGraph, tensors: Mapping[str, Tensor], gradients: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """New parameters for networks of one architecture.

        Args:
            graph: Its parameter graph.
            tensors: Parameters and running statistics, ``[batch, *shape]`` or ``[*shape]`` per name.
            gradients: Gradients of a loss by the parameters; taken as zero for names that are missing.

        Returns:
            The names of ``tensors``; what is no parameter stays.

        Raises:
            ParameterError: The tensors do not fit the graph, or are not finite.
        """
        names = [block.name for block in graph.blocks]
        slopes = {name: gradients.get(name, torch.zeros_like(tensors[name])) for name in names if name in tensors}
        predicted = graph.to_params(self.metanetwork(graph, tensors, slopes))
        changed = {name: tensors[name] + self.ratio * predicted[name] for name in graph.symmetry.parameters}
        return {**tensors, **changed}
