"""Reads the released files of GHN-2, GHN-3 and LoGAH, without running code from them, and knows their variants."""

from __future__ import annotations

import collections
import io
import math
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hypergen.errors import CheckpointError, GeneratorError
from hypergen.functional.checkpoint_files import read_tensor_file
from hypergen.generators.generator import Generator
from hypergen.generators.ghn.model import GraphHypernetwork
from hypergen.generators.published.graph import LANGUAGE_PRIMITIVES, PRIMITIVES
from hypergen.generators.published.model import ReleasedGraphHypernetwork

HUB = "SamsungSAILMontreal/ghn3"
HUB_FILES = ("ghn2.pt", "ghn3tm8.pt", "ghn3sm8.pt", "ghn3lm8.pt", "ghn3xlm16.pt")

_CIFAR = {"max_shape": (64, 64, 11, 11), "num_classes": 10}
_GRAPHORMERS = {"t": (64, 3, 8), "s": (128, 5, 16), "l": (256, 12, 16), "xl": (384, 24, 16)}
_LOGAHS = {
    "tiny": (64, 3, 8, 32, 2048),
    "tiny-8k": (64, 3, 8, 32, 8192),
    "small": (128, 5, 16, 90, 2048),
    "base": (256, 5, 16, 128, 2048),
    "large": (256, 12, 16, 256, 2048),
}
# What files carry that predicts nothing: a second name of `decoder.l2`, and layers that are never called.
_IDLE = ("decoder.seq.", "decoder.l1.")

VARIANTS: dict[str, dict[str, Any]] = {
    "ghn-1": {"hidden": 32, "layers": 0, "virtual_edges": False, "layer_norm": False, "weight_norm": False, **_CIFAR},
    "ghn-2": {"hidden": 32, "layers": 0, **_CIFAR},
    **{
        f"ghn-3-{name}": {"hidden": d, "layers": layers, "heads": heads, "max_shape": (d, d, 16, 16)}
        for name, (d, layers, heads) in _GRAPHORMERS.items()
    },
    **{
        f"logah-{name}": {
            "hidden": d, "layers": layers, "heads": heads, "rank": rank, "length": 16 * width,
            "max_shape": (width, width, 16, 16), "language": True,
        }
        for name, (d, layers, heads, rank, width) in _LOGAHS.items()
    },
}  # fmt: skip
"""Arguments of the published systems by name."""


def _magnitude_invariant(
    hidden: int, layers: int, max_shape: Sequence[int], heads: int = 8, rank: int = 0, **_: Any
) -> dict[str, Any]:
    return {
        "encoder": "graphormer" if layers else "gated_gnn",
        "decoder": "low_rank" if rank else "conv",
        "parametrization": "magnitude_invariant",
        "hidden": hidden,
        "layers": max(layers, 1),
        "heads": heads,
        "rank": rank or 128,
        "max_shape": max_shape[0],
    }


MAGNITUDE_INVARIANT: dict[str, dict[str, Any]] = {
    f"{name}-mip": _magnitude_invariant(**arguments) for name, arguments in VARIANTS.items()
}
"""Arguments of this project's :class:`GraphHypernetwork` at the published sizes, with magnitude invariant heads.

González Ortiz et al., *Magnitude Invariant Parametrizations Improve Hypernetwork Learning*, 2023, arXiv:2304.07645.
"""


