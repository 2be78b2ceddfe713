"""Reads adapters: PEFT folders, diffusers' and kohya's files; nothing in a file is ever run."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from hypergen.adapters.adapter import Adapter, by_base
from hypergen.adapters.names import PREFIX, gather
from hypergen.errors import CheckpointError
from hypergen.functional.checkpoint_files import read_tensor_file
from hypergen.functional.files import parse_json, read_json

CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
DIFFUSERS_WEIGHTS, DIFFUSERS_CONFIG = "pytorch_lora_weights.safetensors", "lora_adapter_metadata"
KOHYA = re.compile(r"lora_(unet|te\d?|transformer|prior|flux)_.+")
# Settings under which the factors mean something else than an update of a weight.
_REFUSED = {
    "use_qalora": "QALoRA, whose factors read pooled inputs",
    "use_bdlora": "block-diagonal LoRA",
    "target_parameters": "LoRA of bare parameters, whose factors are those of all experts in one",
    "monteclora_config": "MonteCLoRA, whose factors are drawn anew",
    "kasa_config": "KaSA, which has singular values of its own",
    "velora_config": "VeLoRA, which changes what is differentiated",
    "megatron_config": "LoRA of Megatron's sharded layers",
}


def read_adapter(path: str | os.PathLike[str], *, device: str = "cpu") -> Adapter:
    """Read an adapter.

    Args:
        path: A PEFT folder (``adapter_config.json``), a folder of diffusers (``pytorch_lora_weights.safetensors``), or
            a safetensors file of diffusers or kohya.
        device: Device of the tensors.

    Returns:
        The adapter, its factors as they are in the file.

    Raises:
        CheckpointError: There is none, it is damaged, or of a kind that is refused; the message names it.
    """
    path = Path(path).expanduser()
    if (path / CONFIG).is_file():
        adapter = _read_peft(path)
    else:
        adapter = _read_image_model(_file_in(path))
    if device == "cpu":
        return adapter
    moved = adapter.map(lambda update: replace(update, up=update.up.to(device), down=update.down.to(device)))
    return replace(moved, extras={key: value.to(device) for key, value in moved.extras.items()})


def find_adapters(folders: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Every adapter in and below folders, in the order of their paths: PEFT folders, and single safetensors files.

    Raises:
        CheckpointError: A folder holds none.
    """
    found: list[Path] = []
    for given in folders:
        source = Path(given).expanduser()
        if source.is_file() or (source / CONFIG).is_file() or (source / DIFFUSERS_WEIGHTS).is_file():
            found.append(source)
            continue
        below = {file.parent for file in source.rglob(CONFIG)} | {
            file.parent for file in source.rglob(DIFFUSERS_WEIGHTS)
        }
        known = list(below)
        files = (file for file in source.rglob("*.safetensors") if file.parent not in below)
        found += sorted([*known, *files])
        if not known and not any(source.rglob("*.safetensors")):
            raise CheckpointError(
                f"{str(source)!r} holds no adapter: no {CONFIG} and no .safetensors below it. Name another folder."
            )
    return list(dict.fromkeys(found))


def read_adapters(paths: Iterable[str | os.PathLike[str]]) -> dict[str, list[Adapter]]:
    """Read every adapter in and below folders, and split them by what they fit.

    Args:
        paths: Folders and files.

    Returns:
        See :func:`hypergen.adapters.adapter.by_base`.

    Raises:
        CheckpointError: A folder holds none, or one cannot be read.
    """
    return by_base(read_adapter(path) for path in find_adapters(paths))


