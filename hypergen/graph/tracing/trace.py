"""Module → computational graph, by one forward pass on meta tensors."""

from __future__ import annotations

import copy
import gc
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from hypergen.errors import TraceError
from hypergen.graph.calls import Calls
from hypergen.graph.computational_graph import ComputationalGraph, TracingMode
from hypergen.graph.inputs import example_arguments
from hypergen.graph.tracing.flex_attention import flex_attention_anywhere
from hypergen.graph.tracing.inventory import Inventory, swapped_tensors, take_inventory
from hypergen.graph.tracing.known_values import KnownValues
from hypergen.graph.tracing.modes import mentions_training
from hypergen.graph.tracing.recorder import Recorder
from hypergen.graph.tracing.tensors import map_tensors, tensors_in

# Networks up to this size are run with real values where meta tensors do not do.
_MAX_REAL_BYTES = 200 * 2**20


def trace(model: nn.Module, example_inputs: Any = None, *, both_modes: bool = True) -> ComputationalGraph:
    """Trace the computational graph of ``model`` by one forward pass on meta tensors.

    Costs no arithmetic and no memory, follows Python control flow, and leaves the model as it was. The network is
    traced in evaluation mode: dropout gets no node. A network that looks at values (``.item()``, branches on data) is
    run once more with integers and booleans for real; and if it asks for values of floats, as a copy with real values
    of everything, if its parameters are real and take at most 200 MB. The graph's
    ``tracing_mode`` says which of these served.

    Args:
        model: The network; it may live on the meta device.
        example_inputs: What ``model(...)`` is called with: a tensor, a tuple of positional arguments or a dict of
            keyword arguments, on any device. Worked out from the model where it tells them.
        both_modes: Whether the network is run in training mode, too, where its code looks at the mode: what it does
            there restricts :meth:`ComputationalGraph.symmetry`, nothing else.

    Returns:
        The operations in the order in which they ran, and the dataflow between them.

    Raises:
        TraceError: The model has uninitialised lazy parameters, its inputs could not be worked out, or its forward
            pass failed; the message names the module and the operation.
    """
    inventory = _checked_inventory(model)
    args, kwargs = example_arguments(model, example_inputs)
    return _trace_with_fallbacks(model, inventory, args, kwargs, both_modes)


def trace_with(
    model: nn.Module,
    example_inputs: Any,
    recorder: Callable[..., Recorder],
    modes: Sequence[TracingMode] = tuple(TracingMode),
    both_modes: bool = False,
) -> ComputationalGraph:
    """Trace with recorders of another class, which is called as :class:`Recorder` is.

    Raises:
        TraceError: As for :func:`trace`.
    """
    args, kwargs = example_arguments(model, example_inputs)
    return _trace_with_fallbacks(model, _checked_inventory(model), args, kwargs, both_modes, recorder, modes)


def _trace_with_fallbacks(
    model: nn.Module,
    inventory: Inventory,
    args: Any,
    kwargs: Any,
    both_modes: bool,
    recorder_type: Callable[..., Recorder] = Recorder,
    modes: Sequence[TracingMode] = tuple(TracingMode),
) -> ComputationalGraph:
    """Trace on meta tensors; where these do not do, with known integers, then with real values."""
    reason = _reason_against_values(inventory)
    failure: Exception | None = None
    where = ""
    with _random_state_kept(), _eagerly(), _without_collections(), torch.inference_mode(False):
        for mode in modes:
            if mode is TracingMode.REAL_VALUES and reason:
                continue
            recorder, network = None, model
            try:
                if mode is TracingMode.REAL_VALUES:
                    network = copy.deepcopy(model).cpu()
                    inventory = take_inventory(network)
                recorder = _recorder(recorder_type, inventory, mode, bool(reason))
                # On the way without arithmetic nobody asks for gradients, nor has to keep an autograd graph.
                with torch.set_grad_enabled(mode is TracingMode.REAL_VALUES):
                    graph = _run(network, recorder, args, kwargs)
                    if not both_modes:
                        return replace(graph, tracing_mode=mode)
                    recorders = partial(_recorder, recorder_type, inventory, mode, bool(reason))
                    further = _further_passes(network, graph, recorders, args, kwargs)
                    return replace(graph, further_passes=further, tracing_mode=mode)
            except Exception as error:
                failure, where = error, recorder.where(error) if recorder else ""
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors_in((args, kwargs))) or "none"
    way_out = "Pass `example_inputs=` that `model(...)` accepts."
    if reason:
        way_out = f"It was run on meta tensors, which have no values: {reason}. {way_out[:-1]}, or real parameters."
    raise TraceError(
        f"{type(model).__name__} could not be run on example inputs of shape {shapes}: "
        f"{type(failure).__name__}{where}: {failure}. {way_out}"
    ) from failure


