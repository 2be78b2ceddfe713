"""Merging files: safetensors to safetensors, one tensor in memory at a time."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hypergen.errors import CheckpointError, ParameterError, UnknownNameError
from hypergen.functional.files import inside, read_json, replace_file
from hypergen.symmetry.merge.methods import MERGE_METHODS, merge_tensors

_KNOWN = {"merge_method", "models", "base_model", "parameters", "dtype", "out_dtype", "name"}
_DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_INTEGERS = {"int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL"}
_SIZES = {code: getattr(torch, name).itemsize for name, code in {**_DTYPES, **_INTEGERS}.items()}


class TensorFiles:
    """A checkpoint in one safetensors file, or a folder of them; read tensor by tensor.

    Raises:
        CheckpointError: There is none, or it is damaged or of another format.
    """

    def __init__(self, path: str | Path, stack: ExitStack) -> None:
        from safetensors import safe_open

        self.path = Path(path)
        if self.path.is_dir() and (self.path / "model.safetensors.index.json").is_file():
            places = read_json(self.path / "model.safetensors.index.json").get("weight_map", {})
            files = [inside(self.path, name, repr(str(self.path))) for name in dict.fromkeys(places.values())]
        elif self.path.is_dir():
            files = [self.path / "model.safetensors"]
        else:
            files = [self.path]
        self._homes: dict[str, Any] = {}
        for file in files:
            if file.suffix != ".safetensors" or not file.is_file():
                raise CheckpointError(
                    f"{str(file)!r} is no safetensors file. Merging streams safetensors: name a file, or a folder as "
                    "save_pretrained writes it."
                )
            try:
                opened = stack.enter_context(safe_open(str(file), framework="pt"))
            except Exception as error:
                raise CheckpointError(f"{str(file)!r} could not be read: {error}") from error
            self._homes |= dict.fromkeys(opened.keys(), opened)

    def __contains__(self, name: str) -> bool:
        return name in self._homes

    @property
    def names(self) -> list[str]:
        """The names of its tensors."""
        return sorted(self._homes)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, from the header alone."""
        return tuple(self._homes[name].get_slice(name).get_shape())

    def read(self, name: str) -> Tensor:
        """A tensor."""
        tensor: Tensor = self._homes[name].get_tensor(name)
        return tensor


@dataclass(frozen=True)
class MergedFile:
    """What was written.

    Attributes:
        path: The file.
        merged: Number of tensors that were merged.
        copied: Number of tensors that hold integers, or that the base network alone has.
    """

    path: Path
    merged: int
    copied: int


def merge_files(
    configuration: Mapping[str, Any], out: str | Path, *, folder: str | Path = ".", seed: int = 0
) -> MergedFile:
    """Merge checkpoints as a configuration says, in the format that merge users have.

    For example::

        merge_method: ties
        base_model: base.safetensors
        models:
          - model: a.safetensors
            parameters: {weight: 0.6, density: 0.5}
          - model: b.safetensors
            parameters: {weight: [0.2, 0.8], density: [{filter: mlp, value: 0.3}, {value: 0.6}]}
        parameters: {normalize: true}
        dtype: bfloat16

    A number may be a list, which is interpolated over the blocks that tensors' names count, or a list of filters.

    Args:
        configuration: ``merge_method``, ``models``, ``base_model``, ``parameters``, ``dtype``.
        out: The safetensors file to write.
        folder: What paths are relative to.
        seed: Random seed of DARE and DELLA; each tensor draws from its own stream.

    Raises:
        UnknownNameError: An unknown method or key.
        ParameterError: The configuration contradicts itself, or networks do not fit.
        CheckpointError: A file cannot be read, or the result cannot be written.
    """
    method, models, base_path = _checked(configuration)
    shared = dict(configuration.get("parameters") or {})
    with ExitStack() as stack:
        base = None if base_path is None else TensorFiles(Path(folder) / base_path, stack)
        files = [TensorFiles(Path(folder) / str(each["model"]), stack) for each in models]
        # As users write it: the base may be listed among the models, which then is no difference of its own.
        own = [dict(each.get("parameters") or {}) for each in models]
        if base is not None and method not in ("linear", "slerp"):
            pairs = [(file, values) for file, values in zip(files, own, strict=True) if file.path != base.path]
            files, own = [file for file, _ in pairs], [values for _, values in pairs]
        if base is not None and method == "slerp":
            files.sort(key=lambda file: file.path != base.path)
            if files[0].path != base.path:
                files, own = [base, *files], [{}, *own]
        if not files:
            raise ParameterError("There is nothing to merge: `models` names the base network alone.")
        leader = base or files[0]
        for file in files:
            for name in leader.names:
                if name in file and file.shape(name) != leader.shape(name):
                    shapes = [f"{list(each.shape(name))} in {str(each.path)!r}" for each in (file, leader)]
                    raise ParameterError(
                        f"{name!r} has shape {' and '.join(shapes)}. Bring the networks to one size first (hypergen "
                        "initialize --donor)."
                    )
                if name not in file:
                    raise ParameterError(f"{str(file.path)!r} lacks {name!r}, which {str(leader.path)!r} has.")
        dtype = configuration.get("out_dtype") or configuration.get("dtype")
        blocks = _block_count(leader.names)
        counts = [0, 0]

        def merged(name: str) -> Tensor:
            first = leader.read(name)
            if not first.is_floating_point():
                counts[1] += 1
                return first
            counts[0] += 1
            number = (int(match[0]) if (match := re.search(r"(?<=\.)\d+(?=\.)", name)) else 0) / max(blocks - 1, 1)

            def value(key: str, default: float) -> list[float]:
                return [_number(each.get(key, shared.get(key, default)), name, number) for each in own]

            normalize, rescale = shared.get("normalize"), shared.get("rescale")
            result = merge_tensors(
                method,
                [file.read(name) for file in files],
                None if base is None or method in ("linear", "slerp") else first,
                weight=value("weight", 1.0),
                density=value("density", 1.0),
                t=value("t", 0.5)[0],
                epsilon=value("epsilon", 0.15)[0],
                scale=value("lambda", 1.0)[0],
                normalize=None if normalize is None else bool(normalize),
                rescale=None if rescale is None else bool(rescale),
                generator=torch.Generator().manual_seed(seed * 1_000_003 + leader.names.index(name)),
            )
            if not bool(torch.isfinite(result).all()):
                raise ParameterError(f"The merged {name!r} holds values that are not finite; check the checkpoints.")
            return result.to(getattr(torch, str(dtype))) if dtype else result

        replace_file(Path(out), lambda draft: _write(draft, leader, dtype, merged))
    return MergedFile(Path(out), counts[0], counts[1])


