"""Floating-point tensors as shapes only, beside integers and booleans with values: the second tracing mode."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from hypergen.graph.tracing.shape_rules import ASK_PYTORCH, grouped_mm
from hypergen.graph.tracing.tensors import as_meta, storage_of

# Floats are known too where they follow from constants, as long as they are few; integers and booleans up to 128 MB.
_MAX_KNOWN_FLOATS = 2**20
_MAX_VALUES = 2**24


class UnknownValueError(RuntimeError):
    """A value was asked for that no shape tells."""


class KnownValues(TorchDispatchMode):
    """Runs every operation on shapes and, as far as its operands have values, on values.

    Integers and booleans (positions, masks, token ids, lengths) are real tensors on the CPU. Floats are meta tensors;
    those that follow from constants and buffers, and are few, have a real twin. So what is computed from values is
    known, whatever a network does with it: branch on it, index with it, or make a tensor of that size. Floating-point
    inputs and parameters have no values.

    Args:
        guess: Whether integers and booleans that depend on unknown floats, such as the routes of a mixture of experts,
            are made up, by computing them from random floats; else to ask for their values is an error.
    """

    def __init__(self, guess: bool) -> None:
        super().__init__()
        self.guess = guess
        self.generator = torch.Generator().manual_seed(0)
        self.twins: dict[int, Tensor] = {}  # by the id of a meta tensor
        self.kept: dict[int, list[Tensor]] = {}  # the meta tensors that have one, by storage

    def bring(self, tensor: Tensor, *, constant: bool) -> Tensor:
        """The tensor that stands in for one from outside; writing into it does not change that one.

        Args:
            tensor: Any tensor.
            constant: Whether its values are the network's own, so that floats among them are known.
        """
        if _is_float(tensor):
            meta = as_meta(tensor)
            if constant and not tensor.is_meta and tensor.numel() <= _MAX_KNOWN_FLOATS:
                self._remember(meta, tensor.detach().cpu().clone())
            return meta
        if not tensor.is_meta:
            return tensor.detach().cpu().clone()
        return torch.zeros(tensor.shape, dtype=tensor.dtype, device="cpu") if self.guess else tensor

    def value(self, tensor: Tensor) -> Tensor:
        """The tensor with its values.

        Raises:
            UnknownValueError: They are not known.
        """
        if not tensor.is_meta:
            return tensor
        if id(tensor) not in self.twins:
            kind = "floating-point " if tensor.is_floating_point() else ""
            raise UnknownValueError(f"the values of a {kind}tensor of shape {tuple(tensor.shape)} are not known")
        return self.twins[id(tensor)]

    def _remember(self, meta: Tensor, twin: Tensor) -> None:
        self.twins[id(meta)] = twin
        self.kept.setdefault(storage_of(meta), []).append(meta)

    def _forget(self, meta: Tensor) -> None:
        """Something unknown was written into this tensor and so into its views."""
        # They stay alive in `kept`, so that no other tensor gets their ids.
        for other in self.kept.get(storage_of(meta), ()):
            self.twins.pop(id(other), None)

    def _knows(self, tensor: Tensor) -> bool:
        return not tensor.is_meta or id(tensor) in self.twins

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves, tree = tree_flatten((args, kwargs or {}))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if tensors and not any(tensor.is_meta or tensor.is_floating_point() for tensor in tensors):
            result = self._on(func, leaves, tree, "cpu")
            if not any(_is_float(leaf) for leaf in tree_flatten(result)[0]):
                return result
        known = all(self._knows(tensor) for tensor in tensors) or func in _ASK_FOR_SHAPES
        written = [leaf for leaf in _written(func, args, kwargs or {}) if isinstance(leaf, Tensor)]
        if not known and any(not tensor.is_meta for tensor in written) and not self.guess:
            raise UnknownValueError(f"{func} writes values that are not known into a tensor that had some")
        shapes, failure = None, None
        try:
            shapes = self._on(func, [as_meta(leaf) if _on_cpu(leaf) else leaf for leaf in leaves], tree, "meta")
        except Exception as error:  # has no meta kernel, or its result's shape depends on values
            failure = error
        outputs = [leaf for leaf in tree_flatten(shapes)[0] if isinstance(leaf, Tensor)]
        if not known:
            for tensor in written:
                if tensor.is_meta:
                    self._forget(tensor)
        if failure is not None:
            # Which elements are taken is decided by the integers and booleans, not by the floats.
            integers = any(not tensor.is_meta and not _is_float(tensor) for tensor in tensors)
            decided = integers or (self.guess and func is not _ITEM)
            compute = known or decided
        else:
            compute = (known or self.guess) and self._worth_values(outputs, written, known)
        if not compute or any(tensor.numel() > _MAX_VALUES for tensor in tensors):
            if failure is not None:
                raise failure
            return shapes
        return self._with_values(func, leaves, tree, shapes, known)

    def _worth_values(self, outputs: list[Tensor], written: list[Tensor], known: bool) -> bool:
        if any(not tensor.is_meta for tensor in written):
            return True
        size = max((output.numel() for output in outputs), default=0)
        if any(not _is_float(output) for output in outputs):
            return size <= _MAX_VALUES
        return known and size <= _MAX_KNOWN_FLOATS

    def _with_values(self, func: Any, leaves: list[Any], tree: Any, shapes: Any, known: bool) -> Any:
        real = [self._real(leaf, func) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        result, result_tree = tree_flatten(self._on(func, real, tree, "cpu"))
        metas = tree_flatten(shapes)[0] if shapes is not None else [None] * len(result)
        given = {id(mine): theirs for mine, theirs in zip(real, leaves, strict=True) if isinstance(mine, Tensor)}
        for i, (output, meta) in enumerate(zip(result, metas, strict=True)):
            if not isinstance(output, Tensor):
                continue
            if id(output) in given:
                result[i] = given[id(output)]
            elif _is_float(output):
                result[i] = as_meta(output) if meta is None else meta
                if known and output.numel() <= _MAX_KNOWN_FLOATS and id(result[i]) not in self.twins:
                    self._remember(result[i], output)
        return tree_unflatten(result, result_tree)

    def _real(self, tensor: Tensor, func: Any) -> Tensor:
        if self._knows(tensor):
            return self.value(tensor)
        if not _is_float(tensor):
            if func in _ASK_FOR_SHAPES or self.guess:
                return torch.zeros(tensor.shape, dtype=tensor.dtype, device="cpu")
            raise UnknownValueError(f"{func} needs values that are not known")
        made_up = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
        return made_up.zero_() if func in _ASK_FOR_SHAPES else made_up.normal_(generator=self.generator)

    @staticmethod
    def _on(func: Any, leaves: list[Any], tree: Any, device: str) -> Any:
        args, kwargs = tree_unflatten(leaves, tree)
        if device == "meta" and func in _SHAPES and (shape := _SHAPES[func](*args, **kwargs)) is not ASK_PYTORCH:
            return shape
        if kwargs.get("device") is not None or any(argument.name == "device" for argument in func._schema.arguments):
            kwargs = {**kwargs, "device": torch.device(device)}
        if kwargs.get("pin_memory"):
            kwargs = {**kwargs, "pin_memory": False}
        result = func(*args, **kwargs)
        # What nobody has written yet is the same in every trace.
        return result.zero_() if func in _UNINITIALISED and device == "cpu" else result


_aten = torch.ops.aten
_ITEM = _aten._local_scalar_dense.default

# Their results follow from the shapes of their operands alone.
_ASK_FOR_SHAPES = frozenset(
    getattr(_aten, name).default
    for name in """zeros_like ones_like full_like new_zeros new_ones new_full empty_like new_empty new_empty_strided
    sym_size sym_stride sym_numel""".split()
    if hasattr(_aten, name)
)

# Where PyTorch's meta kernel asks for more than the kernels that compute.
_SHAPES = {_aten._grouped_mm.default: grouped_mm} if hasattr(_aten, "_grouped_mm") else {}

_UNINITIALISED = frozenset(
    getattr(_aten, name).default for name in ("empty_like", "new_empty", "new_empty_strided", "empty_strided")
) | {_aten.empty.memory_format}


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def _on_cpu(value: Any) -> bool:
    return isinstance(value, Tensor) and not value.is_meta


def _written(func: Any, args: Any, kwargs: Any) -> list[Any]:
    """The arguments that an operation writes into."""
    if not func._schema.is_mutable:
        return []
    written: list[Any] = []
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[i] if i < len(args) else kwargs.get(argument.name)
            written += value if isinstance(value, (tuple, list)) else [value]
    return written
