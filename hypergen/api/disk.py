"""Prediction of networks that do not fit into memory: straight into sharded safetensors files."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hypergen.api.shards import BUFFER_DTYPES, Shard, ShardedCheckpoint, parse_size, plan_shards
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
        buffers: Buffers of the network's state dict that are in the files, with the network's own values; running
            statistics of a network on the meta device are those of a new batch norm.
        left_out: What the files lack of the network's state: parameters that no operation reads, and what has no value
            to write, such as other buffers of a network on the meta device.
        values: Numbers in the files.
        size: Bytes of the files.
        resumed: Files that were there already, from a writer that was stopped.
    """

    folder: Path
    files: tuple[str, ...]
    predicted: tuple[str, ...]
    buffers: tuple[str, ...]
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
        What was written. Buffers are not predicted: they are written as the network has them.

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
    buffers, without_value = _saved_buffers(model)
    shards = plan_shards(shapes, dtype, parse_size(max_shard_size), buffers)
    fingerprint = _fingerprint(generator, graph, condition, shards, buffers)
    checkpoint = ShardedCheckpoint(folder, shards, dtype, fingerprint, buffers)
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
        buffers=tuple(buffers),
        left_out=(*graph.unused_parameters, *without_value),
        values=sum(math.prod(shape) for shape in shapes.values()),
        size=sum(shard.size for shard in shards),
        resumed=tuple(sorted(done)),
    )


def _saved_buffers(model: nn.Module) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The buffers of a model's state dict, and the names of those whose values are not known or not writable."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    buffers: dict[str, Tensor] = {}
    without_value = []
    for name, value in model.state_dict(keep_vars=True).items():
        if name in parameters:
            continue
        if isinstance(value, Tensor) and value.is_meta:
            value = _of_a_new_batch_norm(name.rpartition(".")[2], value)
        if isinstance(value, Tensor) and value.layout == torch.strided and value.dtype in BUFFER_DTYPES:
            buffers[name] = value.detach()
        else:
            without_value.append(name)
    return buffers, tuple(without_value)


def _of_a_new_batch_norm(name: str, value: Tensor) -> Tensor | None:
    """The value that torch gives to a running statistic of this name before any batch."""
    start = {"running_mean": 0, "running_var": 1, "num_batches_tracked": 0}.get(name)
    return None if start is None else torch.full(value.shape, start, dtype=value.dtype, device="cpu")


def _fingerprint(
    generator: Generator,
    graph: ComputationalGraph,
    condition: Any,
    shards: Iterable[Shard],
    buffers: Mapping[str, Tensor],
) -> str:
    """What the values in the files depend on."""
    digest = hashlib.sha256(f"{type(generator).__name__}{generator.config}{condition!r}".encode())
    for name, value in (*generator.state_dict().items(), *buffers.items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    digest.update(repr([(node.op, node.parameters) for node in graph.nodes]).encode())
    for shard in shards:
        digest.update(shard.file.encode() + shard.header)
    return digest.hexdigest()
