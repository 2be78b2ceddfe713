"""What a network is made of, and how to swap its tensors for one forward pass."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

# They spread work over devices and processes, which would wait for those, and compute what the module inside does.
_DISTRIBUTORS = (nn.DataParallel, nn.parallel.DistributedDataParallel)
# What they compute in training differs by noise and statistics alone.
_ALIKE_IN_TRAINING = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)
_CONTAINERS = frozenset((dict, OrderedDict, defaultdict, list, set, deque))


@dataclass
class Inventory:
    """Modules, parameters and buffers of a network, found in one walk in the order of registration.

    Attributes:
        modules: Module → its (first) dotted name.
        parameters: Name → parameter; tied parameters once, as in ``named_parameters()``.
        tied: Alias name → the name that carries it.
        buffers: Name → buffer, shared ones once.
    """

    modules: dict[nn.Module, str] = field(default_factory=dict)
    parameters: dict[str, Tensor] = field(default_factory=dict)
    tied: dict[str, str] = field(default_factory=dict)
    buffers: dict[str, Tensor] = field(default_factory=dict)


def take_inventory(model: nn.Module) -> Inventory:
    """Walk through ``model`` once; what is reached by several names keeps the first."""
    inventory = Inventory()
    carriers: dict[int, str] = {}
    seen: set[int] = set()

    def visit(module: nn.Module, prefix: str, ancestors: tuple[nn.Module, ...]) -> None:
        inventory.modules.setdefault(module, prefix[:-1])
        for leaf, parameter in module._parameters.items():
            if parameter is not None:
                name = prefix + leaf
                carrier = carriers.setdefault(id(parameter), name)
                if carrier == name:
                    inventory.parameters[name] = parameter
                else:
                    inventory.tied[name] = carrier
        for leaf, buffer in module._buffers.items():
            if buffer is not None and id(buffer) not in seen:
                seen.add(id(buffer))
                inventory.buffers[prefix + leaf] = buffer
        for leaf, child in module._modules.items():
            if child is not None and child not in ancestors:  # a child may hold its parent
                visit(child, f"{prefix}{leaf}.", (*ancestors, module))

    visit(model, "", ())
    return inventory


@contextmanager
def swapped_tensors(
    modules: dict[nn.Module, str],
    substitute: Callable[[Tensor], Tensor],
    enter: Callable[[nn.Module, Any], None],
    leave: Callable[[nn.Module, Any, Any], None],
    training: bool = False,
) -> Iterator[None]:
    """Temporarily swap the tensors and hooks of a network for one forward pass.

    A forward pass may assign attributes or fill lists and dicts (caches of masks or positions, the flat weights of an
    LSTM); stand-ins must not stay in there. So all attributes, and the contents of containers among them, are noted
    before and put back afterwards.

    Args:
        modules: The modules of the network; those that only distribute another one hand everything on to it.
        substitute: Parameter or buffer → the tensor that takes its place.
        enter: Called with a module before its forward pass, ahead of its own hooks.
        leave: Called with a module after its forward pass, behind its own hooks; after an exception, too.
        training: Whether the pass is in training mode; normalisations and dropout are in evaluation mode all the same,
            as they compute alike and may refuse a batch of one.
    """
    notes = [(module.__dict__, module.__dict__.copy(), _contents(module.__dict__)) for module in modules]
    try:
        for module, (state, _, _) in zip(modules, notes, strict=True):
            state["training"] = training and not isinstance(module, _ALIKE_IN_TRAINING)
            for tensors in (state["_parameters"], state["_buffers"]):
                for name, tensor in tensors.items():
                    if tensor is not None:
                        tensors[name] = substitute(tensor)
            state["_forward_pre_hooks"]["hypergen"] = enter
            state["_forward_pre_hooks"].move_to_end("hypergen", last=False)
            state["_forward_hooks"]["hypergen"] = leave
            state["_forward_hooks_always_called"]["hypergen"] = True
        for module in modules:
            if isinstance(module, _DISTRIBUTORS):
                module.__dict__["forward"] = module.module
        yield
    finally:
        for state, attributes, contents in notes:
            for key in state.keys() - attributes.keys():
                del state[key]
            state.update(attributes)
            for container, content in contents:
                if container or content:
                    container.clear()
                    (container.extend if isinstance(container, (list, deque)) else container.update)(content)


def _contents(state: dict[str, Any]) -> list[tuple[Any, Any]]:
    return [(value, value.copy() if value else ()) for value in state.values() if type(value) in _CONTAINERS]
