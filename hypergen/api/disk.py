"""Prediction of networks that do not fit into memory: straight into sharded safetensors files."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hypergen.api.shards import Shard, ShardedCheckpoint, parse_size, plan_shards
from hypergen.generators import Generator, load_generator
from hypergen.generators.generator import check_predictable
from hypergen.graph import ComputationalGraph, trace

_VALUES_AT_A_TIME = 2**25  # two portions are in memory: one is written while the next is made


@dataclass(frozen=True)
class DiskReport:
    """What :func:`predict_to_disk` wrote.

    Attributes:
        folder: Where.
        files: The safetensors files.
        predicted: Parameters that the generator wrote.
        left_out: What the files lack of the network's state: parameters that no operation reads, and buffers, such as
            the running statistics of batch norms.
        values: Numbers in the files.
        size: Bytes of the files.
        resumed: Files that were there already, from a writer that was stopped.
    """

    folder: Path
    files: tuple[str, ...]
    predicted: tuple[str, ...]
    left_out: tuple[str, ...]
    values: int
    size: int
    resumed: tuple[str, ...]


def predict_to_disk(
    model: nn.Module,
    generator: Generator | str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    dtype: torch.dtype = torch.float32,
    max_shard_size: int | str = "5GB",
    condition: Any = None,
    example_inputs: Any = None,
    progress: bool = True,
) -> DiskReport:
    """Predict the parameters of ``model`` straight into sharded safetensors files.

    A network on the meta device may be far larger than memory: some tensors are made at a time, and written while the
    next ones are made. The folder has the form that Hugging Face's libraries read (files, index, the model's
    configuration where it has one), so ``from_pretrained`` loads it. A call that was stopped leaves whole files only;
    the same call goes on after them.

    Args:
        model: The target network; it is only read, best on the meta device.
        generator: A generator, or a name or path for :func:`load_generator`.
        folder: Where to write; made if it is missing, else empty or of the same call.
        dtype: ``torch.float32``, ``float16`` or ``bfloat16``.
        max_shard_size: Bytes of values in a file at most, as a number or a text such as ``"5GB"``.
        condition: What else the generator's parameters depend on.
        example_inputs: What ``model(...)`` is called with, when it cannot be worked out.
        progress: Show a progress bar in terminals.

    Returns:
        What was written. Buffers are not predicted and not written.

    Raises:
        ParameterError: The folder holds other files, the disk is full, a size or type that is not known, or a
            prediction that does not fit; also see :func:`predict_params`.
        TraceError: The model could not be run on example inputs.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    if not isinstance(generator, Generator):
        generator = load_generator(generator)
    check_predictable(model)
    graph = trace(model, example_inputs, both_modes=False)
    shapes = {name: shape for name, shape in graph.parameter_shapes.items() if name not in graph.unused_parameters}
    shards = plan_shards(shapes, dtype, parse_size(max_shard_size))
    checkpoint = ShardedCheckpoint(folder, shards, dtype, _fingerprint(generator, graph, condition, shards))
    parts = checkpoint.parts(_VALUES_AT_A_TIME)
    console = Console(stderr=True)
    columns = ("[progress.description]{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with (
        torch.no_grad(),
        Progress(
            *columns, TimeRemainingColumn(), console=console, disable=not (progress and console.is_terminal)
        ) as bar,
    ):
        task = bar.add_task(f"writing {Path(folder).name}", total=sum(shard.size for shard in checkpoint.missing))
        for written in checkpoint.write(generator.generate_in_parts(graph, parts, condition)):
            bar.advance(task, written)
    save_config = getattr(getattr(model, "config", None), "save_pretrained", None)
    if save_config is not None:  # a network of Hugging Face's libraries
        save_config(folder)
    done = {shard.file for shard in shards} - {shard.file for shard in checkpoint.missing}
    return DiskReport(
        folder=Path(folder),
        files=tuple(shard.file for shard in shards),
        predicted=tuple(shapes),
        left_out=(*graph.unused_parameters, *_saved_buffers(model)),
        values=sum(math.prod(shape) for shape in shapes.values()),
        size=sum(shard.size for shard in shards),
        resumed=tuple(sorted(done)),
    )


def _saved_buffers(model: nn.Module) -> tuple[str, ...]:
    """The buffers that a state dict of the model has."""
    saved = model.state_dict(keep_vars=True)
    return tuple(name for name, _ in model.named_buffers() if name in saved)


def _fingerprint(generator: Generator, graph: ComputationalGraph, condition: Any, shards: Iterable[Shard]) -> str:
    """What the values in the files depend on."""
    digest = hashlib.sha256(f"{type(generator).__name__}{generator.config}{condition!r}".encode())
    for name, value in generator.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    digest.update(repr([(node.op, node.parameters) for node in graph.nodes]).encode())
    for shard in shards:
        digest.update(shard.file.encode() + shard.header)
    return digest.hexdigest()