def _checked(configuration: Mapping[str, Any]) -> tuple[str, Sequence[Mapping[str, Any]], str | None]:
    for key in configuration:
        if key not in _KNOWN:
            raise UnknownNameError("key of a merge configuration", key, _KNOWN)
    method = configuration.get("merge_method")
    if method not in MERGE_METHODS:
        raise UnknownNameError("merge_method", method, MERGE_METHODS)
    models = configuration.get("models")
    entries = models if isinstance(models, Sequence) else ()
    if not entries or any(not isinstance(each, Mapping) or "model" not in each for each in entries):
        raise ParameterError("`models` is a list of entries with `model`, the path of a checkpoint, and `parameters`.")
    dtype = configuration.get("out_dtype") or configuration.get("dtype")
    if dtype is not None and dtype not in _DTYPES:
        raise UnknownNameError("dtype", dtype, _DTYPES)
    base = configuration.get("base_model")
    return str(method), entries, None if base is None else str(base)


def _number(value: Any, name: str, place: float) -> float:
    """A parameter's number for one tensor: a scalar, an interpolated list, or the first filter that fits."""
    if isinstance(value, Sequence) and not isinstance(value, str) and value:
        if isinstance(value[0], Mapping):
            for entry in value:
                if entry.get("filter") is None or str(entry["filter"]) in name:
                    return _number(entry["value"], name, place)
            raise ParameterError(f"No filter fits {name!r}; end the list with an entry without `filter`.")
        position = place * (len(value) - 1)
        left = min(int(position), len(value) - 1)
        right = min(left + 1, len(value) - 1)
        return float(value[left]) + (position - left) * (float(value[right]) - float(value[left]))
    if isinstance(value, (int, float)):
        return float(value)
    raise ParameterError(f"{value!r} is no number, list of numbers or list of filters.")


def _block_count(names: Sequence[str]) -> int:
    return max((int(number) + 1 for name in names for number in re.findall(r"(?<=\.)\d+(?=\.)", name)[:1]), default=1)


def _write(path: Path, leader: TensorFiles, dtype: str | None, merged: Any) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name in leader.names:
        own = leader._homes[name].get_slice(name).get_dtype()
        code = _DTYPES[dtype] if dtype and own in _DTYPES.values() else own
        size = math.prod(leader.shape(name)) * _bytes(code)
        header[name] = {"dtype": code, "shape": list(leader.shape(name)), "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in leader.names:
            tensor = merged(name).contiguous()
            file.write(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())


def _bytes(code: str) -> int:
    if code not in _SIZES:
        raise CheckpointError(f"Tensors of type {code} are not merged; expected one of {', '.join(_SIZES)}.")
    return _SIZES[code]
