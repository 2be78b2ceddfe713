"""Sees every high-level operation of a forward pass, and where its tensors come from."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors

from hypergen.graph.calls import CallLog
from hypergen.graph.computational_graph import ComputationalGraph, OpNode, edge_tensor
from hypergen.graph.operations import (
    CONSTANT_OPS,
    FIRST_OPERAND_OPS,
    MERGED,
    METADATA,
    OVERWRITING,
    RESHAPES,
    SHAPE_OPS,
    TRANSPARENT,
    operation_name,
)
from hypergen.graph.tracing.arguments import attributes_of, bound_arguments, in_order, role_names
from hypergen.graph.tracing.attention import fold_attention
from hypergen.graph.tracing.inventory import Inventory
from hypergen.graph.tracing.shape_rules import ASK_PYTORCH, RULES
from hypergen.graph.tracing.tensors import as_meta, covers, map_tensors, overlap, span, storage_of, tensors_in

if TYPE_CHECKING:
    from hypergen.graph.tracing.known_values import KnownValues

# Where a tensor comes from: the node that produced it, or the parameters that it is (a view of); no parameters: it is a
# constant of the network.
Origin = int | tuple[str, ...]
CONSTANT: Origin = ()


class Overwritten(NamedTuple):
    """Where a tensor comes from whose memory was written into through another tensor; settled when it is read."""

    before: Origin | Overwritten
    by: Origin
    wholly: bool


class Recorder(TorchFunctionMode):
    """Writes down the operations of one forward pass as a graph.

    Tensors are followed by identity. Where an operation writes into a tensor, the tensors that share its memory come
    from that operation, too.

    Args:
        inventory: The network.
        device: ``"meta"``, or ``"cpu"`` for a pass with real values. Everything is kept on this device, whatever the
            network asks for.
        values: On the meta device: knows the values of integers and booleans, which are then on the CPU.
    """

    def __init__(self, inventory: Inventory, device: str, values: KnownValues | None = None) -> None:
        super().__init__()
        self.inventory = inventory
        self.device = device
        self.values = values
        self.made_on = "cpu" if values else device
        self.nodes: list[OpNode] = []
        self.edges: list[tuple[int, int]] = []
        self.operands: dict[int, list[tuple[Tensor, Origin]]] = {}  # by node: what it read, and where from
        self.origins: dict[int, Origin | Overwritten] = {}  # by the id of a tensor
        self.sharing: dict[int, list[Tensor]] = {}  # by storage; also keeps the tensors alive, so that ids stay unique
        self.moved: dict[int, Tensor] = {}  # id of a tensor from outside → the one that stands in for it here
        self.outside: list[Tensor] = []
        self.read: set[str] = set()
        self.log = CallLog(self._relatives)
        self.stack: list[tuple[nn.Module | None, str]] = [(None, "")]
        self.running: str | None = None
        self.failure: tuple[BaseException | None, str] = (None, "")
        for name, parameter in inventory.parameters.items():
            self._know(self.bring(parameter), (name,))

    # Tensors

    def bring(self, tensor: Tensor) -> Tensor:
        """The tensor that stands in for one from outside, on the recorder's device."""
        if self._is_here(tensor):
            return tensor
        if id(tensor) not in self.moved:
            self.outside.append(tensor)
            if self.values:
                here = self.values.bring(tensor, constant=not isinstance(tensor, nn.Parameter))
            else:
                here = as_meta(tensor) if self.device == "meta" else tensor.to(self.device)
            self.moved[id(tensor)] = here
        return self.moved[id(tensor)]

    def _is_here(self, tensor: Tensor) -> bool:
        if tensor.device.type == self.device:
            # An integer on the meta device that nobody here has made has no value yet.
            return self.values is None or tensor.is_floating_point() or id(tensor) in self.origins
        return self.values is not None and not tensor.is_floating_point() and id(tensor) in self.origins

    def add_input(self, tensor: Tensor) -> Tensor:
        """Give the network a tensor as an input."""
        if self.values:
            here = self.values.bring(tensor.detach(), constant=False)
        elif self.device == "meta":
            here = as_meta(tensor.detach())
        elif tensor.is_meta:  # only its shape is known
            here = torch.zeros(tensor.shape, dtype=tensor.dtype)
            here = here.uniform_() if here.is_floating_point() else here
        else:
            here = tensor.detach().cpu().clone()
        self._know(here.requires_grad_(tensor.requires_grad), self._add_node(OpNode("input", shape=tuple(here.shape))))
        self.log.inputs.append(self.log.value(here))
        return here

    def _know(self, tensor: Tensor, origin: Origin | Overwritten) -> None:
        storage = storage_of(tensor)
        self.origins[id(tensor)] = origin
        self.sharing.setdefault(storage, []).append(tensor)
        if storage < 0 and is_functorch_wrapped_tensor(tensor):  # vmap hands out what is inside
            self._know(get_unwrapped(tensor), origin)

    def _origin(self, tensor: Tensor) -> Origin:
        origin = self.origins.get(id(tensor))
        if origin is None and is_functorch_wrapped_tensor(tensor):
            return self._origin(get_unwrapped(tensor))
        if origin is None:
            # Made where nobody looks: an attribute of a module, or an alias of a tensor, as `nn.Parameter(x)` and an
            # autograd function that returns its input make them.
            origin = CONSTANT
            for other in self.sharing.get(storage_of(tensor), ()):
                if overlap(tensor, other):
                    origin = self.origins[id(other)]
            self._know(tensor, origin)
        if isinstance(origin, Overwritten):
            origin = self.origins[id(tensor)] = self._settled(tensor, origin)
        return origin

    def _settled(self, tensor: Tensor, origin: Origin | Overwritten) -> Origin:
        """The origin of a tensor after others were written that share its memory: another view of what was written."""
        if not isinstance(origin, Overwritten):
            return origin
        parts = [origin.by] if origin.wholly else [self._settled(tensor, origin.before), origin.by]
        sources = [part for part in parts if isinstance(part, int)]
        names = [name for part in parts if isinstance(part, tuple) for name in part]
        if not sources and (origin.wholly or not names):
            return tuple(names)
        if not origin.wholly:
            op = "setitem"
        elif tensor.numel() < math.prod(self.nodes[sources[0]].shape):
            op = "getitem"
        else:
            op = "reshape" if tensor.is_contiguous() else "as_strided"
        node = self._add_node(self._node(op, {}, names, [tensor], tensor), sources)
        self.operands[node] = [(tensor, part) for part in parts]
        return node

    def _relatives(self, tensor: Tensor) -> list[Tensor]:
        """The tensors seen so far that share elements with this one."""
        others = self.sharing.get(storage_of(tensor), ())
        return [other for other in others if other is not tensor and overlap(tensor, other)]

    def _write(self, tensor: Tensor, origin: Origin) -> None:
        self.origins[id(tensor)] = origin
        for other in self.sharing.get(storage_of(tensor), ()):
            if other is not tensor and overlap(tensor, other):
                same = other.shape == tensor.shape and span(other) == span(tensor)
                wholly = covers(tensor, other)
                self.origins[id(other)] = origin if same else Overwritten(self.origins[id(other)], origin, wholly)

    # Modules

    def enter(self, module: nn.Module, _: Any) -> None:
        """Note that a module starts to run."""
        self.stack.append((module, self.inventory.modules[module]))

    def leave(self, module: nn.Module, _: Any, __: Any) -> None:
        """Note that a module has run, or raised: the innermost one says where that was."""
        error = sys.exception()
        if error is not None and error is not self.failure[0]:
            self.failure = error, self._where()
        if self.stack[-1][0] is module:  # else somebody's hook raised before it entered
            self.stack.pop()

    def where(self, error: Exception) -> str:
        """What was running when this error was raised, in words."""
        return self.failure[1] if self.failure[0] is error else self._where()

    def _where(self) -> str:
        module, name = self.stack[-1]
        words = f" in module {name!r} ({type(module).__name__})" if name else ""
        if self.running:
            return f"{words} in operation {self.running!r}"
        return f"{words} after operation {self.nodes[-1].op!r}" if self.nodes else words

    # Operations

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        op = operation_name(func)
        if op in METADATA:
            return func(*args, **kwargs) if self.values is None or op != "device" else torch.device(self.made_on)
        self.running = op
        inputs = tensors_in((args, kwargs) if kwargs else args)
        if any(not self._is_here(tensor) for tensor in inputs):
            args, kwargs = map_tensors(args, self.bring), map_tensors(kwargs, self.bring)
            inputs = [self.bring(tensor) for tensor in inputs]
        if op in _MOVES:
            return args[0]
        if op in _LEAVES and self.values:
            args = self.values.value(args[0]), *args[1:]
        args, kwargs = self._on_device(func, op, args, kwargs)
        result = ASK_PYTORCH
        if self.device == "meta" and self.values is None and (rule := RULES.get(func)):
            try:
                result = rule(*args, **kwargs)
            except Exception:  # not called as it should be: PyTorch says it better
                result = ASK_PYTORCH
        if result is ASK_PYTORCH:
            with self.values or _NO_VALUES:
                result = func(*args, **kwargs)
        outputs = tensors_in((result,))
        if not outputs and op == "setitem":
            outputs = inputs[:1]
        if op == "set_data":
            self.origins[id(inputs[0])] = self._origin(inputs[1])
            self.log.values[id(inputs[0])] = self.log.value(inputs[1])
        elif op in _READS:
            self.log.add(func, op, args, kwargs, [])
        elif outputs:
            self.log.add(func, op, args, kwargs, outputs)
            self._record(func, op, args, kwargs, inputs, outputs)
        self.running = None
        return result

    def _on_device(self, func: Any, op: str, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Arguments that keep the operation on this device."""
        if op == "to":
            args = tuple(self.device if isinstance(a, (torch.device, str)) or type(a) is int else a for a in args)
        if kwargs.get("device") is not None or (self.device == "meta" and func in _FACTORIES):
            kwargs = {**kwargs, "device": self.made_on}
        return args, kwargs

    def _record(
        self,
        func: Any,
        op: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        inputs: list[Tensor],
        outputs: list[Tensor],
    ) -> None:
        if len(kwargs) > 1:
            kwargs = in_order(op, func, kwargs)
            inputs = tensors_in((args, kwargs))
        overwrites = op in OVERWRITING
        if op in FIRST_OPERAND_OPS:
            inputs = inputs[:1]
        elif overwrites:
            inputs = inputs[1:]
        origins = [self._origin(tensor) for tensor in inputs] if op not in CONSTANT_OPS else []
        sources = [origin for origin in origins if isinstance(origin, int)]
        names = [name for origin in origins if isinstance(origin, tuple) for name in origin]
        written = outputs if overwrites else [o for o in outputs if any(o is tensor for tensor in inputs)]
        # To append to an empty cache changes nothing.
        transparent = op in TRANSPARENT or (op == "cat" and sum(tensor.numel() > 0 for tensor in inputs) == 1)
        transparent |= (op in RESHAPES or op == "copy") and inputs[0].shape == outputs[0].shape
        moves_data = transparent or op in SHAPE_OPS
        if not overwrites and all(id(o) in self.origins for o in outputs) and (moves_data or not written):
            return  # nothing new, as `x.flatten()` of a vector
        origin: Origin
        if not sources and (moves_data or not names):
            origin = tuple(dict.fromkeys(names))
        elif transparent:
            origin = sources[0]
        else:
            bound = bound_arguments(op, func, args, kwargs)
            origin = self._add_node(self._node(op, bound, names, inputs, outputs[0]), sources)
            self.operands[origin] = list(zip(inputs, origins, strict=False))
        for output in outputs:
            if id(output) not in self.origins:
                self._know(output, origin)
        if isinstance(origin, int) or overwrites:
            for output in written:
                self._write(output, origin)

    def _node(
        self, op: str, bound: Mapping[str, Any], names: list[str], inputs: list[Tensor], output: Tensor
    ) -> OpNode:
        op = MERGED.get(op, op)
        attributes = attributes_of(op, bound, inputs[0].dim() if inputs else 0, output.dim())
        parameters: dict[str, str] = {}
        shared: dict[str, str] = {}
        if names:  # each belongs to the first operation that reads it
            parameters = self._roles(op, bound, [name for name in names if name not in self.read])
            shared = self._roles(op, bound, [name for name in names if name in self.read])
            self.read.update(names)
        return OpNode(op, self.stack[-1][1], parameters, tuple(output.shape), attributes, shared)

    def _add_node(self, node: OpNode, sources: Iterable[int] = ()) -> int:
        self.nodes.append(node)
        index = len(self.nodes) - 1
        self.edges += [(source, index) for source in dict.fromkeys(sources)]
        return index

    def _roles(self, op: str, bound: Mapping[str, Any], names: list[str]) -> dict[str, str]:
        """Role → name."""
        roles: dict[str, str] = {}
        named = role_names(op)
        for role, value in bound.items() if names else ():
            origin = self.origins.get(id(value)) if role in named and isinstance(value, Tensor) else None
            for name in origin if isinstance(origin, tuple) else ():
                if name in names:
                    roles.setdefault(role, name)
        for name in dict.fromkeys(names):
            if name not in roles.values():
                parts = [part for part in name.split(".") if not part.isdigit()]  # a ParameterList numbers its own
                leaf = role = parts[-1] if parts else "parameter"
                number = 0
                while role in roles:
                    number += 1
                    role = f"{leaf}{number}"
                roles[role] = name
        return roles

    def _outputs(self, result: Any) -> tuple[int, ...]:
        origins = [self._origin(tensor) for tensor in tensors_in(_plain(result))]
        return tuple(dict.fromkeys(origin for origin in origins if isinstance(origin, int)))

    def graph(self, result: Any = None) -> ComputationalGraph:
        """What has been recorded, of a pass that returned ``result``."""
        parameters = self.inventory.parameters
        own = {name: self.bring(parameter) for name, parameter in parameters.items()}
        buffers = {name: self.moved.get(id(buffer), buffer) for name, buffer in self.inventory.buffers.items()}
        nodes, edges, outputs = fold_attention(self.nodes, self.edges, self.operands, self._outputs(result))
        return ComputationalGraph(
            tuple(nodes),
            edge_tensor(edges),
            {name: tuple(parameter.shape) for name, parameter in parameters.items()},
            tuple(name for name in parameters if name not in self.read),
            self.inventory.tied,
            outputs,
            calls=self.log.finish(own, buffers, result),
            parameter_dtypes={name: parameter.dtype for name, parameter in parameters.items()},
        )


_FACTORIES = _device_constructors()
_NO_VALUES = nullcontext()
# What hands values to Python, on which everything may depend.
_READS = frozenset(("item", "tolist", "numpy", "array", "equal", "allclose", "index"))
_MOVES = frozenset(("cpu", "cuda", "xpu", "mps"))
_LEAVES = frozenset(("tolist", "numpy", "array"))  # PyTorch for Python's or NumPy's numbers


def _plain(result: Any) -> tuple[Any, ...]:
    """What a network returned, where it is an object of the network's own as the values of its attributes."""
    if tensors_in((result,)) or not hasattr(result, "__dict__"):
        return (result,)
    return tuple(vars(result).values())
