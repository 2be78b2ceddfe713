"""Names of an adapter's tensors: in PEFT folders, in a ``PeftModel``, for servers, in diffusers' and kohya's files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from hypergen.adapters.factors import LowRank
from hypergen.errors import CheckpointError, ParameterError

PREFIX = "base_model.model."
_PARTS = r"lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector"
# An adapter's own name stands between the part and "weight" in a model, and not in a file.
_PEFT = re.compile(
    rf"(?P<module>.+)\.(?P<part>{_PARTS})(?:\.(?!weight$|bias$)(?P<own>[^.]+))?(?:\.(?P<kind>weight|bias))?"
)
_DOWN_UP = re.compile(
    r"(?P<module>.+?)(?:\.(?P<kohya>lora_down|lora_up)|(?:\.lora|\.lora_linear_layer|_lora)\.(?P<part>down|up))\.weight"
)
_PART = {
    "lora_A": "down",
    "lora_B": "up",
    "lora_embedding_A": "down",
    "lora_embedding_B": "up",
    "lora_down": "down",
    "lora_up": "up",
    "lora_magnitude_vector": "magnitude",
}
_PROCESSOR = re.compile(r"\.processor\.(to_[qkv]|to_out)$")
# What other methods call their tensors.
_OTHER_METHODS = {
    r"[._]hada_w\d": "LoHa",
    r"[._]lokr_w\d": "LoKr",
    r"\.lora_mid\b": "LoCon with a core tensor",
    r"\.lora_E\b": "AdaLoRA",
    r"\.b?oft_\w+": "OFT",
    r"\.ia3_\w": "IA3",
    r"\.vera_\w": "VeRA",
    r"\.[wb]_norm$": "LyCORIS norms",
    r"\.diff(_b)?$": "whole differences of weights",
    r"\.a1\.weight$": "GLoRA",
    r"\.lora_(diag|gamma)\b": "a variant of LoRA with a matrix between the factors",
    r"^prompt_embeddings$": "prompt tuning",
}


class Key(NamedTuple):
    """What a tensor's name says.

    Attributes:
        module: Name of the module that is adapted.
        part: ``"down"``, ``"up"``, ``"magnitude"``, ``"alpha"`` or ``"bias"``.
        embedding: Whether the module is an embedding.
    """

    module: str
    part: str
    embedding: bool = False


def parse(key: str) -> Key | None:
    """What a name says, without PEFT's prefix and an adapter's own name; None for tensors of no update."""
    if match := _PEFT.fullmatch(key.removeprefix(PREFIX)):
        part = "bias" if match["kind"] == "bias" else _PART[match["part"]]
        return Key(match["module"], part, "embedding" in match["part"])
    for ending, part in ((".alpha", "alpha"), (".dora_scale", "magnitude")):
        if key.endswith(ending):
            return Key(key.removesuffix(ending), part)
    if match := _DOWN_UP.fullmatch(key):
        word = match["part"] or match["kohya"]
        module = _PROCESSOR.sub(r".\1", match["module"])
        # Old files of diffusers have the processor's name for the projection's.
        module = f"{module}.0" if module.endswith(".to_out") else module
        return Key(module, _PART.get(word, word))
    return None


def gather(state: Mapping[str, Tensor], source: str) -> tuple[dict[str, LowRank], dict[str, Tensor], dict[str, float]]:
    """Sort a file's tensors.

    Args:
        state: Tensors by name.
        source: What messages call the file.

    Returns:
        Updates by module with scale 1; extras; and α by module, where tensors say it.

    Raises:
        CheckpointError: A tensor belongs to another method, a factor lacks the other, or there is none.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    embeddings: set[str] = set()
    extras: dict[str, Tensor] = {}
    alphas: dict[str, float] = {}
    for key, value in state.items():
        for mark, method in _OTHER_METHODS.items():
            if re.search(mark, key):
                raise CheckpointError(
                    f"{source} holds {key!r}, a tensor of {method}, which is not read: its updates are no product of "
                    "two factors. Merge it into its base, or convert it to LoRA where it was made."
                )
        found = parse(key)
        if found is None:
            extras[key.removeprefix(PREFIX)] = value
        elif found.part == "alpha":
            if value.numel() == 1:
                alphas[found.module] = float(value)
            else:
                extras[key.removeprefix(PREFIX)] = value
        elif found.part == "magnitude":
            extras[f"{found.module}.lora_magnitude_vector"] = _magnitude(value, key, source)
        elif found.part == "bias":
            extras[f"{found.module}.lora_B.bias"] = value
        else:
            parts.setdefault(found.module, {})[found.part] = value
            if found.embedding:
                embeddings.add(found.module)
    modules = {}
    for module, own in parts.items():
        if missing := {"up", "down"} - set(own):
            raise CheckpointError(f"{source}: {module!r} lacks its {missing.pop()} factor. Save the adapter again.")
        try:
            modules[module] = LowRank(own["up"], own["down"], 1.0, module in embeddings)
        except ParameterError as error:
            raise CheckpointError(f"{source}: {module!r}: {error}") from error
    for name, update in modules.items():
        key = f"{name}.lora_magnitude_vector"
        if key in extras and update.down.dim() > 2:  # PEFT keeps the axes of a convolution.
            extras[key] = extras[key].reshape(1, -1, *[1] * (update.down.dim() - 2))
    if not modules:
        raise CheckpointError(
            f"{source} holds no low-rank update; it has {', '.join(map(repr, list(state)[:3])) or 'no tensor'}. "
            "Expected names such as base_model.model.<module>.lora_A.weight, <component>.<module>.lora_A.weight or "
            "lora_unet_<module>.lora_down.weight."
        )
    return modules, extras, alphas


