"""An embedding of a computational graph, for generators that are conditioned on the architecture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from hypergen.generators.ghn.features import GraphFeatures, batch_graphs
from hypergen.generators.ghn.node_features import NodeFeatures


class ArchitectureEncoder(ModelMixin, ConfigMixin):
    """One vector per computational graph: the mean of its operations, each described with its surroundings.

    Args:
        size: Length of the embedding.
        hidden: Width of an operation's description.
        reach: How far the surroundings of an operation go.
    """

    @register_to_config
    def __init__(self, size: int = 32, hidden: int = 32, reach: int = 2) -> None:
        super().__init__()
        self.nodes = NodeFeatures(hidden, reach)
        self.read = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, size))

    def forward(self, graphs: Sequence[GraphFeatures]) -> Tensor:
        """Embed graphs.

        Args:
            graphs: Computational graphs of any traced networks.

        Returns:
            ``[len(graphs), size]``.
        """
        batch = batch_graphs(graphs, next(self.parameters()).device)
        weights = batch.mask / batch.mask.sum(1, keepdim=True)
        return torch.einsum("gnh,gn->gh", self.read(self.nodes(batch)), weights)
