"""Module → computational graph, by one forward pass on meta tensors."""

from __future__ import annotations

import copy
import gc
import random
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from hypergen.errors import TraceError
from hypergen.graph.cache.cache import cache_folder, cached
from hypergen.graph.computational_graph import ComputationalGraph
from hypergen.graph.inputs import example_arguments
from hypergen.graph.tracing.flex_attention import flex_attention_anywhere
from hypergen.graph.tracing.inventory import Inventory, on_loan, take_inventory
from hypergen.graph.tracing.known_values import KnownValues
from hypergen.graph.tracing.recorder import Recorder
from hypergen.graph.tracing.tensors import map_tensors, tensors_in

# Networks up to this size are run with real values where meta tensors do not do.
_MAX_REAL_BYTES = 200 * 2**20


def trace(
    model: nn.Module, example_inputs: Any = None, *, cache: str | Path | bool | None = None
) -> ComputationalGraph:
    """Trace the computational graph of ``model`` by one forward pass on meta tensors.

    Costs no arithmetic and no memory, follows Python control flow, and leaves the model as it was. The network is
    traced in evaluation mode: dropout gets no node. A network that looks at values (``.item()``, branches on data) is
    run once more with integers and booleans for real; and if it asks for values of floats, as a copy with real values
    of everything, if its parameters are real and take at most 200 MB. The graph's ``rung`` says which of these served.

    Args:
        model: The network; it may live on the meta device.
        example_inputs: What ``model(...)`` is called with: a tensor, a tuple of positional arguments or a dict of
            keyword arguments, on any device. Worked out from the model where it tells them.
        cache: A folder in which traced graphs are kept; True for one of the user's own; False for none. By default what
            the environment variable ``HYPERGEN_CACHE`` says (a folder, ``on`` or ``off``); where it is not set, none.

    Returns:
        The operations in the order in which they ran, and the dataflow between them.

    Raises:
        TraceError: The model has uninitialised lazy parameters, its inputs could not be worked out, or its forward
            pass failed; the message names the module and the operation.
    """
    inventory = _checked_inventory(model)
    args, kwargs = example_arguments(model, example_inputs)
    folder = cache_folder(cache)
    if folder is None:
        return _climb(model, inventory, args, kwargs)
    return cached(folder, model, args, kwargs, lambda: _climb(model, inventory, args, kwargs))


def _climb(model: nn.Module, inventory: Inventory, args: Any, kwargs: Any) -> ComputationalGraph:
    """Trace on the first rung of the ladder that serves."""
    reason = _reason_against_values(inventory)
    failure: Exception | None = None
    where = ""
    with _random_state_kept(), _eagerly(), _without_collections(), torch.inference_mode(False):
        for rung in ("meta", "fake") if reason else ("meta", "fake", "real"):
            recorder, network, values = None, model, None
            try:
                if rung == "real":
                    network = copy.deepcopy(model).cpu()
                    inventory = take_inventory(network)
                elif rung == "fake":
                    values = KnownValues(guess=bool(reason))
                recorder = Recorder(inventory, "cpu" if rung == "real" else "meta", values)
                # On the way without arithmetic nobody asks for gradients, nor has to keep an autograd graph.
                with torch.set_grad_enabled(rung == "real"):
                    return replace(_run(network, recorder, args, kwargs), rung=rung)
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


def _run(model: nn.Module, recorder: Recorder, args: Any, kwargs: Any) -> ComputationalGraph:
    args, kwargs = map_tensors(args, recorder.add_input), map_tensors(kwargs, recorder.add_input)
    lent = on_loan(recorder.inventory.modules, recorder.bring, recorder.enter, recorder.leave)
    with flex_attention_anywhere(), lent, recorder:
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