def tensors_of(modules: Mapping[str, LowRank], extras: Mapping[str, Tensor], prefix: str = PREFIX) -> dict[str, Tensor]:
    """Tensors under the names of a PEFT folder, or with another prefix."""
    state: dict[str, Tensor] = {}
    for name, update in modules.items():
        word, end = ("lora_embedding_", "") if update.embedding else ("lora_", ".weight")
        state[f"{prefix}{name}.{word}A{end}"] = update.down
        state[f"{prefix}{name}.{word}B{end}"] = update.up
    return state | {prefix + key: value for key, value in extras.items()}


def model_names(state: Mapping[str, Tensor], adapter: str = "default") -> dict[str, Tensor]:
    """Names of a folder → those of a ``PeftModel``: ``….lora_A.weight`` → ``….lora_A.default.weight``."""
    named = {}
    for key, value in state.items():
        match = _PEFT.fullmatch(key)
        if match is None or match["own"]:
            named[key] = value
            continue
        # A magnitude is a module in a model, and a tensor in a file.
        kind = match["kind"] or ("weight" if match["part"] == "lora_magnitude_vector" else "")
        named[".".join(filter(None, (match["module"], match["part"], adapter, kind)))] = value
    return named


def folder_names(state: Mapping[str, Tensor], adapter: str = "default") -> dict[str, Tensor]:
    """Names of a ``PeftModel`` → those of a folder; tensors of other adapters and of the base are left out.

    Raises:
        ParameterError: None of the tensors is of the adapter.
    """
    named = {}
    for key, value in state.items():
        match = _PEFT.fullmatch(key)
        if match is not None and match["own"] == adapter:
            kind = "" if match["part"] == "lora_magnitude_vector" else match["kind"]
            named[".".join(filter(None, (match["module"], match["part"], kind)))] = value
        elif f".modules_to_save.{adapter}." in key:
            named[key.replace(f".modules_to_save.{adapter}.", ".")] = value
    if not named:
        known = sorted({match["own"] for key in state if (match := _PEFT.fullmatch(key)) and match["own"]})
        raise ParameterError(f"No tensor is of the adapter {adapter!r}; there are {', '.join(known) or 'none'}.")
    return named


def runtime_dictionary(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Any]:
    """An adapter in memory, as servers that take tensors have it: ``{"peft_config": …, "lora_tensors": …}``.

    Args:
        state: Tensors under the names of a folder.
        config: PEFT's configuration.

    Raises:
        ParameterError: The adapter has what vLLM does not serve: DoRA, biases, or modules that are trained as a whole.
    """
    refused = [key for key in state if (found := parse(key)) is None or found.part in ("magnitude", "bias")]
    if refused:
        raise ParameterError(
            f"{refused[0]!r} and {len(refused) - 1} more tensors are served by no LoRA server: they are no low-rank "
            "updates (DoRA, biases, whole modules). Merge the adapter into its base instead."
        )
    return {"peft_config": dict(config), "lora_tensors": dict(state)}


def _magnitude(value: Tensor, key: str, source: str) -> Tensor:
    """A DoRA magnitude, as PEFT has it: one number an output."""
    if value.dim() > 1 and value.shape[0] == 1 and value.numel() > 1 and key.endswith(".dora_scale"):
        raise CheckpointError(
            f"{source}: {key!r} is {list(value.shape)}, a magnitude by input, which DoRA of PEFT has by output. Merge "
            "it into its base instead."
        )
    # Of convolutions, PEFT keeps the axes of a weight.
    return value if not key.endswith(".dora_scale") else value.flatten()
