"""The published graph hypernetworks, as their papers and released files have them."""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hypergen.errors import GeneratorError
from hypergen.functional import Parameters
from hypergen.generators.generator import Generator
from hypergen.generators.published.decoders import ReleasedConvDecoder, ReleasedLowRankDecoder
from hypergen.generators.published.encoders import (
    MAX_DEGREE,
    MAX_DISTANCE,
    GatedGNN,
    GraphormerLayer,
    Perceptron,
    ShapeEncoder,
    four_axes,
)
from hypergen.generators.published.graph import LANGUAGE_PRIMITIVES, PRIMITIVES, ReleasedGraph, Target, released_graph
from hypergen.generators.registry import register_generator
from hypergen.graph import ComputationalGraph, trace

_TOKEN_STD = 0.02  # of class tokens, for which nothing is predicted


@register_generator
class ReleasedGraphHypernetwork(Generator):
    """GHN-1, GHN-2, GHN-3 and LoGAH in the form of their released files: the same names, shapes and formulas.

    GHN-2: Knyazev et al., "Parameter Prediction for Unseen Deep Architectures", 2021, arXiv:2110.13100. GHN-3: Knyazev
    et al., "Can We Scale Transformers to Predict Parameters of Diverse ImageNet Models?", 2023, arXiv:2303.04143.
    LoGAH: Zhou et al., "LoGAH: Predicting 774-Million-Parameter Transformers using Graph HyperNetworks with 1/100
    Parameters", 2024, arXiv:2405.16287. These decoders repeat what they predict over wider layers; for networks of
    one's own, the native :class:`GraphHypernetwork` predicts every row for itself.

    Parameters that these systems have no node for (layer scales, class tokens, relative position tables) keep the
    network's own values; on the meta device, gains are one and tables small noise.

    Args:
        hidden: Width of the node states.
        layers: Layers of the Graphormer; 0 is the gated graph network of GHN-1 and GHN-2.
        heads: Attention heads.
        max_shape: Out, in, height and width of the largest parameter that is decoded; wider ones repeat it.
        num_classes: Classes that it was trained on.
        virtual_edges: Whether nodes also hear of others along longer paths (all but GHN-1).
        layer_norm: Whether node states are normalised before decoding.
        weight_norm: Whether parameters are brought to their scale by fan-in.
        rank: Rank of LoGAH's decoder; 0 is the convolutional decoder.
        length: Rows of LoGAH's factors.
        language: LoGAH's version for language models: three more primitives, and weights of one standard deviation.
        initializer_range: That standard deviation.
        cutoff: Longest path that is a virtual edge.
        strict_size: Refuse parameters wider than ``max_shape`` instead of repeating.

    Raises:
        GeneratorError: With ``strict_size``, a parameter that is wider; the message names it.
    """

    takes_condition = False

    example_arguments = {"hidden": 16, "layers": 2, "heads": 8, "max_shape": (8, 8, 16, 16), "num_classes": 20}

    def __init__(
        self,
        hidden: int = 64,
        layers: int = 3,
        heads: int = 8,
        max_shape: Sequence[int] = (64, 64, 16, 16),
        num_classes: int = 1000,
        virtual_edges: bool = True,
        layer_norm: bool = True,
        weight_norm: bool = True,
        rank: int = 0,
        length: int = 32768,
        language: bool = False,
        initializer_range: float = 0.02,
        cutoff: int = 50,
        strict_size: bool = False,
    ) -> None:
        super().__init__()
        self.max_shape, self.rank, self.weight_norm = tuple(max_shape), rank, weight_norm
        self.language, self.initializer_range = language, initializer_range
        self.cutoff, self.strict_size = (cutoff if virtual_edges else 1), strict_size
        self.embed = nn.Embedding(len(LANGUAGE_PRIMITIVES if language else PRIMITIVES), hidden)
        self.shape_enc = ShapeEncoder(hidden, num_classes, self.max_shape[3], language)
        if layer_norm:
            self.ln = nn.LayerNorm(hidden)
        if layers:
            self.gnn: Any = nn.ModuleList(GraphormerLayer(hidden, heads, i == 0) for i in range(layers))
            self.centrality_embed_in = nn.Embedding(MAX_DEGREE + 1, hidden)
            self.centrality_embed_out = nn.Embedding(MAX_DEGREE + 1, hidden)
            self.input_dist_embed = nn.Embedding(MAX_DISTANCE + 1, hidden)
        else:
            self.gnn = GatedGNN(hidden, virtual_edges)
        if rank:
            self.decoder: Any = ReleasedLowRankDecoder(hidden, rank, length, self.max_shape)
        else:
            self.decoder = ReleasedConvDecoder(hidden, self.max_shape, num_classes, centred=layers > 0)
            widest = max(self.max_shape[:2])
            self.decoder_1d = Perceptron(hidden, (2 * hidden, 2 * widest))
            self.bias_class = nn.Sequential(nn.ReLU(), nn.Linear(widest, num_classes))
        self._initialise()

    def _initialise(self) -> None:
        """Initial values of the published code: embeddings of variance 1 / hidden, quiet last layers."""
        if isinstance(self.gnn, GatedGNN):
            return
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=module.embedding_dim**-0.5)
        if self.rank:
            return
        last: tuple[Any, ...] = (self.decoder_1d.fc[-2], self.decoder.conv[-1], self.decoder.class_layer_predictor[-1])
        for layer in last:
            nn.init.zeros_(layer.bias)
            layer.weight.data /= 5

    def encode(self, graph: ReleasedGraph) -> Tensor:
        """Node states, ``[num_nodes, hidden]``."""
        device = self.embed.weight.device
        distances = graph.distances.to(device)
        states = self.embed(graph.primitives.to(device)) + self.shape_enc(graph.shapes)
        if isinstance(self.gnn, GatedGNN):
            states = self.gnn(states, distances)
        else:
            direct = (distances == 1).long()
            states = states + self.centrality_embed_in(direct.sum(0).clamp(max=MAX_DEGREE))
            states = states + self.centrality_embed_out(direct.sum(1).clamp(max=MAX_DEGREE))
            states = states + self.input_dist_embed(distances[0].clamp(max=MAX_DISTANCE))
            bias = self.gnn[0].bias(distances)
            for layer in self.gnn:
                states = layer(states, bias)
        return self.ln(states) if hasattr(self, "ln") else states

    def forward(self, graph: ReleasedGraph) -> Parameters:
        """Predict all parameters that the graph has nodes for."""
        self._tell_of_repeats(graph.targets)
        states = self.encode(graph)
        groups: dict[tuple[Any, ...], list[Target]] = defaultdict(list)
        for target in graph.targets:
            groups[self._group(target)].append(target)
        parameters: Parameters = {}
        # Weights of which as many rows and columns are decoded go through the decoder together: reading its own
        # parameters, a gigabyte in the largest, takes longer than the products.
        together: dict[tuple[int, int], list[tuple[list[int], list[Target]]]] = defaultdict(list)
        for (kind, *shape), targets in groups.items():
            own = states[[target.node for target in targets]]
            if kind == "vector":
                parameters.update(self._vectors(own, targets))
            elif kind == "table":
                parameters.update(self._tables(own, targets))
            elif self.rank and not torch.is_grad_enabled() and shape[2:] == [1, 1]:
                parameters.update(self._products(own, targets))
            elif kind == "class_weight" and not self.rank:
                values = self.decoder.classifier(own, shape)
                parameters.update(
                    (t.name, self._weight(v[:, :, None, None], t)) for t, v in zip(targets, values, strict=True)
                )
            else:
                together[self.decoder.limits(shape)].append((shape, targets))
        for parts in together.values():
            decoded = self.decoder([(states[[target.node for target in targets]], shape) for shape, targets in parts])
            for (_, targets), values in zip(parts, decoded, strict=True):
                parameters.update((t.name, self._weight(v, t)) for t, v in zip(targets, values, strict=True))
        return parameters

    def predict(
        self, target: nn.Module | ComputationalGraph, condition: None = None, *, example_inputs: Any = None
    ) -> Parameters:
        """Trace the target and predict its parameters; see :meth:`Generator.generate`."""
        graph = target if isinstance(target, ComputationalGraph) else trace(target, example_inputs)
        view = released_graph(graph, self.language, self.cutoff)
        parameters = self(view)
        own = dict(target.named_parameters()) if isinstance(target, nn.Module) else {}
        for name in view.unseen:
            value = own.get(name)
            if value is None or value.is_meta:
                parameters[name] = self._unseen(name, graph.parameter_shapes[name])
            else:
                parameters[name] = value.detach().to(self.device, torch.float32).clone()
        return {name: parameters[name] for name in graph.parameter_shapes if name in parameters}

    def _group(self, target: Target) -> tuple[Any, ...]:
        shape = target.shape
        if len(shape) < 2 or target.kind not in ("weight", "class_weight"):
            return ("vector", math.prod(shape), target.kind == "class_bias")
        if len(shape) == 3 and not (shape[0] == 1 and min(shape[1:]) > 1) and not self.rank:
            return ("table",)
        return (target.kind, *four_axes(shape))

    def _vectors(self, states: Tensor, targets: Sequence[Target]) -> Parameters:
        """Norms and biases: a node predicts a weight and a bias."""
        length = math.prod(targets[0].shape)
        if self.rank:
            pairs = self.decoder.pairs(states, length)
        else:
            pairs = self.decoder_1d(states).view(len(states), 2, -1)
            if targets[0].kind == "class_bias":
                pairs = self.bias_class(pairs)
        result = {}
        for pair, target in zip(pairs, targets, strict=True):
            is_weight = target.kind in ("norm_weight", "weight")
            values = _repeated(pair[0 if is_weight else 1], length).view(target.shape)
            if self.weight_norm:
                values = 2 * torch.sigmoid(0.5 * values) if is_weight else torch.tanh(0.2 * values)
            result[target.name] = values
        return result

    def _tables(self, states: Tensor, targets: Sequence[Target]) -> Parameters:
        """Three axes, as a layer scale has them: the values of a vector, repeated."""
        values = self.decoder_1d(states)
        return {
            target.name: self._scaled(
                _repeated(row, target.shape[0])[:, None, None].expand(target.shape).clone(), target.shape
            )
            for target, row in zip(targets, values, strict=True)
        }

    def _weight(self, values: Tensor, target: Target) -> Tensor:
        """Decoded ``[rows, columns, height, width]`` → the parameter: repeated, scaled, in its own axes."""
        shape = target.shape
        if len(shape) == 3 and shape[0] == 1 and min(shape[1:]) > 1:
            return self._positions(values, shape)
        out, columns, *grid = four_axes(shape)
        full = values.new_empty(out, columns, *grid) if not values.requires_grad else None
        scaled = values if self.language else self._scaled(values, shape)
        if full is None:
            repeats = (math.ceil(out / len(values)), math.ceil(columns / values.shape[1]), 1, 1)
            full = scaled.repeat(repeats)[:out, :columns]
        else:
            for row in range(0, out, len(values)):
                for column in range(0, columns, values.shape[1]):
                    place = full[row : row + len(values), column : column + values.shape[1]]
                    place.copy_(scaled[: place.shape[0], : place.shape[1]])
        if self.language:
            full = full * (self.initializer_range / (full.std() + 1e-7))
        return full.reshape(shape)

    def _products(self, states: Tensor, targets: Sequence[Target]) -> Parameters:
        """Matrices of LoGAH without gradients: the scale is known from the factors, so values are written once."""
        shape = four_axes(targets[0].shape)
        out, columns = shape[:2]
        result = {}
        # All nodes at once: for one alone, reading the decoder's own weights takes longer than the product.
        rows, others = self.decoder.factors(states, *self.decoder.limits(shape))
        if self.language:
            rows = rows * (self.initializer_range / (_product_std(rows, others, out, columns) + 1e-7))[:, None, None]
        else:
            rows = self._scaled(rows, targets[0].shape)
        for a, b, target in zip(rows, others, targets, strict=True):
            full = states.new_empty(out, columns)
            first = full[: len(a), : len(b)]
            torch.mm(a, b.t(), out=first)
            for row in range(0, out, len(a)):
                for column in range(0, columns, len(b)):
                    place = full[row : row + len(a), column : column + len(b)]
                    if row or column:
                        place.copy_(first[: place.shape[0], : place.shape[1]])
            result[target.name] = full.view(target.shape)
        return result

    def _positions(self, values: Tensor, shape: tuple[int, ...]) -> Tensor:
        """A position table ``[1, positions, width]`` from an image of positions; what is over is a class token."""
        rows = values[0].flatten(1).t()
        if len(rows) < shape[1]:
            generator = torch.Generator().manual_seed(0)
            token = _TOKEN_STD * torch.randn(shape[1] - len(rows), rows.shape[1], generator=generator)
            rows = torch.cat((token.to(rows), rows))
        repeats = math.ceil(shape[2] / rows.shape[1])
        table = rows[: shape[1]].repeat(1, repeats)[None, :, : shape[2]]
        if self.language:
            return table * (self.initializer_range / (table.std() + 1e-7))
        return self._scaled(table, shape).contiguous()

    def _scaled(self, values: Tensor, shape: Sequence[int]) -> Tensor:
        """Times √(β / fan-in); β is 2, and 1 where no rectifier is expected behind the layer; not position tables."""
        if not self.weight_norm or (shape[0] == 1 and tuple(shape[2:3]) >= (11,)):
            return values
        alone = len(shape) > 2 and (shape[1] == 1 or shape[2] < shape[-1])
        return values * math.sqrt((1.0 if alone else 2.0) / math.prod(shape[1:]))

    def _unseen(self, name: str, shape: Sequence[int]) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        if sum(size > 1 for size in shape) > 1 or name.rpartition(".")[2].endswith("token"):
            return _TOKEN_STD * torch.randn(tuple(shape), generator=generator).to(self.device)
        value = 0.0 if "bias" in name else 1.0
        return torch.full(tuple(shape), value, device=self.device)

    def _tell_of_repeats(self, targets: Sequence[Target]) -> None:
        wide = [
            target
            for target in targets
            if target.kind == "weight" and len(target.shape) > 1
            if self.decoder.limits(four_axes(target.shape)) != four_axes(target.shape)[:2]
        ]
        if not wide:
            return
        widest = max(wide, key=lambda target: math.prod(target.shape))
        what = f"{len(wide)} weights are wider than the {self.max_shape[0]} × {self.max_shape[1]} that this generator "
        what += f"decodes (the largest: {widest.name} {list(widest.shape)})"
        if self.strict_size:
            raise GeneratorError(
                f"{what}. Take a wider generator, or strict_size=False to repeat its rows and columns."
            )
        warnings.warn(f"{what}: its rows and columns repeat in them.", stacklevel=4)


def _repeated(values: Tensor, length: int) -> Tensor:
    return values.repeat(math.ceil(length / len(values)))[:length] if length > len(values) else values[:length]


def _product_std(a: Tensor, b: Tensor, rows: int, columns: int) -> Tensor:
    """Standard deviations ``[n]`` of ``a bᵀ`` repeated to ``[rows, columns]``, without forming it."""
    weighted = []
    for factor, size in ((a, rows), (b, columns)):
        turns, rest = divmod(size, factor.shape[1])
        counts = turns + (torch.arange(factor.shape[1], device=factor.device) < rest).to(factor)
        squares = turns * (factor.mT @ factor)
        if rest:
            squares = squares + factor[:, :rest].mT @ factor[:, :rest]
        weighted.append(((counts @ factor).double(), squares.double()))
    count = rows * columns
    total = (weighted[0][0] * weighted[1][0]).sum(1)
    squares = (weighted[0][1] * weighted[1][1]).sum((1, 2))
    return ((squares - total**2 / count).clamp_min(0) / max(count - 1, 1)).sqrt().to(a)