def untrained(name: str, seed: int = 0) -> Generator:
    """A system of a published size at seeded initial values: it predicts, and has learned nothing.

    Args:
        name: A name in :data:`VARIANTS` or :data:`MAGNITUDE_INVARIANT`.
        seed: Random seed of the initial values.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name in MAGNITUDE_INVARIANT:
            return GraphHypernetwork(**MAGNITUDE_INVARIANT[name]).eval()
        return ReleasedGraphHypernetwork(**VARIANTS[name]).eval()


def from_hub(file: str) -> Path:
    """Fetch a released file, or find the copy that this machine has.

    Raises:
        CheckpointError: Neither is possible.
    """
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(HUB, file))
    except Exception as error:  # the Hub's client raises errors of several libraries
        raise CheckpointError(
            f"{file!r} is a released file of {HUB} on the Hugging Face Hub, and did not come ({type(error).__name__}: "
            f"{str(error).strip().splitlines()[0][:200] if str(error).strip() else ''}). Check the connection, or "
            "download it by other means and give its path."
        ) from error


def read_released(path: Path) -> ReleasedGraphHypernetwork:
    """Build a published system from one of its files: a checkpoint of its training, or a bare state dict by joblib.

    Args:
        path: The file.

    Returns:
        The generator, in evaluation mode.

    Raises:
        CheckpointError: The file is damaged, would run code, or its tensors are not those of such a system; every
            tensor that is missing, unknown or of another shape is named.
    """
    content = _load(path)
    config = content.get("config") if isinstance(content, Mapping) else None
    state = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"{str(path)!r} holds no state dict of tensors; expected a released graph hypernetwork.")
    tensors = {_own_name(name): value for name, value in state.items()}
    try:
        arguments = _arguments(tensors, config if isinstance(config, Mapping) else {})
        with torch.random.fork_rng(devices=[]):
            generator = ReleasedGraphHypernetwork(**arguments)
    except (KeyError, IndexError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{str(path)!r} is no graph hypernetwork that hypergen knows: {type(error).__name__} {error}. Expected the "
            "tensors of GHN-1, GHN-2, GHN-3 or LoGAH."
        ) from error
    expected = generator.state_dict()
    tensors = {n: v.reshape(v.shape[:2]) if v.dim() == 4 and v.shape[2:] == (1, 1) else v for n, v in tensors.items()}
    idle = _IDLE + (("decoder_1d.", "bias_class.") if generator.rank else ())
    tensors = {name: value for name, value in tensors.items() if name in expected or not name.startswith(idle)}
    problems = [f"missing {name}" for name in expected if name not in tensors]
    problems += [f"unknown {name}" for name in tensors if name not in expected]
    problems += [
        f"{name} is {list(tensors[name].shape)} instead of {list(value.shape)}"
        for name, value in expected.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    if problems:
        raise CheckpointError(
            f"The tensors in {str(path)!r} are not those of the system that their sizes tell ({arguments}): "
            + "; ".join(problems)
        )
    generator.load_state_dict(tensors)
    return generator.eval()


def _own_name(name: str) -> str:
    name = name.removeprefix("module.")
    for part in ("centrality_embed_in", "centrality_embed_out", "input_dist_embed"):
        name = name.replace(f"gnn.0.{part}", part)  # where training leaves them
    return name


def _arguments(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Any]:
    """The constructor's arguments: from the file's own configuration, else from the sizes of its tensors."""
    hidden = tensors["embed.weight"].shape[1]
    layers = sum(name.startswith("gnn.") and name.endswith("ln1.weight") for name in tensors)
    low_rank = "decoder.l2.weight" in tensors
    primitives = len(tensors["embed.weight"])
    if primitives not in (len(PRIMITIVES), len(LANGUAGE_PRIMITIVES)):
        raise ValueError(f"embed.weight has {primitives} rows, expected 15 or 18 primitives")
    grid = 11 if len(tensors["shape_enc.embed_spatial.weight"]) == 9 else 16
    num_classes = config.get("num_classes", 10)
    arguments: dict[str, Any] = {
        "hidden": hidden,
        "layers": layers,
        "heads": int(config.get("heads", 16 if hidden > 64 else 8)),
        "virtual_edges": bool(config.get("ve", layers > 0 or any("mlp_ve" in name for name in tensors))),
        "layer_norm": "ln.weight" in tensors,
        "weight_norm": bool(config.get("weight_norm", True)),
        "language": primitives == len(LANGUAGE_PRIMITIVES),
    }
    if low_rank:
        length, rank = tensors["decoder.l2.weight"].shape
        width = length // 16
        arguments |= {"rank": rank, "length": length, "max_shape": config.get("max_shape", (width, width, 16, 16))}
    else:
        side = math.isqrt(len(tensors["decoder.conv.2.weight"]))
        num_classes = len(tensors["decoder.class_layer_predictor.1.weight"])
        arguments["max_shape"] = config.get("max_shape", (side, side, grid, grid))
    return {**arguments, "num_classes": int(num_classes), "max_shape": [int(n) for n in arguments["max_shape"]]}


def _load(path: Path) -> Any:
    try:
        if zipfile.is_zipfile(path):
            return read_tensor_file(path)
        with open(path, "rb") as file:
            return _Unpickler(file).load()
    except (GeneratorError, CheckpointError):
        raise
    except Exception as error:  # damaged pickles raise anything
        raise CheckpointError(
            f"{str(path)!r} could not be read without running code from it, or is damaged ({type(error).__name__}: "
            f"{error}). Expected a released file of GHN-2, GHN-3 or LoGAH."
        ) from error


def _storage(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


class _Unpickler(pickle.Unpickler):
    """Reads what joblib writes of a state dict; every other global is refused before it is looked up."""

    _ALLOWED = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
        ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
        ("torch.storage", "_load_from_bytes"): _storage,
    }

    def find_class(self, module: str, name: str) -> Any:
        """Give the few functions that tensors are made of."""
        try:
            return self._ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no state dict needs") from None
