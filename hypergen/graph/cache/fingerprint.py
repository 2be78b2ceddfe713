"""A content hash of all that decides a network's computational graph."""

from __future__ import annotations

import builtins
import enum
import functools
import hashlib
import logging
import platform
import sys
import types
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hypergen.graph.cache.origins import (
    PURE,
    file_facts,
    file_of,
    imports_of,
    is_installed,
    is_known,
    is_standard,
    own_code,
    package_of,
)

_PLAIN = frozenset((type(None), bool, int, float, complex, str, bytes, type(...), range, slice))
_PRINTED = frozenset((torch.dtype, torch.device, torch.layout, torch.memory_format))
_LEFT_OUT = frozenset(("training", "_compiled_call_impl"))
_CONTAINERS = frozenset((dict, OrderedDict, set))  # one that is empty is like one that is not there
# What a class has that no forward pass looks at, or that is hashed in another way.
_SKIPPED = frozenset(
    """__dict__ __weakref__ __doc__ __module__ __abstractmethods__ __annotations__ __annotate__ __annotate_func__
    __annotations_cache__ __firstlineno__ __static_attributes__ __type_params__ __parameters__ __orig_bases__ _abc_impl
    __match_args__ __dataclass_params__ __qualname__ __slots__ __conditional_annotations__""".split()
)
_MOST_FLOATS, _MOST_VALUES = 2**20, 2**24  # a trace knows the values of no more


class UnknownContentError(Exception):
    """Something on a network cannot be hashed so that equal hashes mean equal graphs."""


