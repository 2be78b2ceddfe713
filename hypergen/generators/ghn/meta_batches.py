"""Meta-batches: a few training architectures a step, each with samples of its own, traced ahead by loader workers."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from hypergen.architectures import Architecture, Space, TrainingStream, load_split, load_split_space
from hypergen.architectures.cost import without_initialisation
from hypergen.data import ImageDataModule, TextDataModule
from hypergen.functional.lightning import outlive_signals
from hypergen.generators.ghn.features import GraphFeatures, graph_features
from hypergen.generators.ghn.training_graphs import GraphDescription, describe_graph
from hypergen.graph import trace


@dataclass(frozen=True)
class TracedArchitecture:
    """An architecture with what a generator reads of it."""

    architecture: Architecture
    features: GraphFeatures
    description: GraphDescription

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel from a loader worker as bytes: a shared-memory handle per tensor would exhaust the file handles."""
        return _unpack, (pickle.dumps((self.architecture, self.features, self.description)),)


def _unpack(packed: bytes) -> TracedArchitecture:
    return TracedArchitecture(*pickle.loads(packed))


@dataclass(frozen=True)
class MetaBatch:
    """What one process trains on in one step.

    Attributes:
        step: The global step.
        numbers: The architecture of each network, as its number in the training stream.
        samples: Indices of the training samples of each network, ``[networks, samples_per_network]``, int64; an array,
            which travels from a loader worker without shared memory.
        traced: The architectures among them that this process has not been sent before.
        networks: Networks in this step over all processes.
    """

    step: int
    numbers: tuple[int, ...]
    samples: np.ndarray
    traced: dict[int, TracedArchitecture]
    networks: int


def trace_architecture(
    architecture: Architecture, graphs: str = "as_traced", channel_identity: bool = False
) -> TracedArchitecture:
    """Build on the meta device, trace and describe, as a generator with these arguments reads it."""
    with without_initialisation(), torch.device("meta"):
        network = architecture.build()
    graph = trace(network, architecture.example_inputs(), both_modes=False)
    return TracedArchitecture(architecture, graph_features(graph, graphs, channel_identity), describe_graph(graph))


