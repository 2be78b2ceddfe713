"""Module → computational graph, by one forward pass on meta tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks
from torch.overrides import TorchFunctionMode

from hypergen.errors import TraceError
from hypergen.graph.computational_graph import ComputationalGraph, OpNode, edge_tensor
from hypergen.graph.inputs import example_arguments
from hypergen.graph.operations import ARGUMENTS, ATTRIBUTES, SHAPE_OPS, TRANSPARENT, canonical_name


def trace(model: nn.Module, example_inputs: Any = None) -> ComputationalGraph:
    """Trace the computational graph of ``model`` by one forward pass on meta tensors.

    Costs no arithmetic and no memory, follows Python control flow, and leaves the model as it was. The network is
    traced in evaluation mode: dropout gets no node.

    Args:
        model: The network; it may live on the meta device.
        example_inputs: What ``model(...)`` is called with: a tensor, a tuple of positional arguments or a dict of
            keyword arguments. Worked out from the model where it tells them.

    Returns:
        The operations in the order in which they ran, and the dataflow between them.

    Raises:
        TraceError: The model has uninitialised lazy parameters, its inputs could not be worked out, or its forward
            pass failed; the message names the module and the operation.
    """
    lazy = [name for name, p in model.named_parameters() if isinstance(p, nn.parameter.UninitializedParameter)]
    if lazy:
        raise TraceError(
            f"{type(model).__name__} has lazy parameters without a shape yet ({', '.join(lazy[:5])}); run one forward "
            "pass (`model(inputs)`) so that they get their shapes, then trace."
        )
    args, kwargs = example_arguments(model, example_inputs)
    parameters = {name: _as_meta(p) for name, p in model.named_parameters()}
    buffers = {name: _as_meta(b) for name, b in model.named_buffers()}
    recorder = _Recorder(model, parameters)
    meta_args, meta_kwargs = _map_tensors(args, recorder.add_input), _map_tensors(kwargs, recorder.add_input)
    try:
        with _evaluation_mode(model), torch.enable_grad(), recorder.following_modules(), torch.device("meta"), recorder:
            torch.func.functional_call(model, {**parameters, **buffers}, meta_args, meta_kwargs)
    except Exception as error:
        where = f" in module {recorder.module_name!r}" if recorder.module_name else ""
        shapes = ", ".join(str(tuple(t.shape)) for t in _tensors((meta_args, meta_kwargs)))
        raise TraceError(
            f"{type(model).__name__} could not be run on example inputs of shape {shapes}: {type(error).__name__}"
            f"{where}, after operation {recorder.last_operation!r}: {error}. Pass `example_inputs=` that "
            "`model(...)` accepts."
        ) from error
    return recorder.graph(_tied_parameters(model))


def _as_meta(tensor: Tensor) -> Tensor:
    meta = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    return nn.Parameter(meta, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else meta


def _tied_parameters(model: nn.Module) -> dict[str, str]:
    carrier = {id(p): name for name, p in model.named_parameters()}
    everything = model.named_parameters(remove_duplicate=False)
    return {name: carrier[id(p)] for name, p in everything if carrier[id(p)] != name}


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    flags = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in flags:
            module.training = False
        yield
    finally:
        for module, training in flags:
            module.training = training


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)


def _map_tensors(value: Any, function: Any) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, (tuple, list)):
        items = [_map_tensors(item, function) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if type(value) is dict:
        return {key: _map_tensors(item, function) for key, item in value.items()}
    return value


class _Recorder(TorchFunctionMode):
    """Sees every high-level operation, and follows tensors by identity.

    A tensor is known in one of three ways: a node produced it, it is (a view of) parameters, or it is a constant.
    """

    def __init__(self, model: nn.Module, parameters: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.nodes: list[OpNode] = []
        self.edges: list[tuple[int, int]] = []
        self.producer: dict[int, int] = {}  # id of a tensor → the node that produced it
        self.names: dict[int, tuple[str, ...]] = {id(p): (name,) for name, p in parameters.items()}
        self.alive: list[Any] = [parameters]  # an id stays unique only as long as its tensor lives
        self.constants: dict[int, Tensor] = {}
        self.parameter_shapes = {name: tuple(p.shape) for name, p in parameters.items()}
        self.read: set[str] = set()
        self.module_names = {id(module): name for name, module in model.named_modules()}
        self.stack: list[str] = []
        self.failed_in: str | None = None
        self.last_operation = "input"

    @property
    def module_name(self) -> str:
        return self.stack[-1] if self.stack else ""

    @contextmanager
    def following_modules(self) -> Iterator[None]:
        """Keep the stack of running modules; after an exception it names the module that failed."""

        def enter(module: nn.Module, _: Any) -> None:
            self.stack.append(self.module_names.get(id(module), self.module_name))

        def leave(module: nn.Module, *_: Any) -> None:
            self.stack.pop()

        handles = [
            module_hooks.register_module_forward_pre_hook(enter),
            module_hooks.register_module_forward_hook(leave),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def add_input(self, tensor: Tensor) -> Tensor:
        meta = tensor.detach().to("meta")
        self.producer[id(meta)] = self._add_node(OpNode("input", shape=tuple(meta.shape)), [])
        self.alive.append(meta)
        return meta

    def _add_node(self, node: OpNode, sources: list[int]) -> int:
        self.nodes.append(node)
        index = len(self.nodes) - 1
        self.edges += [(source, index) for source in dict.fromkeys(sources)]
        return index

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # Tensors that a module keeps outside its buffers are real; they join the others on the meta device.
        if any(t.device.type != "meta" for t in _tensors((args, kwargs))):
            args, kwargs = _map_tensors(args, self._constant_on_meta), _map_tensors(kwargs, self._constant_on_meta)
        name = func.__name__
        if name == "to" or name in ("cpu", "cuda"):  # stay on the meta device
            args = tuple("meta" if isinstance(a, (torch.device, str)) else a for a in args)
            kwargs = {key: ("meta" if key == "device" else value) for key, value in kwargs.items()}
            if name != "to":
                return args[0]
        elif name == "__get__":
            name = func.__self__.__name__
        result = func(*args, **kwargs)
        outputs = [result] if isinstance(result, Tensor) else list(_tensors(result))
        if outputs or name == "__setitem__":
            self._record(canonical_name(name), func, args, kwargs, outputs or [args[0]])
        return result

    def _constant_on_meta(self, tensor: Tensor) -> Tensor:
        if tensor.device.type == "meta":
            return tensor
        if id(tensor) not in self.constants:
            self.constants[id(tensor)] = _as_meta(tensor)
            self.alive.append(tensor)
        return self.constants[id(tensor)]

    def _record(self, op: str, func: Any, args: Any, kwargs: Any, outputs: list[Tensor]) -> None:
        inputs = list(_tensors((args, kwargs)))
        sources = [self.producer[id(t)] for t in inputs if id(t) in self.producer]
        names = [name for t in inputs for name in self.names.get(id(t), ())]
        moves_data = op in TRANSPARENT or op in SHAPE_OPS
        self.alive.append(outputs)
        if not sources and (moves_data or not names):  # a view of parameters, or a constant
            for output in outputs:
                if names:
                    self.names[id(output)] = tuple(dict.fromkeys(names))
            return
        self.last_operation = op
        if op in TRANSPARENT and not names:
            node = self.producer[id(inputs[0])] if id(inputs[0]) in self.producer else sources[0]
        else:
            bound = {**dict(zip(ARGUMENTS.get(op, ()), args, strict=False)), **kwargs}
            attributes = {key: value for key, value in bound.items() if key in ATTRIBUTES and value is not None}
            parameters = self._roles(bound, names)
            self.read.update(names)
            shape = tuple(outputs[0].shape)
            node = self._add_node(OpNode(op, self.module_name, parameters, shape, attributes), sources)
        for output in outputs:
            self.producer[id(output)] = node

    def _roles(self, bound: Mapping[str, Any], names: list[str]) -> dict[str, str]:
        """Role → name for the parameters that no earlier operation has read: each belongs to one node."""
        fresh = [name for name in dict.fromkeys(names) if name not in self.read]
        if not fresh:
            return {}
        roles: dict[str, str] = {}
        for role, value in bound.items():
            for name in self.names.get(id(value), ()) if isinstance(value, Tensor) else ():
                if name in fresh and role not in ("input", "other"):
                    roles.setdefault(role, name)
        for name in fresh:
            if name not in roles.values():
                leaf = name.rpartition(".")[2]
                roles[leaf if leaf not in roles else f"{leaf}{len(roles)}"] = name
        return roles

    def graph(self, tied: Mapping[str, str]) -> ComputationalGraph:
        unused = tuple(name for name in self.parameter_shapes if name not in self.read)
        return ComputationalGraph(tuple(self.nodes), edge_tensor(self.edges), self.parameter_shapes, unused, tied)
