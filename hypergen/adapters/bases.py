"""Which base model an adapter fits: modules and shapes of a model, or of a folder that is not loaded for it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from hypergen.adapters.adapter import Adapter
from hypergen.adapters.write import KOHYA_COMPONENTS
from hypergen.architectures.by_name import build_model
from hypergen.errors import CheckpointError, ParameterError
from hypergen.functional.files import read_json


@dataclass(frozen=True)
class Fit:
    """How an adapter fits a base.

    Attributes:
        matched: Modules that the base has, with weights of the right shape.
        missing: Modules that it lacks.
        misshapen: Modules whose weights have another shape, with both shapes in words.
        quantization: Quantisation of the base; empty without.
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    misshapen: Mapping[str, str]
    quantization: str = ""

    @property
    def fits(self) -> bool:
        """Whether every module does."""
        return not self.missing and not self.misshapen

    def __str__(self) -> str:
        """In words."""
        quantised = f", quantised ({self.quantization})" if self.quantization else ""
        if self.fits:
            return f"fits, {len(self.matched)} modules{quantised}"
        if not self.matched and not self.misshapen:
            return f"does not fit: none of {len(self.missing) + len(self.misshapen)} modules{quantised}"
        example = next(iter(self.missing), None) or "; ".join(list(self.misshapen.values())[:1])
        return (
            f"does not fit: {len(self.missing)} modules missing, {len(self.misshapen)} misshapen ({example}){quantised}"
        )


def load_base(folder: str | os.PathLike[str], *, on_meta: bool = True) -> tuple[nn.Module, str]:
    """Build the base model that a folder describes, without its values, and the name of its quantisation.

    A quantised base is built as what was quantised, since that is what adapters are for.

    Args:
        folder: A folder with a ``config.json``, or a model's name as the command line takes it.
        on_meta: Whether parameters have no values.

    Raises:
        CheckpointError: The folder has no configuration.
        HypergenError: The model cannot be built.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        return build_model(str(folder), on_meta=on_meta), ""
    if not (path / "config.json").is_file():
        raise CheckpointError(f"{str(path)!r} has no config.json, so it is no base model. Name the model's folder.")
    settings = read_json(path / "config.json").get("quantization_config") or {}
    method = str(settings.get("quant_method") or next((key for key in settings if key.startswith("load_in")), ""))
    return build_model(f"hf:{path}", on_meta=on_meta), method


def fit_to_base(adapter: Adapter, base: nn.Module, quantization: str = "") -> Fit:
    """Compare an adapter's modules with those of a model.

    Args:
        adapter: The adapter; of kohya's names those with the right underscores are found.
        base: The model, which may be on the meta device.
        quantization: Quantisation that the result names.
    """
    known = dict(base.named_modules())
    if adapter.naming == "kohya":
        adapter = adapter.renamed(_dotted(adapter, {"unet": base}))
    matched, missing, misshapen = [], [], {}
    for name, update in adapter.modules.items():
        module = known.get(name)
        if module is None and adapter.naming != "peft":
            module = known.get(name.partition(".")[2])
        weight = getattr(module, "weight", None)
        if weight is None:
            missing.append(name)
            continue
        outputs, inputs = update.shape
        there = (weight.shape[0], weight[0].numel())
        # Embeddings and GPT-2's layers keep their weights the other way round.
        turned = there == (inputs, outputs) and not isinstance(module, (nn.Linear, nn.modules.conv._ConvNd))
        if there == (outputs, inputs) or turned:
            matched.append(name)
        else:
            misshapen[name] = f"{name}: {list(there)}, expected {[outputs, inputs]}"
    return Fit(tuple(matched), tuple(missing), misshapen, quantization)


def check_fit(adapter: Adapter, base: nn.Module, name: str = "the base") -> Fit:
    """Complain about an adapter that does not fit its base, which PEFT would load with a warning and to no effect.

    Raises:
        ParameterError: A module is missing or has another shape; the message names both.
    """
    fit = fit_to_base(adapter, base)
    if fit.fits:
        return fit
    if len(fit.missing) == len(adapter.modules):
        known = [key for key, module in base.named_modules() if getattr(module, "weight", None) is not None]
        raise ParameterError(
            f"{adapter.name!r} does not fit {name}: none of its {len(adapter.modules)} modules is there. It adapts "
            f"{next(iter(adapter.modules))!r} and others; {name} has {', '.join(map(repr, known[:3]))}, …. The "
            f"adapter says that its base is {adapter.base or 'nothing'!r}: load that one, or rename its modules."
        )
    raise ParameterError(f"{adapter.name!r} {fit} in {name}. Load the base that it was trained on: {adapter.base!r}.")


def with_model_names(adapter: Adapter, **components: nn.Module) -> Adapter:
    """Give an adapter of kohya's naming the names of diffusers.

    Args:
        adapter: With underscores for dots.
        **components: Components of the pipeline by name: ``unet=``, ``transformer=``, ``text_encoder=``,
            ``text_encoder_2=``; only their modules' names are read.

    Raises:
        ParameterError: A module of the adapter has no counterpart, as in files with the names of the original Stable
            Diffusion.
    """
    names = _dotted(adapter, components)
    lost = [name for name in adapter.modules if name not in names]
    if lost:
        raise ParameterError(
            f"{lost[0]!r} and {len(lost) - 1} more modules of {adapter.name!r} are none of {', '.join(components)}. "
            "Pass every component that the file adapts; files with the names of the original Stable Diffusion "
            "(input_blocks) are converted by diffusers' lora_state_dict."
        )
    return replace(adapter.renamed(names), naming="diffusers")


def _dotted(adapter: Adapter, components: Mapping[str, Any]) -> dict[str, str]:
    """Dotted names by underscored ones."""
    known = {}
    for component, model in components.items():
        starts = [KOHYA_COMPONENTS.get(component, f"lora_{component}")]
        if component == "text_encoder":
            starts.append("lora_te")
        for name, _ in model.named_modules():
            for start in starts:
                known[f"{start}_{name.replace('.', '_')}"] = f"{component}.{name}"
    return {name: known[name] for name in adapter.modules if name in known}
