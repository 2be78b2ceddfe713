"""Writes adapters: PEFT folders, diffusers' and kohya's files, and dictionaries in memory."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from hypergen.adapters.adapter import BIAS, Adapter
from hypergen.adapters.names import runtime_dictionary, tensors_of
from hypergen.adapters.read import CONFIG, DIFFUSERS_CONFIG, DIFFUSERS_WEIGHTS, WEIGHTS, by_pattern, scale_of
from hypergen.errors import ParameterError
from hypergen.functional.files import replace_file

# How kohya calls diffusers' components.
KOHYA_COMPONENTS = {
    "unet": "lora_unet",
    "transformer": "lora_transformer",
    "text_encoder": "lora_te1",
    "text_encoder_2": "lora_te2",
}


def write_adapter(
    adapter: Adapter, path: str | os.PathLike[str], naming: str | None = None, *, component: str = "unet"
) -> Path:
    """Write an adapter.

    Args:
        adapter: What to write; scales, ranks and everything in its configuration that still holds are kept.
        path: The folder, or for kohya the file.
        naming: ``"peft"``, ``"diffusers"`` or ``"kohya"``; by default the adapter's own.
        component: Component of the pipeline that a PEFT adapter is of, where it is written in another naming.

    Returns:
        The folder or file.

    Raises:
        ParameterError: The adapter cannot be told in this naming; the message says why.
        CheckpointError: A file could not be written.
    """
    naming = naming or adapter.naming
    path = Path(path).expanduser()
    if naming == "peft":
        state, config = peft_state(adapter)
        replace_file(path / WEIGHTS, lambda draft: save_file(state, draft, metadata={"format": "pt"}))
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        replace_file(path / CONFIG, lambda draft: draft.write_text(text, encoding="utf-8"))
        return path
    if naming == "diffusers":
        state, config = diffusers_state(adapter, component)
        metadata = {"format": "pt", DIFFUSERS_CONFIG: json.dumps(config, indent=2, sort_keys=True)}
        replace_file(path / DIFFUSERS_WEIGHTS, lambda draft: save_file(state, draft, metadata=metadata))
        return path
    if naming == "kohya":
        tensors = kohya_state(adapter, component)
        file = path if path.suffix == ".safetensors" else path.with_name(path.name + ".safetensors")
        replace_file(file, lambda draft: save_file(tensors, draft, metadata={"format": "pt"}))
        return file
    raise ParameterError(f"{naming!r} is no naming of adapters; expected 'peft', 'diffusers' or 'kohya'.")


def peft_state(adapter: Adapter) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and configuration of a PEFT folder.

    Raises:
        ParameterError: The adapter has underscores for dots, or several components.
    """
    own = _without_component(adapter)
    return _own_memory(tensors_of(own.modules, own.extras)), peft_config(own)


def runtime_state(adapter: Adapter) -> dict[str, Any]:
    """The adapter in memory for a server; see :func:`hypergen.adapters.names.runtime_dictionary`."""
    state, config = peft_state(adapter)
    return runtime_dictionary(state, config)


def peft_config(adapter: Adapter) -> dict[str, Any]:
    """A configuration of PEFT under which the adapter's factors have its ranks and scales.

    Its own one, where that already says so; otherwise modules, ranks and α are listed.
    """
    given = {"peft_type": "LORA", "task_type": None, "bias": "none", **adapter.config}
    if _holds(adapter, given):
        return given
    ranks = {name: update.rank for name, update in adapter.modules.items()}
    # α over the rank, without the root: one rule for every scale.
    alphas = {name: _whole(update.scale * update.rank) for name, update in adapter.modules.items()}
    rank = Counter(ranks.values()).most_common(1)[0][0]
    alpha = Counter(alphas.values()).most_common(1)[0][0]
    magnitudes = any(key.endswith(".lora_magnitude_vector") for key in adapter.extras)
    return given | {
        "r": rank,
        "lora_alpha": alpha,
        "use_rslora": False,
        "use_dora": magnitudes,
        "lora_bias": any(key.endswith(BIAS) for key in adapter.extras),
        "target_modules": sorted(adapter.modules),
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "rank_pattern": {name: own for name, own in ranks.items() if own != rank},
        "alpha_pattern": {name: own for name, own in alphas.items() if own != alpha},
        "inference_mode": True,
    }


