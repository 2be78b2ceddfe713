"""The one reader of files of tensors: safetensors, and what ``torch.save`` wrote; no code in a file is ever run.

Of pickles, torch's own restricted reader builds tensors and plain values. Further classes that checkpoints of training
runs hold (namespaces, paths, numpy's scalars, configuration objects) are read as plain values: in their place stand
containers that keep what was pickled and do nothing. All other classes are refused by name.
"""

from __future__ import annotations

import collections
import math
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hypergen.errors import CheckpointError

# Modules whose classes are configuration or plain values, and are read as the data that was pickled.
_PLAIN_MODULES = re.compile(
    r"(argparse|pathlib|types|datetime|uuid|fractions|decimal|collections|enum|typing|omegaconf|yacs|easydict|addict|box"
    r"|munch|attrdict|ml_collections|fvcore\.common\.config|detectron2\.config|mmcv\.utils\.config|mmengine\.config"
    r"|pytorch_lightning\.utilities\.parsing|lightning\.pytorch\.utilities\.parsing"
    r"|lightning_fabric\.utilities\.data|lightning\.fabric\.utilities\.data)(\..+)?"
)
_PLAIN_NAMES = re.compile(
    r"numpy(\._core|\.core)?\.multiarray\.\w+|numpy(\.dtypes)?\.\w+|_codecs\.encode"
    r"|builtins\.(bool|bytearray|bytes|complex|dict|float|frozenset|int|list|object|range|set|slice|str|tuple)"
)
_FORBIDDEN = re.compile(r"types\.(?!SimpleNamespace|MappingProxyType)\w+|collections\.abc\..*")
_UNSUPPORTED = re.compile(r"GLOBAL (\S+) was not an allowed global|unsupported GLOBAL (\S+) whose module")
# Subclasses of dict, which torch's reader fills only where they are plain ones.
_DICTIONARIES = {
    "AttributeDict",
    "AttrDict",
    "Box",
    "CfgNode",
    "ConfigDict",
    "Dict",
    "EasyDict",
    "Munch",
    "defaultdict",
}
_MOST_CLASSES, _MOST_DEPTH = 64, 200
_MOST_INFLATION = 16
_MARKUP = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")
_LFS = b"version https://git-lfs"


class _StandIn(dict[Any, Any]):
    """Keeps what was pickled of an object of another class."""

    pickled_class = ""
    args: tuple[Any, ...] = ()

    def __new__(cls, *args: Any) -> _StandIn:
        made = super().__new__(cls)
        made.args = args
        return made

    def __init__(self, *args: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, Mapping):
                self.update(part)
        self.args = (*self.args, state)

    __hash__ = object.__hash__  # type: ignore[assignment]  # an enumeration's member may be a key


class _Dictionary:
    """Makes a plain dictionary in place of a subclass."""

    def __new__(cls, *args: Any) -> Any:
        made: Any = collections.OrderedDict()
        if args and isinstance(args[0], Mapping):
            made.update(args[0])
        return made


class _NumpyType(_StandIn):
    """Stands for ``numpy.dtype``."""

    def __setstate__(self, state: Any) -> None:
        self.args = (*self.args[:1], state)

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """The type that was pickled; None where it is none of numbers or text."""
        code, state = (*self.args, (), ())[:2]
        if not (isinstance(code, str) and re.fullmatch(r"[<>|=]?[biufcSUmM]\d{0,5}", code)):
            return None
        order = state[1] if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">") else ""
        return np.dtype(order + code.lstrip("<>|="))