def _recorder(recorder_type: Callable[..., Recorder], inventory: Inventory, mode: TracingMode, guess: bool) -> Recorder:
    values = KnownValues(guess=guess) if mode is TracingMode.KNOWN_INTEGERS else None
    return recorder_type(inventory, "cpu" if mode is TracingMode.REAL_VALUES else "meta", values)


def _further_passes(
    network: nn.Module, graph: ComputationalGraph, recorder: Callable[[], Recorder], args: Any, kwargs: Any
) -> tuple[Calls, ...]:
    """The calls in training mode, where they may be others.

    A network that cannot be run in training mode, for example because it then asks for labels, has none.
    """
    if not graph.unused_parameters and not any(map(mentions_training, network.modules())):
        return ()
    try:
        calls = _run(network, recorder(), args, kwargs, training=True).calls
    except Exception:
        return ()
    return () if calls is None or calls == graph.calls else (calls,)


def _run(model: nn.Module, recorder: Recorder, args: Any, kwargs: Any, training: bool = False) -> ComputationalGraph:
    args, kwargs = map_tensors(args, recorder.add_input), map_tensors(kwargs, recorder.add_input)
    swapped = swapped_tensors(recorder.inventory.modules, recorder.bring, recorder.enter, recorder.leave, training)
    with flex_attention_anywhere(), swapped, recorder:
        result = model(*args, **kwargs)
    return recorder.graph(result)


def _checked_inventory(model: nn.Module) -> Inventory:
    if not isinstance(model, nn.Module):
        raise TraceError(f"trace takes a torch.nn.Module, not {model!r}; a class has to be instantiated first.")
    inventory = take_inventory(model)
    scripted = [name for module, name in inventory.modules.items() if isinstance(module, torch.jit.ScriptModule)]
    if scripted:
        raise TraceError(
            f"{scripted[0] or type(model).__name__!r} is a compiled TorchScript module, into which hypergen cannot "
            "look; pass the Python module that it was made from."
        )
    lazy = [name for name, tensor in (inventory.parameters | inventory.buffers).items() if is_lazy(tensor)]
    if lazy:
        raise TraceError(
            f"{type(model).__name__} has lazy parameters without a shape yet ({', '.join(lazy[:5])}); run one forward "
            "pass (`model(inputs)`) so that they get their shapes, then trace."
        )
    return inventory


def _reason_against_values(inventory: Inventory) -> str:
    tensors = (inventory.parameters | inventory.buffers).values()
    if any(tensor.is_meta for tensor in tensors):
        return "its parameters are on the meta device"
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return f"its parameters take {size >> 20} MB, more than 200 MB" if size > _MAX_REAL_BYTES else ""


def _eagerly() -> AbstractContextManager[Any]:
    """Run what was given to ``torch.compile`` as the Python that it is; without the compiler there is nothing such."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


@contextmanager
def _without_collections() -> Iterator[None]:
    """Keep Python from looking for garbage: a search through all that is loaded can take longer than a trace."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """Leave the random state of PyTorch, Python and NumPy as it was; inside, it is always the same one."""
    states = torch.get_rng_state(), random.getstate(), numpy.random.get_state()
    torch.default_generator.manual_seed(0)
    random.seed(0)
    numpy.random.seed(0)
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        numpy.random.set_state(states[2])