def scale_of(config: Mapping[str, Any], module: str, rank: int) -> float:
    """α over the rank, or over its root with ``use_rslora``; α by module where there are patterns."""
    alpha = by_pattern(config.get("alpha_pattern") or {}, module, config.get("lora_alpha", rank))
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def by_pattern(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of the first pattern that a module's name ends with, as PEFT matches them."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _read_peft(folder: Path) -> Adapter:
    config = read_json(folder / CONFIG)
    _check_config(config, folder)
    file = next((folder / name for name in (WEIGHTS, PICKLED) if (folder / name).is_file()), None)
    if file is None:
        raise CheckpointError(f"{str(folder)!r} has a {CONFIG} and no {WEIGHTS}. Save the adapter again.")
    state = read_tensor_file(file)
    modules, extras, _ = gather(_tensors(state, file), repr(str(folder)))
    patterns = config.get("rank_pattern") or {}
    scaled = {}
    for name, update in modules.items():
        told = by_pattern(patterns, name, config.get("r", update.rank))
        if told != update.rank:
            raise CheckpointError(
                f"{str(folder)!r}: {name!r} has factors of rank {update.rank}, and the configuration says {told!r} (r "
                "and rank_pattern), so its scale is not known. Take the configuration that belongs to the file."
            )
        scaled[name] = replace(update, scale=scale_of(config, name, update.rank))
    return Adapter(scaled, extras, config, folder.name or str(folder), "peft")


def _check_config(config: Mapping[str, Any], folder: Path) -> None:
    kind = config.get("peft_type", "LORA")
    if kind != "LORA":
        raise CheckpointError(
            f"{str(folder)!r} is an adapter of the kind {kind!r}; expected LORA. hypergen.adapters reads LoRA with its "
            "variants rsLoRA and DoRA, whose updates are products of two factors."
        )
    for name, what in _REFUSED.items():
        if config.get(name):
            raise CheckpointError(f"{str(folder)!r} has {name}: {what}. It is not read.")


def _file_in(path: Path) -> Path:
    """The one file of an adapter that has no configuration beside it."""
    if path.is_file():
        return path
    if (path / DIFFUSERS_WEIGHTS).is_file():
        return path / DIFFUSERS_WEIGHTS
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else []
    if len(files) != 1:
        raise CheckpointError(
            f"{str(path)!r} is no adapter: it has no {CONFIG}, no {DIFFUSERS_WEIGHTS}, and {len(files)} .safetensors "
            "files. Name the folder of one adapter, or the file."
        )
    return files[0]


def _read_image_model(file: Path) -> Adapter:
    state = _tensors(read_tensor_file(file), file)
    if any(key.startswith(PREFIX) for key in state):
        raise CheckpointError(
            f"{str(file)!r} has the names of a PEFT folder and no {CONFIG} beside it, without which its scale is not "
            "known. Put the configuration beside it."
        )
    modules, extras, alphas = gather(state, repr(str(file)))
    kohya = any(KOHYA.fullmatch(name) for name in modules)
    config = {} if kohya else _diffusers_config(file)
    if "peft_type" in config or "r" in config:  # of one component alone, without its name before the modules
        scaled = {name: replace(own, scale=scale_of(config, name, own.rank)) for name, own in modules.items()}
        return Adapter(scaled, extras, config, _name_of(file), "peft")
    components = sorted({name.partition(".")[0] for name in modules})
    scaled = {}
    for name, update in modules.items():
        component, _, rest = name.partition(".")
        own = {
            key.removeprefix(f"{component}."): value for key, value in config.items() if key.startswith(f"{component}.")
        }
        if name in alphas:
            scale = alphas[name] / update.rank
        else:
            # Without a word on it, diffusers and kohya take α for the rank.
            scale = scale_of(own, rest, update.rank) if own else 1.0
        scaled[name] = replace(update, scale=scale)
    for component in components:
        kind = config.get(f"{component}.peft_type", "LORA")
        if kind != "LORA":
            raise CheckpointError(f"{str(file)!r}: {component!r} is of the kind {kind!r}; expected LORA.")
    return Adapter(scaled, extras, config, _name_of(file), "kohya" if kohya else "diffusers")


def _name_of(file: Path) -> str:
    return file.stem if file.name != DIFFUSERS_WEIGHTS else file.parent.name


def _diffusers_config(file: Path) -> dict[str, Any]:
    """Configurations of all components, as diffusers puts them into the metadata."""
    if file.suffix != ".safetensors":
        return {}
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        text = (opened.metadata() or {}).get(DIFFUSERS_CONFIG)
    if not text:
        return {}
    found = parse_json(text, f"{DIFFUSERS_CONFIG} of {str(file)!r}")
    if not isinstance(found, dict):
        raise CheckpointError(f"{DIFFUSERS_CONFIG} of {str(file)!r} is {json.dumps(found)[:100]}; expected an object.")
    return found


def _tensors(content: Any, file: Path) -> dict[str, Tensor]:
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{str(file)!r} holds more than tensors by name. Save the adapter's state dict alone.")
    return dict(content)