def read_tensor_file(path: Path) -> Any:
    """Whatever a safetensors file, or a file of ``torch.save``, holds: tensors and plain values, on the CPU.

    Raises:
        CheckpointError: It is missing, no such file, damaged, or holds objects of other classes; the message names
            them.
    """
    check_start(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return _read_pickle(path)
    except CheckpointError:
        raise
    except Exception as error:  # torch reports damage by errors of many kinds.
        raise CheckpointError(
            f"{str(path)!r} is damaged or truncated ({path.stat().st_size:,} bytes; {type(error).__name__}: "
            f"{first_line(error)}). Copy, download or save it again."
        ) from error


def check_start(path: Path) -> None:
    """Complain about files that are no files of tensors by their first bytes.

    Raises:
        CheckpointError: The file is missing, empty, a Git LFS pointer or a web page.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(256)
    except FileNotFoundError as error:
        raise CheckpointError(f"There is no file {str(path)!r}. Check the path.") from error
    except OSError as error:
        raise CheckpointError(f"{str(path)!r} cannot be read: {error.strerror or error}.") from error
    if not start:
        raise CheckpointError(f"{str(path)!r} is empty. Copy, download or save it again.")
    if start.startswith(_LFS):
        raise CheckpointError(
            f"{str(path)!r} is a Git LFS pointer, not the weights. Run `git lfs pull` where it is from."
        )
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_MARKUP):
        raise CheckpointError(
            f"{str(path)!r} is a web page (HTML), not the weights: its download was answered by a page, for example to "
            "log in. Download it again."
        )


def first_line(error: BaseException) -> str:
    """The first line of an error's text, without control characters."""
    text = (str(error).strip().splitlines() or ["no more is known"])[0][:200]
    return re.sub(r"\x1b\[[0-9;]*m", "", text).strip()


@contextmanager
def _own_classes_alone() -> Iterator[None]:
    """Leave out what other libraries have allowed torch to make: what is read depends on the file alone."""
    others = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(others)


def _read_pickle(path: Path) -> Any:
    _check_inflation(path)
    with _own_classes_alone():
        return _read_known(path)


def _read_known(path: Path) -> Any:
    unknown: list[str] = []
    with suppress(Exception):  # Older formats; their classes are met one by one.
        unknown = list(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    stand_ins: dict[str, Any] = {}
    while True:
        for name in unknown:
            stand_ins[name] = _stand_in(name, path)
        try:
            with torch.serialization.safe_globals([(made, name) for name, made in stand_ins.items()]):
                content = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            found = _UNSUPPORTED.search(str(error))
            name = (found[1] or found[2]) if found else ""
            name = f"builtins.{name}" if name and "." not in name else name
            if not name or name in stand_ins or len(stand_ins) >= _MOST_CLASSES:
                if "Weights only load failed" not in str(error):
                    raise
                raise CheckpointError(f"{str(path)!r} {_reason(str(error))}") from error
            unknown = [name]
            continue
        return _plain(content, {}, 0) if stand_ins else content


def _reason(message: str) -> str:
    """What torch's restricted reader found, without its advice to read the file unrestricted."""
    reason = re.search(r"WeightsUnpickler error:\s*(.*)", message)
    if reason is None or reason[1].startswith("Unsupported operand"):
        return "is no file of torch.save. Expected safetensors, or what torch.save(model.state_dict(), …) wrote."
    text = re.split(r"\.? Please use|\. This ", reason[1])[0][:300]
    return f"holds more than tensors and plain values, which is not read: {text}. Save model.state_dict() alone."


def _stand_in(name: str, path: Path) -> Any:
    """What stands for a class or a function of this name.

    Raises:
        CheckpointError: It is none of those that are known to be data.
    """
    module = name.rpartition(".")[0]
    if _FORBIDDEN.fullmatch(name) or not (_PLAIN_MODULES.fullmatch(module) or _PLAIN_NAMES.fullmatch(name)):
        raise CheckpointError(
            f"{str(path)!r} holds more than tensors and plain values, an object of the class {name}, which is not read "
            "because reading it could run code. Save model.state_dict() alone where the file was made."
        )
    if name in ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"):
        return _numpy_scalar
    own_name = name.rpartition(".")[2]
    if own_name in _DICTIONARIES:
        return type(own_name, (_Dictionary,), {})
    base = _NumpyType if name == "numpy.dtype" else _StandIn
    return type(own_name, (base,), {"pickled_class": name})


def _numpy_scalar(dtype: Any, data: Any = None) -> Any:
    """A number that numpy made."""
    kind = dtype.dtype if isinstance(dtype, _NumpyType) else None
    data = data.encode("latin1") if isinstance(data, str) else data
    if kind is None or not isinstance(data, bytes) or len(data) != kind.itemsize:
        raise pickle.UnpicklingError("a numpy scalar is damaged")
    return np.frombuffer(data, kind)[0].item()


def _plain(value: Any, seen: dict[int, Any], depth: int) -> Any:
    """The same with plain values in place of stand-ins."""
    if depth > _MOST_DEPTH:
        raise CheckpointError(f"The file nests values more than {_MOST_DEPTH} deep, which is not read.")
    if isinstance(value, type):
        return value.__name__
    if isinstance(value, Tensor) or not isinstance(value, (Mapping, list, tuple)):
        return value
    if id(value) in seen:
        return seen[id(value)]
    if isinstance(value, _StandIn):
        seen[id(value)] = None  # of a cycle, as from a configuration to its parent
        seen[id(value)] = result = _plain_object(value, seen, depth)
        return result
    if isinstance(value, Mapping):
        made: dict[Any, Any] = {}
        seen[id(value)] = made
        for key, item in value.items():
            made[_plain(key, seen, depth + 1) if isinstance(key, _StandIn) else key] = _plain(item, seen, depth + 1)
        return made
    if isinstance(value, list):
        items: list[Any] = []
        seen[id(value)] = items
        items += [_plain(item, seen, depth + 1) for item in value]
        return items
    if isinstance(value, torch.Size):
        return value
    return tuple(_plain(item, seen, depth + 1) for item in value)


def _plain_object(value: _StandIn, seen: dict[int, Any], depth: int) -> Any:
    name = value.pickled_class
    if name.startswith("pathlib."):
        return "/".join(str(part) for part in value.args).replace("//", "/")
    if name.startswith("omegaconf."):
        # A node keeps its value, and a container its nodes, beside what it knows of itself.
        for key in ("_val", "_content"):
            if key in value:
                return _plain(value[key], seen, depth + 1)
    if name.startswith("numpy.dtype"):
        return str(value.dtype) if isinstance(value, _NumpyType) else name.rpartition(".")[2]
    if value:
        return {key: _plain(item, seen, depth + 1) for key, item in value.items()}
    if len(value.args) == 1 and isinstance(value.args[0], (str, int, float)):
        return value.args[0]  # such as a member of an enumeration
    return {} if not value.args or value.args == ({},) else f"<{name}>"


def _check_inflation(path: Path) -> None:
    """Complain about archives that unpack to far more than they are; ``torch.save`` compresses nothing."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(part.file_size for part in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return  # an older format, or damaged, which torch tells
    there = path.stat().st_size
    if size > _MOST_INFLATION * there + 2**20:
        raise CheckpointError(
            f"{str(path)!r} has {there:,} bytes and would unpack to {size:,}, which no file of torch.save does. It is "
            "not read."
        )


def tensor_problem(value: Tensor) -> str | None:
    """Why a tensor that was read cannot be used as one with values of its own; None if it can."""
    if value.is_meta:
        return "is on the meta device and has no values: save the network with its weights"
    if value.is_quantized:
        return "is quantised: save value.dequantize()"
    if value.layout != torch.strided or value.is_nested:
        return f"is {'nested' if value.is_nested else str(value.layout).removeprefix('torch.')}: save value.to_dense()"
    if type(value) not in (Tensor, torch.nn.Parameter):
        return f"is of the class {type(value).__name__}: save a plain tensor"
    if value.is_complex() and value.dtype != torch.complex64:
        return f"is {value.dtype}: save complex64, or its real and imaginary parts"
    if "bits" in str(value.dtype) or "float4" in str(value.dtype):
        return f"is {value.dtype}, which has no values on its own: save floating-point numbers"
    if math.prod(value.shape) * value.element_size() > max(value.untyped_storage().nbytes(), 2**20):
        return f"is a view {list(value.shape)} that repeats a smaller tensor: save value.contiguous()"
    return None
