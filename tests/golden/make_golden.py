"""Golden values of the behaviour before the layout of the package changed, and how they are computed.

``python make_golden.py`` writes ``golden.json`` beside this file; ``python make_golden.py --files`` first makes the
zoo and the checkpoints that it reads, too. Both are meant for the old code alone: ``test_golden.py`` recomputes the
values with the code of today and compares.

Parameters of all networks are set by a formula, so that no value depends on how a library initialises its modules.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import hypergen  # Before Lightning, which imports a torchvision that may need its operators declared.

# isort: split
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hypergen.architectures import Architecture, ImageClassifierSpace, LanguageModelSpace, load_split
from hypergen.data.digits import DigitsDataModule
from hypergen.functional import ridge_readout
from hypergen.generators.autoregressive.model import AutoregressiveGenerator
from hypergen.generators.checkpoint_transformer.model import CheckpointTransformer
from hypergen.generators.ghn.meta_batches import MetaBatchDataModule
from hypergen.generators.ghn.model import GraphHypernetwork
from hypergen.generators.ghn.training import GraphHypernetworkTraining
from hypergen.generators.hyper_representation.model import HyperRepresentation
from hypergen.generators.latent_diffusion.autoencoder_training import WeightAutoencoderTraining
from hypergen.generators.latent_diffusion.model import LatentDiffusion
from hypergen.generators.latent_diffusion.training import LatentDiffusionTraining
from hypergen.generators.recurrent_diffusion.model import RecurrentDiffusion
from hypergen.generators.tokens.network_batches import LayoutNetworks, NetworkBatches, TrainingZoo
from hypergen.generators.zoo_pipeline import ZooPipeline
from hypergen.metanets import GraphMetanetwork, InvariantMetanetwork, ScaleEquivariantMetanetwork
from hypergen.symmetry.align.stacked import align
from hypergen.symmetry.prune.pruner import Pruner, half_of
from hypergen.training.checkpoints import AtomicCheckpointIO, LastCheckpoint, check_resumable, read_checkpoint
from hypergen.zoo import Zoo
from hypergen.zoo.build.build import build_zoo
from hypergen.zoo.build.plan import Task, ZooPlan

HERE = Path(__file__).parent
GOLDEN = HERE / "golden.json"
FILES = ("zoo", "latent_diffusion", "latent_diffusion_pipeline", "graph_hypernetwork", "training", "zoo_generators")
TRAINING = HERE / "training" / "last.checkpoint"
MAX_TENSORS = 40

torch.set_num_threads(1)


# --- Networks -------------------------------------------------------------------------------------------------------


class LSTMClassifier(nn.Module):
    """Tokens, a bidirectional LSTM of two layers, and a linear head on its last output."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 12)
        self.lstm = nn.LSTM(12, 10, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(20, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        """Maps tokens [batch, length] to logits [batch, 5]."""
        return self.head(self.lstm(self.embedding(tokens))[0][:, -1])


class TokenEncoder(nn.Module):
    """An ``nn.TransformerEncoder`` between an embedding and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(24, 32)
        self.positions = nn.Parameter(torch.zeros(1, 8, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 24)

    def forward(self, tokens: Tensor) -> Tensor:
        """Maps tokens [batch, 8] to logits [batch, 8, 24]."""
        return self.head(self.encoder(self.tokens(tokens) + self.positions))


def _torchvision(name: str, **options: Any) -> nn.Module:
    import torchvision

    return getattr(torchvision.models, name)(weights=None, num_classes=10, **options)


def _torchvision_resnet() -> nn.Module:
    from torchvision.models.resnet import BasicBlock, ResNet

    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10, width_per_group=64)


def _torchvision_vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(16, 4, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=10)


def _timm(name: str, **options: Any) -> nn.Module:
    import timm

    return timm.create_model(name, pretrained=False, num_classes=10, **options)


def _gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=64, n_positions=16, n_embd=32, n_layer=2, n_head=4, use_cache=False, bos_token_id=0, eos_token_id=0
    )
    return GPT2LMHeadModel(config)


_DIGITS = {"image_size": 8, "channels": 1, "num_classes": 10}
_GPT = {"vocabulary": 48, "context": 16}


def _own(family: str, **config: Any) -> nn.Module:
    return Architecture(family, config).build()


_IMAGES_32, _IMAGES_8 = torch.zeros(1, 3, 32, 32), torch.zeros(1, 1, 8, 8)
_TOKENS = torch.zeros(1, 8, dtype=torch.int64)

NETWORKS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "torchvision_shufflenet_v2_x0_5": (partial(_torchvision, "shufflenet_v2_x0_5"), _IMAGES_32),
    "torchvision_vit": (_torchvision_vit, torch.zeros(1, 3, 16, 16)),
    "timm_test_resnet": (partial(_timm, "test_resnet"), _IMAGES_32),
    "timm_test_efficientnet": (partial(_timm, "test_efficientnet"), _IMAGES_32),
    "timm_test_convnext": (partial(_timm, "test_convnext"), _IMAGES_32),
    "timm_test_vit": (partial(_timm, "test_vit", img_size=32), _IMAGES_32),
    "own_mlp": (partial(_own, "mlp", **_DIGITS, widths=[24, 16], norm="layer"), _IMAGES_8),
    "own_grouped": (partial(_own, "grouped", **_DIGITS, widths=[16, 32], depths=[1, 2]), _IMAGES_8),
    "own_dense": (partial(_own, "dense", **_DIGITS, growth=8, depths=[2, 2], norm="group"), _IMAGES_8),
    "own_vit": (
        partial(_own, "vit", **_DIGITS, width=32, depth=2, heads=4, patch_size=2, layer_scale=0.1),
        _IMAGES_8,
    ),
    "own_gpt": (partial(_own, "gpt", **_GPT, width=32, depth=2, heads=2), _TOKENS),
    "own_gpt_rotary": (
        partial(_own, "gpt", **_GPT, width=48, depth=1, heads=3, norm="rms", positions="rotary", tied=False),
        _TOKENS,
    ),
    "transformer_encoder": (TokenEncoder, _TOKENS),
    "lstm": (LSTMClassifier, _TOKENS),
    "hf_gpt2": (_gpt2, _TOKENS),
}
"""Makes of each network, and what it is called with."""

LANGUAGE_MODELS = ("own_gpt", "own_gpt_rotary", "hf_gpt2", "transformer_encoder")
NOT_PRUNED = ("timm_test_vit", "timm_test_convnext")  # They take 5 s each.
NO_FLOPS = ("hf_gpt2",)  # transformers looks at values of masks, which meta tensors do not have.
# The values are of the first digits-ghn, which is kept under a name of its own.
KEPT_AS = {"digits-ghn": "digits-ghn-v1"}
GENERATORS = ("digits-ghn", "ghn-2", "ghn-3-t", "logah-tiny", "ghn-3-t-mip")


@cache
def network(name: str) -> nn.Module:
    """A network by its name, in evaluation mode, with parameters set by a formula."""
    torch.manual_seed(0)
    return _filled(NETWORKS[name][0]()).eval()


def _filled(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            angles = torch.arange(parameter.numel(), dtype=torch.float64) * 0.7 + number
            parameter.copy_((0.1 * angles.sin()).reshape(parameter.shape).to(parameter.dtype))
    return model


@cache
def graph_of(name: str) -> hypergen.ComputationalGraph:
    """The computational graph of a network by its name."""
    return hypergen.trace(network(name), NETWORKS[name][1])


@cache
def generator_of(name: str) -> hypergen.Generator:
    """A generator by its name; the published systems at initial values of a fixed seed."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return hypergen.load_generator(KEPT_AS.get(name, name))


# --- What is kept of tensors ----------------------------------------------------------------------------------------


def rounded(value: float) -> float:
    """Eight significant digits."""
    return float(f"{value:.8g}")


def checksum(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Sums over all values in order, each over the root of the number of values; and a hash of names and shapes."""
    parts = [value.detach().double().flatten() for value in tensors.values()]
    flat = torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)
    weights = torch.arange(len(flat), dtype=torch.float64).mul_(1.3).cos_()
    root = math.sqrt(max(len(flat), 1))
    return {
        "tensors": len(tensors),
        "values": len(flat),
        "shapes": shapes_digest(tensors),
        "sum": rounded(float(flat.sum()) / root),
        "sum_of_squares": rounded(float(flat.square().sum()) / root),
        "weighted_sum": rounded(float(flat @ weights) / root),
    }


def shapes_digest(tensors: Mapping[str, Tensor]) -> str:
    """A hash of names, shapes and types, in order."""
    return sha256([[name, list(value.shape), str(value.dtype)] for name, value in tensors.items()])


def sha256(value: Any) -> str:
    """A hash of anything JSON-able."""
    return hashlib.sha256(json.dumps(value, default=str).encode()).hexdigest()[:16]


def summary(tensors: Mapping[str, Tensor], most: int = MAX_TENSORS) -> dict[str, Any]:
    """Some tensors, evenly spaced, by their moments and four values each; and a checksum of all."""
    names = list(tensors)
    if len(names) > most:
        names = [names[round(i * (len(names) - 1) / (most - 1))] for i in range(most)]
    return {"total": checksum(tensors), "tensors": {name: _described(tensors[name]) for name in names}}


def _described(tensor: Tensor) -> dict[str, Any]:
    flat = tensor.detach().double().flatten()
    places = [round(i * (len(flat) - 1) / 3) for i in range(4)]
    return {
        "shape": list(tensor.shape),
        "mean": rounded(float(flat.mean())),
        "std": rounded(float(flat.std(correction=0))),
        "values": [rounded(float(flat[place])) for place in places],
    }


def integers(tensor: Tensor) -> int:
    """A checksum of integers in order."""
    flat = tensor.flatten().long()
    return int(((flat + 1) * (torch.arange(len(flat)) % 1_000_003 + 1) % 2_147_483_647).sum()) % 2_147_483_647


# --- Generators of parameters from architectures --------------------------------------------------------------------


def prediction(generator: str, name: str) -> dict[str, Any]:
    """What a generator predicts for a network."""
    return _quiet_prediction(generator_of(generator), network(name), NETWORKS[name][1])


def _quiet_prediction(generator: hypergen.Generator, model: nn.Module, inputs: Tensor) -> dict[str, Any]:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        return summary(hypergen.predict_params(model, generator, example_inputs=inputs))


COMPOSITIONS = [
    (encoder, decoder, parametrization)
    for encoder in ("graphormer", "gated_gnn", "none")
    for decoder in ("low_rank", "conv")
    for parametrization in ("plain", "unit_variance", "magnitude_invariant", "anchored")
]


def composition(encoder: str, decoder: str, parametrization: str) -> dict[str, Any]:
    """What a small graph hypernetwork of these parts predicts, at initial values of a fixed seed."""
    torch.manual_seed(0)
    generator = GraphHypernetwork(
        encoder, decoder, parametrization, hidden=16, reach=3, heads=4, rank=8, width=16, max_shape=16,
        graphs="as_traced", channel_identity=False,
    )  # fmt: skip
    name = "own_grouped"
    return _quiet_prediction(generator.eval(), network(name), NETWORKS[name][1])


def initialization() -> dict[str, Any]:
    """Initialisation in place, with calibrated batch norms and a head in closed form."""
    model = _filled(_own("resnet", **_DIGITS, widths=[8, 16], depths=[1, 1]))
    random = torch.Generator().manual_seed(0)
    batches = [(torch.rand(32, 1, 8, 8, generator=random), torch.arange(32) % 10) for _ in range(2)]
    # The strength that there was then; and starts were compared by the loss on the samples that the head was solved on.
    with mock.patch.object(ridge_readout, "STRENGTHS", (1e-2,)):
        report = hypergen.initialize(
            model,
            KEPT_AS["digits-ghn"],
            calibrate=batches,
            head="ridge",
            example_inputs=_IMAGES_8,
            fallback="never",
            scale="predicted",
        )
    model.eval()
    return {
        "predicted": len(report.predicted),
        "share_of_parameters_predicted": report.share_of_parameters_predicted,
        "state": summary({name: value for name, value in model.state_dict().items() if value.is_floating_point()}),
        "outputs": _described(model(batches[0][0])),
    }


def small_graph_hypernetwork() -> dict[str, Any]:
    """What the graph hypernetwork in the folder predicts."""
    return _quiet_prediction(hypergen.load_generator(HERE / "graph_hypernetwork"), network("own_vit"), _IMAGES_8)


# --- Graphs, symmetry, pruning --------------------------------------------------------------------------------------


def computational_graph(name: str) -> dict[str, Any]:
    """Operations, edges and parameters of a traced network."""
    graph = graph_of(name)
    return {
        "nodes": len(graph.nodes),
        "edges": graph.edges.shape[1],
        "edges_checksum": integers(graph.edges),
        "shortest_paths_checksum": integers(graph.shortest_paths()),
        "operations": dict(sorted(Counter(node.op for node in graph.nodes).items())),
        "nodes_digest": sha256(
            [[node.op, node.module, dict(node.parameters), list(node.shape), dict(node.shared)] for node in graph.nodes]
        ),
        "attributes_digest": sha256([sorted(node.attributes.items()) for node in graph.nodes]),
        "parameter_shapes_digest": sha256([[key, list(shape)] for key, shape in graph.parameter_shapes.items()]),
        "unused_parameters": list(graph.unused_parameters),
        "tied_parameters": dict(graph.tied_parameters),
        "outputs": list(graph.outputs),
        "unknown_operations": dict(graph.unknown_operations),
        "traced_on": {"meta": "meta", "known integers": "fake", "real values": "real"}[graph.tracing_mode],
    }


def symmetry(name: str) -> dict[str, Any]:
    """Symmetry groups of a network, the axes that each permutes, and what a random element does to every tensor."""
    found = graph_of(name).symmetry()
    element = found.sample(torch.Generator().manual_seed(0))
    numbers = {
        key: torch.arange(math.prod(axis.size for axis in axes)).reshape([axis.size for axis in axes])
        for key, axes in found.axes.items()
    }
    permuted = found.apply(numbers, element)
    return {
        "count": len(found.groups),
        "groups": {
            group.name: {
                "size": group.size,
                "parents": [parent.name if not parent.fixed else f"fixed {parent.size}" for parent in group.parents],
                "axes": [f"{key}[{dim}]" for key, dim in found.uses[group.name]],
            }
            for group in found.groups
        },
        "simple_groups": len(found.simple_groups),
        "order_log": rounded(found.order_log()),
        "unsupported": list(found.unsupported),
        "tensors": len(found.axes),
        "frozen_axes": sum(bool(reason) for reasons in found.frozen.values() for reason in reasons),
        "permuted_checksum": sha256({key: integers(value) for key, value in permuted.items()}),
        "inverse_restores": all(
            torch.equal(value, numbers[key]) for key, value in found.apply(permuted, found.inverse(element)).items()
        ),
    }


def parameter_graph(name: str) -> dict[str, Any]:
    """Nodes, edges and blocks of a parameter graph."""
    graph = graph_of(name).parameter_graph()
    return {
        "nodes": graph.num_nodes,
        "edges": graph.num_edges,
        "node_sets": len(graph.node_sets),
        "node_sets_digest": sha256(
            [[each.start, each.size, each.is_place, each.group.size] for each in graph.node_sets]
        ),
        "blocks": {
            block.name: [
                "x".join(map(str, block.shape)),
                block.op,
                block.role,
                rounded(block.depth),
                [_axis(axis) for axis in block.axes],
            ]
            for block in graph.blocks
        },
        "data": checksum(dict(zip((block.name for block in graph.blocks), graph.to_data(_tensors(name)), strict=True))),
    }


def _axis(axis: Any) -> str:
    segments = 0 if axis.segments is None else integers(axis.segments)
    nodes = integers(axis.nodes)
    return f"{axis.dim} of {list(axis.dims)}, {list(axis.sizes)}: {nodes}, {int(axis.receives)}, {segments}"


def _tensors(name: str) -> dict[str, Tensor]:
    model = network(name)
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


METANETWORKS = ("edge", "film", "attention", "transformer", "product")  # by their messages
METANETWORK_TARGETS = ("own_mlp", "own_grouped", "own_gpt", "lstm")


def metanetwork(message: Any, name: str) -> dict[str, Any]:
    """What a small metanetwork reads off a network, at initial values of a fixed seed."""
    torch.manual_seed(0)
    reader = InvariantMetanetwork(GraphMetanetwork(hidden=8, layers=2, message=message), outputs=3).eval()
    with torch.no_grad():
        outputs = reader(graph_of(name).parameter_graph(), _tensors(name))
    return {"parameters": sum(value.numel() for value in reader.parameters()), "outputs": _described(outputs)}


def scale_equivariant_metanetwork(kind: Any) -> dict[str, Any]:
    """What a small metanetwork reads off linear layers, however their units are scaled."""
    model = _filled(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)))
    graph = hypergen.trace(model, torch.zeros(1, 6)).parameter_graph()
    torch.manual_seed(0)
    reader = ScaleEquivariantMetanetwork(kind, hidden=8, layers=3, outputs=3).eval()
    with torch.no_grad():
        outputs = reader(graph, {name: value[None] for name, value in model.named_parameters()})
    return {"parameters": sum(value.numel() for value in reader.parameters()), "outputs": _described(outputs)}


def pruned(name: str) -> dict[str, Any]:
    """A network without half of the units of every group that can be pruned.

    ``hf_gpt2`` was renewed since: its channels of queries, keys and values, whose number one attribute tells, can be
    pruned together now.
    """
    model = network(name)
    pruner = Pruner(model, NETWORKS[name][1])
    keep = half_of(pruner.groups)
    result = pruner.prune(keep)
    tensors = dict(result.model.named_parameters())
    return {
        "parameters_before": sum(value.numel() for value in model.parameters()),
        "parameters_after": sum(value.numel() for value in tensors.values()),
        "flops": None if name in NO_FLOPS else [pruner.flops(), pruner.flops(keep)],
        "removed": dict(result.removed),
        "left": sorted(pruner.left),
        "total": checksum(tensors),
    }


def alignment() -> dict[str, Any]:
    """The units of two networks in the order of a third one's."""
    graph = graph_of("own_mlp")
    random = torch.Generator().manual_seed(0)
    drawn = {key: torch.randn(3, *shape, generator=random) for key, shape in graph.parameter_shapes.items()}
    reference = {key: value[:1] for key, value in drawn.items()}
    groups = graph.symmetry().simple_groups
    return summary(align({key: value[1:] for key, value in drawn.items()}, reference, groups))


# --- Architecture spaces --------------------------------------------------------------------------------------------


def architecture_space() -> dict[str, Any]:
    """What the spaces draw for the first seeds, and the shipped splits."""
    language = LanguageModelSpace()
    return {
        "image_classifiers": [ImageClassifierSpace(8, 1, 10).sample(seed).name for seed in range(16)],
        "language_models": [language.sample(seed).name for seed in range(8)],
        "splits": {
            split: sha256([architecture.name for architecture in load_split(split)])
            for split in ("validation", "test", "wide", "deep", "no_norm", "new_family")
        },
    }


# --- Zoos, and generators trained on them ---------------------------------------------------------------------------

_SHAPE = {"image_size": 4, "channels": 1, "num_classes": 3}
_TASKS = [Task("as they are", (0, 1, 2), split="train"), Task("turned", (1, 2, 0), split="test", text="the next one")]
PLAN = ZooPlan(
    [
        Architecture("mlp", {**_SHAPE, "widths": [6], "norm": "none"}),
        Architecture("cnn", {**_SHAPE, "widths": [4], "depths": [1]}),
    ],
    3,
    steps=(10, 20),
    save_every=10,
    learning_rate=(1e-3, 1e-1),
    weight_decay=(1e-4, 1e-1),
    init_scale=(0.5, 2),
    data_fraction=(0.5, 1),
    tasks=_TASKS,
    group_size=2,
    batch_size=8,
)
CONDITIONS = [{"metric": 0.9}, {"metric": 0.9}, {"metric": 1.1}]


def _zoo_data() -> dict[str, tuple[Tensor, Tensor]]:
    random = torch.Generator().manual_seed(0)
    splits = {}
    for split, count in (("train", 60), ("validation", 20), ("test", 20)):
        images = torch.randn(count, 1, 4, 4, generator=random)
        splits[split] = images, images.flatten(1)[:, :3].argmax(1)
    return splits


def _build_zoo(folder: Path) -> Any:
    return build_zoo(folder, PLAN, _zoo_data(), data_name="toy", progress=False)


@cache
def _zoo() -> Zoo:
    return Zoo(HERE / "zoo")


def _rows(zoo: Zoo, *, without: tuple[str, ...] = ()) -> dict[str, Any]:
    rows = {}
    for row in sorted(zoo.index.to_pylist(), key=lambda row: row["uid"]):
        rows[row["uid"]] = {
            key: rounded(value) if isinstance(value, float) else value
            for key, value in sorted(row.items())
            if key not in without
        }
    return rows


def _contents(zoo: Zoo) -> dict[str, Any]:
    return {uid: checksum(zoo.state_dict(position)) for uid, position in sorted(_positions(zoo).items())}


def _positions(zoo: Zoo) -> dict[str, int]:
    return {uid: position for position, uid in enumerate(zoo.column("uid"))}


def zoo_rows() -> dict[str, Any]:
    """The index of the zoo in the folder."""
    return _rows(_zoo())


def zoo_tensors() -> dict[str, Any]:
    """The checkpoints of the zoo in the folder, after comparing them with their hashes."""
    return _contents(_zoo().verify())


def zoo_layouts() -> dict[str, Any]:
    """The layouts of the zoo in the folder, its tasks, splits and selections."""
    zoo = _zoo()
    return {
        "layouts": {key: json.loads(json.dumps(layout.to_json())) for key, layout in sorted(zoo.layouts.items())},
        "ids": sorted(layout.id for layout in zoo.layouts.values()),
        "permutation_groups": {
            key: json.loads(json.dumps(layout.permutation_groups)) for key, layout in sorted(zoo.layouts.items())
        },
        "tasks": json.loads(json.dumps(dict(zoo.tasks))),
        "last": sorted(zoo.last().column("uid")),
        "test_tasks": sorted(zoo.split("test", by="task").column("uid")),
        "step_10": sorted(zoo.select(step=10).column("uid")),
    }


def zoo_resumed() -> dict[str, Any]:
    """A build of the same plan into a copy of the zoo in the folder has nothing left to train."""
    with tempfile.TemporaryDirectory() as folder:
        copied = Path(folder) / "zoo"
        shutil.copytree(HERE / "zoo", copied)
        report = _build_zoo(copied)
        return {"networks": report.networks, "checkpoints": report.checkpoints, "trained": report.trained}


def zoo_rebuilt() -> dict[str, Any]:
    """The same zoo built anew: rows without those columns that depend on the last bit, and checksums."""
    with tempfile.TemporaryDirectory() as folder:
        report = _build_zoo(Path(folder) / "zoo")
        zoo = Zoo(Path(folder) / "zoo")
        return {
            "trained": report.trained,
            "diverged": list(report.diverged),
            "rows": _rows(zoo, without=("sha256", "shard", "row", "init_hash")),
            "tensors": _contents(zoo),
        }


def _zoo_networks(zoo: Zoo) -> list[LayoutNetworks]:
    """The networks of every architecture of the plan, with their validation loss as the condition."""
    found = []
    for architecture in PLAN.architectures:
        positions = [
            position for uid, position in sorted(_positions(zoo).items()) if uid.startswith(f"{architecture.name}-")
        ]
        own = zoo.take(positions)
        model = architecture.build()
        stacked = own.stack(keys=[name for name, _ in model.named_parameters()])
        conditions = [{"metric": value} for value in own.column("validation.loss")]
        found.append(LayoutNetworks(model, stacked, conditions))
    return found


def _fit(module: Any, zoo: TrainingZoo) -> None:
    batches = NetworkBatches(zoo, len(module.inputs), 8, 8, 0.0, seed=0)
    _trainer(module.steps).fit(module, DataLoader(batches, batch_size=None))


def _trainer(steps: int, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )


def _trained_latent_diffusion(zoo: Zoo, steps: int) -> LatentDiffusion:
    torch.manual_seed(0)
    networks = _zoo_networks(zoo)
    layouts = [{name: list(value.shape[1:]) for name, value in each.parameters.items()} for each in networks]
    generator = LatentDiffusion(
        layouts=layouts,
        token_size=8,
        latent_size=8,
        hidden=16,
        denoiser_hidden=16,
        denoiser_layers=1,
        condition_size=8,
        metric_size=1,
        architecture_size=4,
        sampling_steps=4,
    )
    images = _zoo_data()["train"][0]
    training_zoo = TrainingZoo.read(generator, networks, example_inputs=images[:1])
    options: dict[str, Any] = {"steps": steps, "learning_rate": 1e-2, "warmup_steps": 2}
    _fit(WeightAutoencoderTraining(generator, training_zoo, images, **options), training_zoo)
    _fit(LatentDiffusionTraining(generator, training_zoo, images, **options), training_zoo)
    return generator.eval()


def _sampled(generator: Any, architecture: Architecture) -> dict[str, Any]:
    example = _zoo_data()["train"][0][:1]
    with torch.no_grad():
        stacked = generator.sample(architecture.build(), CONDITIONS, seed=3, example_inputs=example)
        one = generator.generate(architecture.build(), {"metric": 1.0, "seed": 5}, example_inputs=example)
    return {"sampled": summary(stacked), "generated": summary(one)}


def latent_diffusion(number: int) -> dict[str, Any]:
    """What the latent diffusion in the folder samples for an architecture."""
    return _sampled(hypergen.load_generator(HERE / "latent_diffusion"), PLAN.architectures[number])


def latent_diffusion_pipeline() -> dict[str, Any]:
    """What the pipeline of diffusers in the folder samples."""
    pipeline = ZooPipeline.from_pretrained(HERE / "latent_diffusion_pipeline", low_cpu_mem_usage=False)
    return _sampled(pipeline.generator(), PLAN.architectures[0])


def latent_diffusion_trained() -> dict[str, Any]:
    """What a latent diffusion samples that is trained for a few steps on the zoo in the folder."""
    return _sampled(_trained_latent_diffusion(_zoo(), 5), PLAN.architectures[0])


_PERCEPTRON = {"0.weight": [4, 6], "0.bias": [4], "2.weight": [2, 4], "2.bias": [2]}
_ATTENTION = {"token_size": 4, "code_size": 2, "width": 16, "depth": 1, "heads": 2}
_DENOISER = {"denoiser_hidden": 16, "denoiser_layers": 1, "sampling_steps": 3}
_LATENT = {"token_size": 4, "latent_size": 6, "hidden": 16, "condition_size": 8, "code_size": 2, **_DENOISER}
ZOO_GENERATORS: dict[str, Callable[[], Any]] = {
    "latent_diffusion": partial(LatentDiffusion, layouts=[_PERCEPTRON], **_LATENT),
    "linear_latent_diffusion": partial(
        LatentDiffusion, layouts=[_PERCEPTRON], linear=True, prediction_type="sample", **_LATENT
    ),
    "recurrent_diffusion": partial(
        RecurrentDiffusion, layouts=[_PERCEPTRON], token_size=4, code_size=2, width=16, window=5, **_DENOISER
    ),
    "checkpoint_transformer": partial(
        CheckpointTransformer, layouts=[{"shapes": _PERCEPTRON}], width=16, depth=1, heads=2, sampling_steps=3
    ),
    "hyper_representation": partial(HyperRepresentation, layouts=[_PERCEPTRON], **_ATTENTION, anchors=6, neighbours=3),
    "autoregressive_generator": partial(AutoregressiveGenerator, layouts=[_PERCEPTRON], **_ATTENTION, codebook_size=9),
}


def _untrained_zoo_generator(kind: str) -> Any:
    torch.manual_seed(0)
    generator = ZOO_GENERATORS[kind]().eval()
    for tensor in (*generator.parameters(), *generator.buffers()):  # What begins at zero hides differences.
        if tensor.is_floating_point() and not tensor.any():
            nn.init.normal_(tensor, std=0.5)
    return generator


def zoo_generator(kind: str) -> dict[str, Any]:
    """What the generator of this kind in the folder samples, and whether a new one of the same seed has its state."""
    generator = hypergen.load_generator(HERE / "zoo_generators" / kind)
    model = _filled(nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)))
    conditions: list[dict[str, Any]] = [{"code": [0, 1]}, {"code": [1, 1]}]
    if kind == "checkpoint_transformer":
        conditions = [{"metric": 0.5}, {"metric": 0.1}]
    with torch.no_grad():
        stacked = generator.sample(model, conditions, seed=3, example_inputs=torch.zeros(1, 6))  # type: ignore
    return {
        "sampled": summary(stacked),
        "loaded_state": checksum(_floats(generator.state_dict())),
        "constructed_state": checksum(_floats(_untrained_zoo_generator(kind).state_dict())),
        "config": json.loads(json.dumps(generator.config)),
    }


def _floats(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if value.is_floating_point()}


# --- Training of a graph hypernetwork -------------------------------------------------------------------------------


def _small_hypernetwork() -> GraphHypernetwork:
    torch.manual_seed(0)
    sizes = {"hidden": 8, "reach": 2, "heads": 2, "rank": 4, "steered_rank": 2, "width": 8}
    return GraphHypernetwork(**sizes, anchor=1.0, deviation=0.1, graphs="as_traced", channel_identity=False)


def _training() -> tuple[GraphHypernetworkTraining, MetaBatchDataModule]:
    data = DigitsDataModule()
    data.setup()
    space = ImageClassifierSpace(8, 1, 10, max_parameters=20_000)
    module = GraphHypernetworkTraining(_small_hypernetwork(), data, steps=4, warmup_steps=2, average_decay=0.9)
    batches = MetaBatchDataModule(
        data, space, networks_per_step=2, samples_per_network=8, architectures=4, num_workers=0,
        validation_architectures=1,
    )  # fmt: skip
    return module, batches


def _train(steps: int, folder: Path, checkpoint: Path | None = None) -> GraphHypernetworkTraining:
    module, batches = _training()
    trainer = _trainer(steps, plugins=[AtomicCheckpointIO()], callbacks=[LastCheckpoint(folder)], limit_val_batches=0)
    trainer.fit(module, datamodule=batches, ckpt_path=checkpoint)
    return module


def training_checkpoint() -> dict[str, Any]:
    """What the checkpoint of a training run in the folder holds, and that a run can go on from it."""
    saved = read_checkpoint(TRAINING)
    return {
        "keys": sorted(saved),
        "callbacks": sorted(saved["callbacks"]),
        "global_step": saved["global_step"],
        "resumable_at": check_resumable(TRAINING, _training()[0]),
        "state": summary(saved["state_dict"]),
    }


def training_resumed() -> dict[str, Any]:
    """The generator after two more steps from the checkpoint in the folder."""
    with tempfile.TemporaryDirectory() as folder:
        return summary(_train(4, Path(folder), TRAINING).generator.state_dict())


def training_anew() -> dict[str, Any]:
    """The generator after two steps from the beginning."""
    with tempfile.TemporaryDirectory() as folder:
        return summary(_train(2, Path(folder)).generator.state_dict())


# --- All items ------------------------------------------------------------------------------------------------------


def _items() -> dict[str, Callable[[], Any]]:
    items: dict[str, Callable[[], Any]] = {}
    for name in NETWORKS:
        items[f"computational_graph/{name}"] = partial(computational_graph, name)
        items[f"symmetry/{name}"] = partial(symmetry, name)
        items[f"parameter_graph/{name}"] = partial(parameter_graph, name)
        if name not in NOT_PRUNED:
            items[f"pruned/{name}"] = partial(pruned, name)
        for generator in GENERATORS:
            items[f"prediction/{generator}/{name}"] = partial(prediction, generator, name)
    for name in LANGUAGE_MODELS:
        items[f"prediction/text-logah/{name}"] = partial(prediction, "text-logah", name)
    for parts in COMPOSITIONS:
        items[f"composition/{'-'.join(parts)}"] = partial(composition, *parts)
    for kind in METANETWORKS:
        for name in METANETWORK_TARGETS:
            items[f"metanetwork/{kind}/{name}"] = partial(metanetwork, kind, name)
    for symmetries in ("scale", "sign"):
        items[f"metanetwork/{symmetries}"] = partial(scale_equivariant_metanetwork, symmetries)
    items["initialization"] = initialization
    items["alignment"] = alignment
    items["architecture_space"] = architecture_space
    items["graph_hypernetwork"] = small_graph_hypernetwork
    items["zoo/rows"] = zoo_rows
    items["zoo/tensors"] = zoo_tensors
    items["zoo/layouts"] = zoo_layouts
    items["zoo/resumed"] = zoo_resumed
    items["zoo/rebuilt"] = zoo_rebuilt
    for number, architecture in enumerate(PLAN.architectures):
        items[f"latent_diffusion/{architecture.name}"] = partial(latent_diffusion, number)
    items["latent_diffusion/pipeline"] = latent_diffusion_pipeline
    items["latent_diffusion/trained"] = latent_diffusion_trained
    for kind in ZOO_GENERATORS:
        items[f"zoo_generator/{kind}"] = partial(zoo_generator, kind)
    items["training/checkpoint"] = training_checkpoint
    items["training/resumed"] = training_resumed
    items["training/anew"] = training_anew
    return items


ITEMS = _items()
"""What is compared, by name; each recomputes its values with the code of today."""


def compute() -> dict[str, Any]:
    """All values: item name → anything JSON-able."""
    result = {}
    for name, item in ITEMS.items():
        begun = time.monotonic()
        result[name] = item()
        if os.environ.get("GOLDEN_TIMES"):
            print(f"{time.monotonic() - begun:6.2f} s  {name}", file=sys.stderr)
    return result


def make_files() -> None:
    """Make the zoo and the checkpoints that golden values are read from; only ever with the old code."""
    for name in FILES:
        shutil.rmtree(HERE / name, ignore_errors=True)
    _build_zoo(HERE / "zoo")
    generator = _trained_latent_diffusion(Zoo(HERE / "zoo"), 60)
    generator.save_pretrained(HERE / "latent_diffusion")
    generator.pipeline().save_pretrained(HERE / "latent_diffusion_pipeline")
    _small_hypernetwork().save_pretrained(HERE / "graph_hypernetwork")
    for kind in ZOO_GENERATORS:
        _untrained_zoo_generator(kind).save_pretrained(HERE / "zoo_generators" / kind)
    _train(2, HERE / "training")
    (HERE / "training" / "last.ckpt").rename(TRAINING)  # git ignores .ckpt


def versions() -> dict[str, str]:
    """Versions of the libraries that values depend on."""
    from importlib.metadata import version

    names = ("torch", "torchvision", "timm", "transformers", "diffusers", "pytorch-lightning", "scikit-learn")
    return {name: version(name) for name in names}


def main() -> None:
    """Write golden.json, and with ``--files`` what it reads; ``--only NAME …`` renews the items of these names."""
    print(f"hypergen: {hypergen.__file__}")
    if "--only" in sys.argv:
        golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
        golden["items"].update({name: ITEMS[name]() for name in sys.argv[sys.argv.index("--only") + 1 :]})
        _write(golden)
        return
    if "--files" in sys.argv:
        make_files()
    golden = {"versions": versions(), "items": compute()}
    _write(golden)


def _write(golden: dict[str, Any]) -> None:
    lines = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in golden["items"].items()]
    items = ",\n".join(lines)
    text = f'{{"versions": {json.dumps(golden["versions"])},\n "items": {{\n{items}\n }}}}\n'
    GOLDEN.write_text(text, encoding="utf-8")
    print(f"{GOLDEN}: {len(text):,} bytes, {len(golden['items'])} items")


if __name__ == "__main__":
    main()
