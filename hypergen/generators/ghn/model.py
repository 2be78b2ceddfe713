"""Graph hypernetwork: node features + encoder + decoder + head parametrisation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hypergen.functional import Parameters
from hypergen.generators.generator import Generator
from hypergen.generators.ghn.conv_decoder import ConvDecoder
from hypergen.generators.ghn.features import GRAPHS, GraphBatch, GraphFeatures, batch_graphs, graph_features
from hypergen.generators.ghn.gated_gnn import GatedGNN
from hypergen.generators.ghn.graphormer import Graphormer
from hypergen.generators.ghn.layout import matrix_views
from hypergen.generators.ghn.low_rank_decoder import LowRankDecoder
from hypergen.generators.ghn.node_features import NodeFeatures
from hypergen.generators.ghn.parametrization import Parametrization
from hypergen.generators.ghn.pyg_encoder import PyGEncoder
from hypergen.generators.ghn.slots import SITES
from hypergen.generators.ghn.training_graphs import TrainingGraphs
from hypergen.generators.registry import register_generator
from hypergen.graph import ComputationalGraph, trace
from hypergen.graph.vocabulary import FIRST_VOCABULARY, OPERATIONS

ENCODERS = ("graphormer", "gated_gnn", "none")
DECODERS = ("low_rank", "conv")


@register_generator
class GraphHypernetwork(Generator):
    """Predicts every parameter of a network from its computational graph, in one forward pass.

    A composition of four parts; the published systems are configurations of it. GHN-2 is ``encoder="gated_gnn",
    decoder="conv"`` (Knyazev et al., "Parameter Prediction for Unseen Deep Architectures", 2021, arXiv:2110.13100);
    GHN-3 ``"graphormer", "conv"`` (Knyazev et al., 2023, arXiv:2303.04143); LoGAH ``"graphormer", "low_rank"`` (Zhou
    et al., 2024, arXiv:2405.16287), each with ``parametrization="plain"``.

    Args:
        encoder: ``"graphormer"``, ``"gated_gnn"``, ``"none"`` (every node by itself), or a model of torch_geometric
            by name, such as ``"pyg:GPS"`` or ``"pyg:GIN"`` (:class:`PyGEncoder`).
        decoder: ``"low_rank"`` or ``"conv"``.
        parametrization: ``"plain"``, ``"unit_variance"``, ``"magnitude_invariant"`` or ``"anchored"``.
        hidden: Width of the node states; the heads read twice as many.
        reach: How far around itself a node sees before the encoder, in hops.
        layers: Layers of the Graphormer or of torch_geometric's model.
        heads: Attention heads of either; they divide ``hidden``.
        rank: Rank of what the low-rank decoder predicts.
        steered_rank: How much of the rank a node steers by a full matrix.
        width: Channels of the learned tables; wider networks are served with repeated rows under other signs.
        max_shape: Rows and columns that the convolutional decoder predicts; larger matrices repeat them.
        anchor: Initial strength of the identity (``parametrization="anchored"``).
        deviation: Initial scale of what is added to the identity, or to independent base weights.
        vocabulary: How many of :data:`hypergen.graph.vocabulary.OPERATIONS` have an embedding of their own.
        graphs: ``"canonical"``: spellings of one function read alike; or ``"as_traced"``.
        channel_identity: Whether the rows and columns of a weight are addressed by the channel that they stand for,
            through concatenations, splits and flattening, or by their number along the axis. Only of canonical graphs.
        training_graphs: How many graphs of its training a generator keeps, to tell networks that are unlike them; 0 for
            none.
        readout: ``"ridge"`` of a generator of bodies, trained on many data sets: :func:`hypergen.initialize` solves the
            last layer on the user's labels; ``"predicted"`` where the last layer is of use as it is.

    Raises:
        ValueError: An unknown part; the message names the known ones. Or heads that don't divide the width.
    """

    takes_condition = False
    reads_graphs = True
    earlier_arguments = {
        "vocabulary": FIRST_VOCABULARY,
        "graphs": "as_traced",
        "channel_identity": False,
        "training_graphs": 0,
        "readout": "predicted",
    }

    example_arguments = {"hidden": 16, "heads": 2, "rank": 8, "steered_rank": 2, "width": 16}

    def __init__(
        self,
        encoder: str = "graphormer",
        decoder: str = "low_rank",
        parametrization: str = "anchored",
        hidden: int = 64,
        reach: int = 8,
        layers: int = 1,
        heads: int = 8,
        rank: int = 128,
        steered_rank: int = 32,
        width: int = 64,
        max_shape: int = 32,
        anchor: float = 1.0,
        deviation: float = 0.1,
        vocabulary: int = len(OPERATIONS),
        graphs: str = "as_traced",
        channel_identity: bool = False,
        training_graphs: int = 0,
        readout: str = "predicted",
    ) -> None:
        super().__init__()
        _known("readout", readout, ("predicted", "ridge"))
        self.readout = readout
        _known("graphs", graphs, tuple(GRAPHS))
        if not encoder.startswith("pyg:"):
            _known("encoder", encoder, (*ENCODERS, "pyg:NAME"))
        _known("decoder", decoder, DECODERS)
        self.graphs, self.channel_identity = graphs, channel_identity
        self.node_features = NodeFeatures(hidden, reach, vocabulary, GRAPHS[graphs])
        if encoder.startswith("pyg:"):
            self.encoder: nn.Module | None = PyGEncoder(encoder.removeprefix("pyg:"), hidden, layers, heads)
        elif encoder == "graphormer":
            self.encoder = Graphormer(hidden, layers, heads)
        else:
            self.encoder = GatedGNN(hidden) if encoder == "gated_gnn" else None
        self.site = nn.Embedding(len(SITES), hidden)
        self.state = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, 2 * hidden), nn.GELU())
        self.parametrization = Parametrization(parametrization, 2 * hidden, anchor, deviation, width)
        states = 4 * hidden if parametrization == "magnitude_invariant" else 2 * hidden
        if decoder == "low_rank":
            self.decoder: nn.Module = LowRankDecoder(
                states, rank, steered_rank, width, shared=parametrization == "anchored"
            )
        else:
            self.decoder = ConvDecoder(states, max_shape)
        self.training_graphs = TrainingGraphs(training_graphs) if training_graphs else None

    def out_of_distribution(self, graph: ComputationalGraph) -> tuple[str, ...]:
        """In which respects a graph is unlike those of training, in words; none where they were not kept."""
        return () if self.training_graphs is None else self.training_graphs.differences(graph)

    def forward(self, batch: GraphBatch) -> tuple[Tensor, ...]:
        """Predict the parameters of a batch of graphs.

        Returns:
            The flat parameter vector of each graph; ``batch.layouts[i].unflatten`` gives them names and shapes.
        """
        return self.decode(self.encode(batch), batch)

    def encode(self, batch: GraphBatch) -> Tensor:
        """Node states, ``[num_graphs, max_nodes, hidden]``."""
        nodes = self.node_features(batch)
        return nodes if self.encoder is None else self.encoder(nodes, batch)

    def decode(self, nodes: Tensor, batch: GraphBatch) -> tuple[Tensor, ...]:
        """Node states → the flat parameter vector of each graph."""
        states = self.state(nodes.flatten(0, 1)[batch.slot_nodes] + self.site(batch.slot_sites))
        seen = self.parametrization.encode(states)
        flat = out = None
        # Without gradients every value is written once, where it stays; an autograd graph needs tensors of its own, and
        # under autocast products come in another type.
        if not torch.is_grad_enabled() and not torch.is_autocast_enabled(states.device.type):
            flat = states.new_empty(sum(layout.total for layout in batch.layouts))
            out = matrix_views(batch.layouts, flat)
        matrices, vectors = self.decoder(seen, batch, self.parametrization.scale(batch), out)
        return self.parametrization(matrices, vectors, states, batch, flat)

    def features(self, graph: ComputationalGraph) -> GraphFeatures:
        """What the generator reads of a graph."""
        return graph_features(graph, self.graphs, self.channel_identity)

    def tables(self) -> list[nn.Parameter]:
        """The parameters whose entries are of unit size, for which optimisers take larger steps."""
        names = ("row_tables", "column_tables", "vector_table", "parametrization.vectors", "parametrization.gains")
        return [p for name, p in self.named_parameters() if any(part in name for part in names)]

    def predict(
        self, target: nn.Module | ComputationalGraph, condition: None = None, *, example_inputs: Any = None
    ) -> Parameters:
        """Trace the target and predict its parameters; see :meth:`Generator.generate`."""
        graph = target if isinstance(target, ComputationalGraph) else trace(target, example_inputs, both_modes=False)
        features = self.features(graph)
        if not features.slots:
            return {}
        (flat,) = self(batch_graphs([features], self.site.weight.device))
        return _contiguous(features.layout.unflatten(flat))

    def predict_in_parts(
        self, graph: ComputationalGraph, parts: Sequence[Sequence[str]], condition: None = None
    ) -> Iterator[Parameters]:
        """Encode the graph once, then decode one part after the other; see :meth:`Generator.generate_in_parts`."""
        features = self.features(graph)
        nodes = self.encode(batch_graphs([features], self.site.weight.device))
        for names in parts:
            part = features.of_parameters(frozenset(names))
            (flat,) = self.decode(nodes, batch_graphs([part], self.site.weight.device))
            yield _contiguous(part.layout.unflatten(flat))


def _contiguous(parameters: Parameters) -> Parameters:
    """Weights that are stored columns first come out as transposed views, which safetensors won't write."""
    return {name: values.contiguous() for name, values in parameters.items()}


def _known(part: str, name: str, names: tuple[str, ...]) -> None:
    if name not in names:
        raise ValueError(f"{part} {name!r} is not one of {', '.join(names)}")