class MetaBatches(IterableDataset):
    """The meta-batches of a training run, from any step on.

    Which architectures and samples a step takes depends on the seed and the step alone: a run that is resumed sees
    what it would have seen, and the processes of a distributed run share one meta-batch out. Architectures come from
    a pool, each traced when first needed and sent once: tracing costs several times as much as a training step of
    the same network.

    Args:
        stream: Training architectures by number.
        pool: How many different ones are used.
        parts: Ranges of training samples, one per data set; the samples of a network are from one of them.
        networks: Networks per step over all processes; a multiple of ``world_size``.
        samples_per_network: Samples per network and step.
        labels: The label of each training sample, for ``classes_per_network``.
        classes_per_network: The samples of a network are of so many classes, drawn anew; None for all.
        seed: Decides architectures and samples.
        start: The first step.
        rank: This process.
        world_size: Processes that share a step.
        graphs: How the generator reads graphs; see :class:`GraphHypernetwork`.
        channel_identity: The same.
    """

    def __init__(
        self,
        stream: TrainingStream,
        pool: int,
        parts: Sequence[tuple[int, int]],
        networks: int = 8,
        samples_per_network: int = 64,
        labels: np.ndarray | None = None,
        classes_per_network: int | None = None,
        seed: int = 0,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
        graphs: str = "as_traced",
        channel_identity: bool = False,
    ) -> None:
        if networks % world_size:
            raise ValueError(
                f"networks_per_step={networks} can't be shared out over {world_size} processes; make it a multiple"
            )
        self.stream, self.pool, self.parts = stream, pool, list(parts)
        self.networks, self.samples_per_network, self.seed = networks, samples_per_network, seed
        self._by_class = None if classes_per_network is None or labels is None else _by_class(self.parts, labels)
        self.classes_per_network = classes_per_network
        self.start, self.rank, self.world_size = start, rank, world_size
        self.graphs, self.channel_identity = graphs, channel_identity

    def draw(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """This process's share of a step: numbers ``[networks]``, samples ``[networks, samples_per_network]``."""
        rng = np.random.default_rng((self.seed, step))
        numbers = rng.integers(self.pool, size=self.networks)
        shape = (self.networks, self.samples_per_network)
        if self._by_class is not None and self.classes_per_network is not None:
            samples = np.stack([self._of_classes(rng, self.classes_per_network) for _ in range(self.networks)])
        elif len(self.parts) == 1:
            samples = rng.integers(*self.parts[0], size=shape)
        else:
            starts, ends = np.array(self.parts)[rng.integers(len(self.parts), size=self.networks)].T[..., None]
            samples = rng.integers(starts, ends, size=shape)
        return numbers[self.rank :: self.world_size], samples[self.rank :: self.world_size]

    def _of_classes(self, rng: np.random.Generator, most: int) -> np.ndarray:
        """Samples of a few classes of one data set, as many of each."""
        assert self._by_class is not None
        classes = self._by_class[rng.integers(len(self._by_class))]
        chosen = [classes[i] for i in rng.permutation(len(classes))[:most]]
        which = np.resize(np.arange(len(chosen)), self.samples_per_network)
        return np.array([chosen[i][rng.integers(len(chosen[i]))] for i in which])

    def __iter__(self) -> Iterator[MetaBatch]:
        worker = get_worker_info()
        count, own = (worker.num_workers, worker.id) if worker else (1, 0)
        sent: set[int] = set()  # by all workers: each replays the draws, so none sends what another has sent
        step = self.start
        while True:
            numbers, samples = self.draw(step)
            new = sorted(set(numbers.tolist()) - sent)
            sent.update(new)
            if (step - self.start) % count == own:
                traced = {n: trace_architecture(self.stream[n], self.graphs, self.channel_identity) for n in new}
                yield MetaBatch(step, tuple(numbers.tolist()), samples, traced, self.networks)
            step += 1


def _by_class(parts: Sequence[tuple[int, int]], labels: np.ndarray) -> list[list[np.ndarray]]:
    """The samples of each class of each part."""
    return [
        [start + np.flatnonzero(labels[start:end] == label) for label in np.unique(labels[start:end])]
        for start, end in parts
    ]


class MetaBatchDataModule(pl.LightningDataModule):
    """Meta-batches over an architecture space and a data set.

    Training is endless: bound it with the trainer's ``max_steps``. The loader starts at the trainer's global step,
    which makes resuming exact.

    Args:
        data: What targets are trained on.
        space: The distribution of targets.
        networks_per_step: Networks per step over all processes.
        samples_per_network: Samples per network and step.
        classes_per_network: The samples of a network and step are of so many classes of one data set, drawn anew; None
            for all of them.
        architectures: How many different architectures training uses.
        seed: Decides architectures and samples.
        num_workers: Loader workers that trace ahead, per process; 0 traces in the training process.
        validation_architectures: How many of the validation split are evaluated during training.
    """

    def __init__(
        self,
        data: ImageDataModule | TextDataModule,
        space: Space,
        networks_per_step: int = 8,
        samples_per_network: int = 64,
        classes_per_network: int | None = None,
        architectures: int = 2000,
        seed: int = 0,
        num_workers: int = 1,
        validation_architectures: int = 30,
    ) -> None:
        super().__init__()
        self.data, self.space = data, space
        self.networks_per_step, self.samples_per_network = networks_per_step, samples_per_network
        self.classes_per_network = classes_per_network
        self.architectures, self.seed, self.num_workers = architectures, seed, num_workers
        self.validation_architectures = validation_architectures
        # How the generator reads graphs, which the training module says before loaders are made.
        self.graphs, self.channel_identity = "canonical", True

    def setup(self, stage: str | None = None) -> None:
        """Read the data."""
        self.data.setup(stage)

    def train_dataloader(self) -> DataLoader:
        """Meta-batches from the trainer's global step on."""
        trainer = self.trainer
        batches = MetaBatches(
            TrainingStream(self.space),
            self.architectures,
            self.data.parts("train"),
            self.networks_per_step,
            self.samples_per_network,
            self.data.tensors("train")[1].numpy() if self.classes_per_network else None,
            self.classes_per_network,
            self.seed,
            trainer.global_step if trainer else 0,
            trainer.global_rank if trainer else 0,
            trainer.world_size if trainer else 1,
            self.graphs,
            self.channel_identity,
        )
        return DataLoader(
            batches,
            batch_size=None,
            num_workers=self.num_workers,
            prefetch_factor=8 if self.num_workers else None,
            worker_init_fn=_start_worker,
        )

    def val_dataloader(self) -> DataLoader:
        """Traced validation architectures, one at a time: the shipped split where it was drawn from this space."""
        if self.space.to_json() == load_split_space("validation").to_json():
            architectures = load_split("validation")[: self.validation_architectures]
        else:  # negative numbers are no training architectures
            architectures = [self.space.sample(-1 - i) for i in range(self.validation_architectures)]
        traced = [trace_architecture(a, self.graphs, self.channel_identity) for a in architectures]
        return DataLoader(_Listed(traced), batch_size=None)


class _Listed(Dataset):
    def __init__(self, items: list[TracedArchitecture]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> TracedArchitecture:
        return self.items[index]


def _start_worker(worker: int) -> None:
    torch.set_num_threads(1)
    outlive_signals(worker)
