"""Running a network once for real, to see how large its activations are, without leaving traces in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from hypergen.graph.inputs import example_arguments
from hypergen.graph.tracing.tensors import map_tensors, tensors_in

Arguments: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]
Scales: TypeAlias = dict[tuple[str, int], float]
"""Root mean square of what a module gives: (module's name, number of its call) → value, in order of execution."""

MAX_PROBE_BYTES = 2 * 2**30  # larger networks are not run: a pass would take longer than the prediction
_SAMPLES = 4


def probe_arguments(model: nn.Module, example_inputs: Any = None, batch: Any = None) -> Arguments:
    """Real inputs to run ``model`` on: samples of the data where there are some, else normal values.

    Args:
        model: The network.
        example_inputs: What it is called with; see :func:`hypergen.trace`. Tensors that hold no values, or the same
            value everywhere, are replaced by standard normal ones.
        batch: A batch of data, whose first samples are taken.

    Raises:
        TraceError: The inputs could not be worked out.
    """
    if batch is not None:
        inputs = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
        if isinstance(inputs, Mapping):
            inputs = {k: _first(v) for k, v in inputs.items() if k not in ("labels", "label")}
            return (), map_tensors(inputs, lambda tensor: tensor.to(_device(model)))
        if isinstance(inputs, Tensor):
            return (_first(inputs).to(_device(model)),), {}
    args, kwargs = example_arguments(model, example_inputs)
    random = torch.Generator().manual_seed(0)
    tables = [module.num_embeddings for module in model.modules() if isinstance(module, nn.Embedding)]
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    single = all(len(tensor) == 1 for tensor in tensors_in((args, kwargs)) if tensor.dim() > 1)

    def real(tensor: Tensor) -> Tensor:
        shape = (2, *tensor.shape[1:]) if single and tensor.dim() > 1 else tuple(tensor.shape)
        if tensor.is_floating_point():
            if not tensor.is_meta and tensor.numel() and (tensor != tensor.flatten()[0]).any():
                return tensor.detach().to(_device(model)).expand(shape)
            return torch.randn(shape, generator=random).to(_device(model), dtype if tensor.is_meta else tensor.dtype)
        if tensor.is_meta:
            return torch.zeros(shape, dtype=tensor.dtype, device=_device(model))
        constant = tensor.numel() > 1 and not (tensor != tensor.flatten()[0]).any()
        if constant and tables and tensor.dtype in (torch.int32, torch.int64):
            return torch.randint(min(tables), shape, generator=random).to(_device(model), tensor.dtype)
        return tensor.detach().to(_device(model)).expand(shape)

    return map_tensors(args, real), map_tensors(kwargs, real)


def activation_scales(model: nn.Module, arguments: Arguments, *, training: bool = False) -> tuple[Scales, Any]:
    """Run ``model`` once and measure what each of its modules gives.

    Args:
        model: The network; buffers, training flags and random state are as before afterwards.
        arguments: What it is called with.
        training: Normalise by the statistics of the batch, as in training; dropout never acts.

    Returns:
        The root mean square of every module's (first) output, and what the network returned.
    """
    scales: Scales = {}
    calls: dict[str, int] = {}

    def watch(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            number = calls.get(name, 0)
            calls[name] = number + 1
            if (scale := root_mean_square(output)) is not None:
                scales[name, number] = scale

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in model.named_modules()]
    try:
        with running(model, training):
            result = model(*arguments[0], **arguments[1])
    finally:
        for handle in handles:
            handle.remove()
    return scales, result


def root_mean_square(output: Any) -> float | None:
    """Of the first tensor of real numbers in an output; None where there is none."""
    tensor = next((t for t in tensors_in([output]) if t.is_floating_point() and t.numel()), None)
    return None if tensor is None else float(tensor.detach().float().square().mean().sqrt())


@contextmanager
def running(model: nn.Module, training: bool = False) -> Iterator[None]:
    """Run ``model`` without traces: no gradients, and buffers, flags and random state are given back."""
    flags = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers() if not buffer.is_meta]
    members = [(module, dict(module._buffers)) for module in model.modules()]
    devices = [torch.cuda.current_device()] if _device(model).type == "cuda" else []
    try:
        for module, _ in flags:
            module.training = training and isinstance(module, nn.modules.batchnorm._NormBase)
        with torch.no_grad(), torch.random.fork_rng(devices):
            yield
    finally:
        for module, flag in flags:
            module.training = flag
        for module, own in members:
            module._buffers.clear()
            module._buffers.update(own)
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


def reason_against_running(model: nn.Module) -> str:
    """Why a network cannot be run in reasonable time, in words; empty where it can."""
    tensors = [*model.parameters(), *model.buffers()]
    if any(tensor.is_meta for tensor in tensors):
        return "the network has no values of its own on the meta device"
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if size > MAX_PROBE_BYTES:
        return f"its parameters take {size / 2**30:.1f} GB, more than {MAX_PROBE_BYTES / 2**30:.0f} GB"
    return ""


def _first(value: Any) -> Any:
    return value[:_SAMPLES] if isinstance(value, Tensor) and value.dim() else value


def _device(model: nn.Module) -> torch.device:
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device
