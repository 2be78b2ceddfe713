"""Somebody else's LightningDataModule, as the data that networks of a zoo are run on."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hypergen.architectures.by_name import python_object
from hypergen.data.in_memory import SPLITS, InMemoryDataModule
from hypergen.errors import HypergenError, ParameterError
from hypergen.functional.batches import labels_of
from hypergen.functional.stacked_outputs import logits_of

Score = Callable[[Tensor, Tensor], Any]
"""(outputs ``[samples, …]``, labels ``[samples]``) → a number, the greater the better."""

_LOADERS = {"train": "train_dataloader", "validation": "val_dataloader", "test": "test_dataloader"}
_TRIED = 2


class WrappedDataModule(InMemoryDataModule):
    """Inputs and class labels of a LightningDataModule, read into memory once.

    A data module without a loader for validation is measured on its test samples, one without a loader for test on its
    validation samples, one with neither on its training samples; each with a warning. The order of samples is that of
    the loaders under one seed.

    Args:
        module: The data module; or ``package.module:name`` of it, or of what makes it without arguments.
        most_samples: Number of samples of each split that are read at most.
        batch_size: Samples per batch of this data module's own loaders.
        seed: Random seed of the order of samples.

    Raises:
        HypergenError: The name names no data module.
    """

    def __init__(
        self, module: str | pl.LightningDataModule, most_samples: int = 10_000, batch_size: int = 64, seed: int = 0
    ) -> None:
        super().__init__()
        self.name = module if isinstance(module, str) else type(module).__name__
        self.module = _data_module(module) if isinstance(module, str) else module
        self.most_samples, self.batch_size, self.seed = most_samples, batch_size, seed
        self._tensors: dict[str, tuple[Tensor, Tensor]] = {}
        self._prepared = False

    def tensors(self, split: str) -> tuple[Tensor, Tensor]:
        """Inputs ``[samples, …]`` and class labels ``[samples]`` of a split.

        Raises:
            ValueError: The split is unknown.
            HypergenError: The data module has no loader at all, or its batches are not inputs and labels.
        """
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}; expected one of {SPLITS}")
        if not self._prepared:
            self._prepare()
        if split not in self._tensors:
            self._tensors[split] = self._read(split)
        return self._tensors[split]

    def check(self, model: nn.Module, what: str) -> None:
        """Make sure that a network can be run on the inputs, and that the labels are classes of its outputs.

        Args:
            model: The network.
            what: Name of the network, for messages.

        Raises:
            HypergenError: It cannot, or they are not; the message says what was expected.
        """
        inputs = self.tensors("train")[0][:_TRIED]
        try:
            with torch.no_grad():
                outputs = logits_of(model.eval()(inputs))
        except Exception as error:
            raise HypergenError(
                f"{what} cannot be run on what {self.name!r} gives, {list(inputs.shape)} {inputs.dtype}: "
                f"{type(error).__name__}: {error}. Name the data module that it was trained on."
            ) from error
        if outputs.dim() != 2 or len(outputs) != len(inputs):
            raise HypergenError(
                f"{what} returns {list(outputs.shape)} for {len(inputs)} samples of {self.name!r}; expected "
                f"[{len(inputs)}, classes]: networks are measured as classifiers."
            )
        classes = 2 if outputs.shape[1] == 1 else outputs.shape[1]
        for split in SPLITS:
            labels = self.tensors(split)[1]
            low, high = int(labels.min()), int(labels.max())
            if low < 0 or high >= classes:
                raise HypergenError(
                    f"The labels of {self.name!r} ({split}) do not fit {what}: they lie from {low} to {high}, and it "
                    f"tells {classes} classes, 0 to {classes - 1}."
                )

    def _prepare(self) -> None:
        if not any(_has_loader(self.module, name) for name in _LOADERS.values()):
            raise HypergenError(
                f"{self.name!r} has none of {', '.join(_LOADERS.values())}. Name a LightningDataModule."
            )
        self.module.prepare_data()
        for stage in ("fit", "test"):
            self.module.setup(stage)
        self._prepared = True

    def _read(self, split: str) -> tuple[Tensor, Tensor]:
        others = {"train": (), "validation": ("test", "train"), "test": ("validation", "train")}[split]
        found = next((name for name in (split, *others) if _has_loader(self.module, _LOADERS[name])), None)
        if found is None:
            raise HypergenError(f"{self.name!r} has no {_LOADERS[split]}, which networks are run on.")
        if found != split:
            warnings.warn(
                f"{self.name!r} has no {_LOADERS[split]}: its {found} samples stand for {split} ones.", stacklevel=3
            )
            return self.tensors(found)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return self._samples(getattr(self.module, _LOADERS[split])(), split)

    def _samples(self, loader: Any, split: str) -> tuple[Tensor, Tensor]:
        if isinstance(loader, (list, tuple)) and loader and isinstance(loader[0], DataLoader):
            if len(loader) > 1:
                raise HypergenError(f"{self.name!r}: {_LOADERS[split]} gives {len(loader)} loaders; expected one.")
            loader = loader[0]
        if isinstance(loader, Mapping) or not isinstance(loader, Iterable):
            kind = type(loader).__name__
            raise HypergenError(f"{self.name!r}: {_LOADERS[split]} gives a {kind}; expected a loader of batches.")
        inputs, labels, count = [], [], 0
        for batch in loader:
            try:
                labels.append(labels_of(batch))
            except ParameterError as error:
                raise HypergenError(f"The labels of {self.name!r} ({split}) do not fit: {error}") from error
            inputs.append(self._inputs_of(batch))
            count += len(inputs[-1])
            if count >= self.most_samples:
                break
        if not inputs:
            raise HypergenError(f"{self.name!r}: {_LOADERS[split]} gives no batch.")
        return torch.cat(inputs)[: self.most_samples], torch.cat(labels)[: self.most_samples]

    def _inputs_of(self, batch: Any) -> Tensor:
        if isinstance(batch, Mapping):
            tensors = {
                key: each for key, each in batch.items() if isinstance(each, Tensor) and not key.startswith("label")
            }
            if len(tensors) == 1:
                return next(iter(tensors.values()))
            raise HypergenError(
                f"A batch of {self.name!r} has the inputs {', '.join(map(str, tensors)) or 'none'}; expected one "
                "tensor, and labels."
            )
        if not isinstance(batch[0], Tensor):
            raise HypergenError(f"A batch of {self.name!r} begins with a {type(batch[0]).__name__}; expected a tensor.")
        return batch[0]


def score_function(name: str) -> Score:
    """The metric that ``package.module:function`` names.

    Raises:
        HypergenError: It names something that cannot be called.
    """
    found = python_object(name)
    if isinstance(found, type):  # a metric of torchmetrics, say
        found = found()
    if not callable(found):
        raise HypergenError(f"{name!r} is a {type(found).__name__}; expected a function of outputs and labels.")
    return found


def _data_module(name: str) -> Any:
    if ":" not in name:
        raise HypergenError(f"{name!r} names no data module. Expected package.module:name, as my_project.data:Digits.")
    found = python_object(name)
    if not hasattr(found, "train_dataloader") or isinstance(found, type):
        if not callable(found):
            raise HypergenError(f"{name!r} is a {type(found).__name__}; expected a LightningDataModule.")
        try:
            found = found()
        except Exception as error:
            raise HypergenError(
                f"{name!r} could not be made without arguments: {type(error).__name__}: {error}. Name a function that "
                "gives them."
            ) from error
    if not hasattr(found, "train_dataloader"):
        raise HypergenError(f"{name!r} makes a {type(found).__name__}; expected a LightningDataModule.")
    return found


def _has_loader(module: Any, name: str) -> bool:
    own = getattr(type(module), name, None) or getattr(module, name, None)
    return own is not None and own is not getattr(pl.LightningDataModule, name)