def diffusers_state(adapter: Adapter, component: str = "unet") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a file of diffusers; a component's name stands before that of each module.

    Raises:
        ParameterError: The adapter has underscores for dots.
    """
    _refuse_underscores(adapter, "diffusers")
    if adapter.naming == "peft":
        adapter = adapter.renamed({name: f"{component}.{name}" for name in adapter.modules})
    config: dict[str, Any] = {}
    for each, own in _components(adapter).items():
        config |= {f"{each}.{key}": value for key, value in peft_config(own).items()}
    return _own_memory(tensors_of(adapter.modules, adapter.extras, prefix="")), config


def kohya_state(adapter: Adapter, component: str = "unet") -> dict[str, Tensor]:
    """Tensors of a file of kohya, α beside each module's factors.

    Raises:
        ParameterError: The adapter trains modules as a whole, or has biases or updates of embeddings.
    """
    if adapter.naming == "peft":
        adapter = adapter.renamed({name: f"{component}.{name}" for name in adapter.modules})
    state: dict[str, Tensor] = {}
    names = {name: _underscored(name) for name in adapter.modules}
    for name, update in adapter.modules.items():
        if update.embedding:
            raise ParameterError(
                f"{name!r} is an embedding, which kohya's files have no name for. Write a PEFT folder."
            )
        state[f"{names[name]}.lora_down.weight"] = update.down
        state[f"{names[name]}.lora_up.weight"] = update.up
        state[f"{names[name]}.alpha"] = torch.tensor(float(update.scale * update.rank))
    for key, value in adapter.extras.items():
        module = key.removesuffix(".lora_magnitude_vector")
        if module not in names:
            raise ParameterError(f"{key!r} is no low-rank update, and kohya's files have no name for it.")
        state[f"{names[module]}.dora_scale"] = value.reshape(-1, *[1] * (adapter.modules[module].down.dim() - 1))
    return _own_memory(state)


def _holds(adapter: Adapter, config: Mapping[str, Any]) -> bool:
    """Whether a configuration gives an adapter's modules their ranks and scales."""
    if not config.get("target_modules") or "r" not in config:
        return False
    patterns = config.get("rank_pattern") or {}
    return all(
        by_pattern(patterns, name, config["r"]) == update.rank
        and abs(scale_of(config, name, update.rank) - update.scale) <= 1e-6 * abs(update.scale)
        for name, update in adapter.modules.items()
    )


def _components(adapter: Adapter) -> dict[str, Adapter]:
    """The parts of an adapter of a pipeline, without the component's name."""
    parts: dict[str, Adapter] = {}
    for component in dict.fromkeys(name.partition(".")[0] for name in adapter.modules):
        start = f"{component}."
        config = {key.removeprefix(start): value for key, value in adapter.config.items() if key.startswith(start)}
        parts[component] = Adapter(
            {name.removeprefix(start): update for name, update in adapter.modules.items() if name.startswith(start)},
            {key.removeprefix(start): value for key, value in adapter.extras.items() if key.startswith(start)},
            config or (adapter.config if adapter.naming == "peft" else {}),
            adapter.name,
        )
    return parts


def _without_component(adapter: Adapter) -> Adapter:
    if adapter.naming == "peft":
        return adapter
    _refuse_underscores(adapter, "PEFT")
    parts = _components(adapter)
    if len(parts) != 1:
        raise ParameterError(
            f"{adapter.name!r} adapts {', '.join(parts)}, and a PEFT folder is of one model. Write one for each: leave "
            "the modules of the others out."
        )
    return next(iter(parts.values()))


def _refuse_underscores(adapter: Adapter, naming: str) -> None:
    if adapter.naming == "kohya":
        raise ParameterError(
            f"{adapter.name!r} has kohya's names, with underscores for dots, which {naming}'s cannot be told from. "
            "Call hypergen.adapters.with_model_names(adapter, unet=model, …) first."
        )


def _underscored(name: str) -> str:
    component, dot, rest = name.partition(".")
    if not dot or component not in KOHYA_COMPONENTS:
        return name.replace(".", "_")
    return f"{KOHYA_COMPONENTS[component]}_{rest.replace('.', '_')}"


def _own_memory(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Safetensors files hold no tensors that share memory."""
    return {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}


def _whole(value: float) -> float | int:
    """A number as people write it."""
    return round(value) if abs(value - round(value)) < 1e-9 else value