def fingerprint(model: nn.Module, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> str:
    """Hash what a trace of ``model(*args, **kwargs)`` depends on.

    That is: the tree of modules with their names, classes and attributes, hooks and parametrisations; the names,
    shapes, types and tying of parameters and buffers, and the values of buffers and other constants; the code of all
    classes and functions that lie outside of installed packages, with the functions and values that it refers to; the
    versions of the packages that the rest comes from; the arguments, and the version of Python, PyTorch and hypergen.
    Values of parameters, names of floating-point inputs and whether the network trains are not part of it.

    Args:
        model: The network.
        args: Positional arguments of the forward pass.
        kwargs: Keyword arguments of the forward pass.

    Returns:
        64 hexadecimal digits.

    Raises:
        UnknownContentError: The network holds something whose content is not known, as an open file, an object of a
            foreign language, or a function that looks at the clock; the message says what.
    """
    hasher = _Hasher()
    hasher.add("hypergen", own_code(), sys.version, platform.machine(), str(torch.__version__))
    hasher.add(torch.get_default_dtype(), torch.get_default_device(), torch.is_autocast_enabled())
    hasher.add(torch.backends.mha.get_fastpath_enabled())
    hasher.add(model, *args, **(kwargs or {}))
    return hasher.digest()


class _Hasher:
    """Feeds values into a hash, each with its type, and objects that come again by number."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.numbers: dict[int, int] = {}
        self.storages: dict[int, int] = {}
        self.kept: list[Any] = []  # so that ids stay unique
        self.path: list[str] = []
        self.writers: dict[type, Callable[[_Hasher, Any], None]] = {}

    def digest(self) -> str:
        """The hash of all that was added."""
        # Every part is written with its length: no two sequences of parts are the same text.
        text = b"".join(b"%d:%b" % (len(part), part) for part in self.parts)
        return hashlib.blake2b(text, digest_size=32).hexdigest()

    def add(self, *values: Any, **named: Any) -> None:
        """Hash values."""
        for value in values:
            self._value(value)
        self._items(named)

    def _write(self, *words: Any) -> None:
        self.parts += [str(word).encode("utf-8", "surrogatepass") for word in words]

    def _unknown(self, what: str) -> UnknownContentError:
        return UnknownContentError(f"{what} at {'.'.join(self.path) or 'the top'}")

    def _value(self, value: Any) -> None:
        kind = type(value)
        if kind in _PLAIN:
            self._write(kind.__name__, repr(value))
            return
        if kind in _PRINTED:
            self._write(value)
            return
        number = self.numbers.get(id(value))
        if number is not None:
            self._write("again", number)
            return
        self.numbers[id(value)] = len(self.numbers)
        self.kept.append(value)
        writer = self.writers.get(kind)
        if writer is None:
            found = (_WRITERS[base] for base in kind.__mro__ if base in _WRITERS)
            writer = self.writers[kind] = next(found, _Hasher._object)
        writer(self, value)

    def _items(self, mapping: Mapping[Any, Any]) -> None:
        self._write("items", len(mapping))
        for key, value in mapping.items():
            self._value(key)
            self.path.append(str(key))
            self._value(value)
            self.path.pop()

    def _sequence(self, values: Any) -> None:
        self._class_of(values)
        self._write(len(values))
        for value in values:
            self._value(value)
        self._state(values)

    def _set(self, values: Any) -> None:
        self._class_of(values)
        if any(type(value) not in _PLAIN for value in values):
            raise self._unknown("a set of more than plain values")
        self._write(*sorted(repr(value) for value in values))

    def _mapping(self, values: Any) -> None:
        self._class_of(values)
        if hasattr(values, "default_factory"):
            self._value(values.default_factory)
        self._items(values)
        self._state(values)

    def _class_of(self, value: Any) -> None:
        self._value(type(value))

    def _enum(self, value: Any) -> None:
        self._class_of(value)
        self._write(value.name)

    def _module(self, module: nn.Module) -> None:
        self._class_of(module)
        write = self.parts.append
        for name, value in module.__dict__.items():
            kind = type(value)
            if name in _LEFT_OUT or (not value and kind in _CONTAINERS):
                continue
            if kind in _PLAIN:
                write(f"{name}:{kind.__name__}:{value!r}".encode("utf-8", "surrogatepass"))
                continue
            self._write(name)
            self.path.append(name)
            if name.endswith("_hooks"):  # the keys count hooks from the start of the program
                self.add(*value.values())
            elif "_hooks_" in name:
                self._write(len(value))
            elif kind is dict or kind is OrderedDict:
                self._items(value)
            else:
                self._value(value)
            self.path.pop()

    def _tensor(self, tensor: Tensor) -> None:
        parameter = isinstance(tensor, nn.Parameter)
        if type(tensor) not in (Tensor, nn.Parameter, nn.Buffer) or tensor.layout is not torch.strided:
            raise self._unknown(f"a {type(tensor).__name__} of layout {tensor.layout}")
        self._write("parameter" if parameter else "tensor", tuple(tensor.shape), tensor.dtype, tensor.stride())
        self._write(tensor.requires_grad, tensor.is_meta, tensor.storage_offset(), tensor.device.type)
        storage = tensor.untyped_storage()._cdata
        self._write(self.storages.setdefault(storage, len(self.storages)))  # what shares memory
        if vars(tensor):
            self._items(vars(tensor))
        most = _MOST_FLOATS if tensor.is_floating_point() or tensor.is_complex() else _MOST_VALUES
        if not parameter and not tensor.is_meta and tensor.numel() <= most:
            data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            self.parts.append(hashlib.blake2b(data.numpy().tobytes()).digest())

    def _array(self, array: np.ndarray[Any, Any]) -> None:
        if array.dtype.hasobject:
            raise self._unknown("an array of objects")
        self._write("array", array.shape, array.dtype.str)
        self.parts.append(hashlib.blake2b(np.ascontiguousarray(array).tobytes()).digest())

    def _plain_subclass(self, value: Any) -> None:
        self._class_of(value)
        plain = next(base for base in type(value).__mro__ if base in _PLAIN)
        self._write(repr(plain(value)))
        self._state(value)

    def _scalar(self, value: np.generic) -> None:
        self._write("scalar", value.dtype.str, repr(value.item()))

    def _logger(self, logger: logging.Logger) -> None:
        self._write("logger", logger.name)

    def _partial(self, partial: Any) -> None:
        self._write("partial")
        self.add(partial.func, *partial.args)
        self._items(partial.keywords)

    def _method(self, method: Any) -> None:
        self._write("method")
        self.add(method.__self__, method.__func__)

    def _python_module(self, module: types.ModuleType) -> None:
        name = module.__name__
        file = getattr(module, "__file__", None)
        if name.split(".")[0] in PURE or (file and is_installed(file) and not is_standard(file)):
            self._write("package", name, package_of(name))
            return
        raise self._unknown(f"the module {name!r}, whose content is not known")

    def _builtin(self, function: Any) -> None:
        owner = getattr(function, "__self__", None)
        if owner is not None and not isinstance(owner, (types.ModuleType, type)):
            self.add(owner)
        home = getattr(function, "__module__", None) or ""
        if home.split(".")[0] not in (*PURE, "", "torch", "numpy", "_operator", "_functools"):
            raise self._unknown(f"the function {home}.{function.__name__}")
        self._write("builtin", home, getattr(function, "__qualname__", function.__name__))

    # Code

    def _function(self, function: types.FunctionType) -> None:
        file = function.__code__.co_filename
        self._write("function", function.__module__, function.__qualname__, function.__code__.co_code.hex())
        self.add(function.__defaults__, function.__kwdefaults__)
        for cell in function.__closure__ or ():
            try:
                self._value(cell.cell_contents)
            except ValueError:  # empty
                self._write("empty")
        if hasattr(function, "__wrapped__"):
            self._value(function.__wrapped__)
        if is_installed(file):
            self._write(package_of(function.__module__), *file_facts(file))
        else:
            self._code(function.__code__, function.__globals__)

    def _code(self, code: types.CodeType, names: Mapping[str, Any]) -> None:
        self._write(code.co_code.hex(), code.co_names, code.co_varnames, code.co_freevars, code.co_flags)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self._code(constant, names)
            elif isinstance(constant, frozenset):
                self._set(constant)
            else:
                self._value(constant)
        for name in imports_of(code):
            if name.split(".")[0] not in PURE and package_of(name) == "":
                raise self._unknown(f"the import of {name!r} inside a function")
        attributes = [name for name in code.co_names if name not in names]
        for name in code.co_names:
            if name in names:
                value = names[name]
                self._write(name)
                if isinstance(value, types.ModuleType) and not is_known(value):
                    found = [getattr(value, attribute) for attribute in attributes if hasattr(value, attribute)]
                    if any(isinstance(other, types.ModuleType) for other in found) or is_standard(file_of(value)):
                        raise self._unknown(f"the module {value.__name__!r}")
                    self.add(*found)
                else:
                    self._value(value)
            elif name in ("open", "input", "eval", "exec", "globals", "__import__") and hasattr(builtins, name):
                raise self._unknown(f"a call of {name}")

    def _class(self, kind: type) -> None:
        module = kind.__module__
        self._write("class", module, kind.__qualname__)
        if module == "builtins":
            return
        file = file_of(sys.modules.get(module))
        if file and is_installed(file):
            forward = getattr(kind, "forward", None)
            self._write(package_of(module), *file_facts(file))
            if isinstance(forward, types.FunctionType):  # somebody may have put another one there
                self._write(forward.__module__, forward.__qualname__, forward.__code__.co_code.hex())
                if not is_installed(forward.__code__.co_filename):
                    self._value(forward)
            # Made while the program ran, as those of parametrisations: the parts are what it is.
            if "<locals>" in kind.__qualname__ or not hasattr(sys.modules[module], kind.__qualname__.split(".")[0]):
                self._members(kind)
            return
        if not file and module != "__main__":
            raise self._unknown(f"the class {module}.{kind.__qualname__}")
        self._members(kind)

    def _members(self, kind: type) -> None:
        self.add(*kind.__bases__)
        for name, member in vars(kind).items():
            if name in _SKIPPED:
                continue
            self._write(name)
            self.path.append(f"{kind.__qualname__}.{name}")
            if isinstance(member, (staticmethod, classmethod)):
                member = member.__func__
            if isinstance(member, property):
                self.add(member.fget, member.fset, member.fdel)
            elif isinstance(member, functools.cached_property):
                self._value(member.func)
            elif not isinstance(member, (types.MemberDescriptorType, types.GetSetDescriptorType)):
                self._value(member)
            self.path.pop()

    def _object(self, value: Any) -> None:
        """An object that is nothing but its class and its attributes."""
        kind = type(value)
        if kind.__flags__ & (1 << 9) == 0 or any(not b.__flags__ & (1 << 9) for b in kind.__mro__[:-1]):
            raise self._unknown(f"a {kind.__module__}.{kind.__qualname__}")
        self._class_of(value)
        self._state(value)

    def _state(self, value: Any) -> None:
        state = dict(getattr(value, "__dict__", {}))
        for base in type(value).__mro__:
            slots = base.__dict__.get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                    state[name] = getattr(value, name)
        self._items(state)


_WRITERS: dict[type, Callable[[_Hasher, Any], None]] = {
    nn.Module: _Hasher._module,
    Tensor: _Hasher._tensor,
    np.ndarray: _Hasher._array,
    np.generic: _Hasher._scalar,
    logging.Logger: _Hasher._logger,
    enum.Enum: _Hasher._enum,
    str: _Hasher._plain_subclass,
    int: _Hasher._plain_subclass,
    float: _Hasher._plain_subclass,
    tuple: _Hasher._sequence,
    list: _Hasher._sequence,
    set: _Hasher._set,
    frozenset: _Hasher._set,
    dict: _Hasher._mapping,
    functools.partial: _Hasher._partial,
    types.MethodType: _Hasher._method,
    types.ModuleType: _Hasher._python_module,
    types.BuiltinFunctionType: _Hasher._builtin,
    types.MethodDescriptorType: _Hasher._builtin,
    types.WrapperDescriptorType: _Hasher._builtin,
    types.FunctionType: _Hasher._function,
    type: _Hasher._class,
}
