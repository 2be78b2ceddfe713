"""Start a network from a trained network of another size."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hypergen.architectures.by_name import build_model
from hypergen.errors import CheckpointError, GeneratorError, ParameterError
from hypergen.functional import apply_parameters, calibrate_batch_norm, fit_ridge_head
from hypergen.functional.snapshot import unchanged_after_errors
from hypergen.generators.donor import DonorMapping, map_parameters
from hypergen.generators.donor.axes import Width
from hypergen.generators.donor.matching import Depth
from hypergen.zoo.importers.states import read_file, read_indexed, state_in

Donor = nn.Module | Mapping[str, Tensor] | str | os.PathLike[str]
_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors")
_INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


def initialize_from_donor(
    model: nn.Module,
    donor: Donor,
    *,
    donor_model: nn.Module | str | None = None,
    width: Width = "uniform",
    depth: Depth = "even",
    match: Mapping[str, str | None] | None = None,
    example_inputs: Any = None,
    donor_inputs: Any = None,
    calibrate: Iterable[Any] | None = None,
    calibration_batches: int | None = 32,
    head: str | None = None,
    overwrite_frozen: bool = False,
    verify: bool = False,
    seed: int = 0,
) -> DonorMapping:
    """Write parameters taken from ``donor`` into ``model``, in place and all or nothing.

    Args:
        model: The target network.
        donor: A trained module; its state dict; a file of one (safetensors, or what ``torch.save`` wrote of tensors);
            or a folder that ``save_pretrained`` of transformers wrote.
        donor_model: The module of a state dict or file, or its name (``timm:…``, ``torchvision:…``, ``hf:…``,
            ``package.module:factory``); None where it is the target's own architecture, or the folder tells.
        width: Which channels a narrower network keeps; see :func:`hypergen.generators.donor.map_parameters`.
        depth: Which block of the donor each block starts from; see there.
        match: Layers that are paired by name, the target's → the donor's; see there.
        example_inputs: What the target is called with, when it cannot be worked out.
        donor_inputs: What the donor is called with; None for the target's.
        calibrate: Batches that running statistics of batch norms are estimated from afterwards; without them those of
            the donor's channels are taken.
        calibration_batches: Largest number of batches read for that; None reads all.
        head: ``"ridge"`` solves the last linear layer in closed form on ``calibrate``.
        overwrite_frozen: Whether parameters with ``requires_grad=False`` are written, too.
        verify: Compare the outputs of both networks in float64.
        seed: Random seed of how copies share outgoing weights.

    Returns:
        What came from where; print it.

    Raises:
        ParameterError: The networks have nothing in common, or the donor is not finite.
        CheckpointError: The donor cannot be read.
        GeneratorError: A head without data.
    """
    if head is not None and calibrate is None:
        raise GeneratorError(f"head={head!r} solves the last layer on labelled data: pass `calibrate=` with batches.")
    source = load_donor(donor, model, donor_model)
    mapping = map_parameters(
        model,
        source,
        width=width,
        depth=depth,
        match=match,
        seed=seed,
        example_inputs=example_inputs,
        donor_inputs=donor_inputs,
        verify=verify,
    )
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    chosen = {n: v for n, v in mapping.parameters.items() if overwrite_frozen or n not in frozen}
    with unchanged_after_errors(model):
        apply_parameters(model, chosen, partial=True)
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name in mapping.buffers:
                    buffer.copy_(mapping.buffers[name])
        if calibrate is not None:
            batches = calibrate if isinstance(calibrate, list) else list(calibrate)
            calibrate_batch_norm(model, batches, max_batches=calibration_batches)
            if head is not None:
                fit_ridge_head(model, batches)
    return mapping


def load_donor(donor: Donor, model: nn.Module, donor_model: nn.Module | str | None = None) -> nn.Module:
    """A donor as a module with its values; see :func:`initialize_from_donor`.

    Raises:
        CheckpointError: It cannot be read, or its tensors are not those of its module.
    """
    if isinstance(donor, nn.Module):
        return donor
    if isinstance(donor, Mapping):
        state, name = dict(donor), "The state dict"
    else:
        path = Path(donor)
        state, name = _read(path), repr(str(path))
        if donor_model is None and (path / "config.json").is_file():
            donor_model = f"hf:{path}"
    if isinstance(donor_model, str):
        donor_model = build_model(donor_model, on_meta=False)
    module = copy.deepcopy(model if donor_model is None else donor_model)
    own = module.state_dict()
    wrong = [key for key, value in own.items() if key in state and state[key].shape != value.shape]
    quantised = [
        key for key, value in own.items()
        if key in state and value.is_floating_point() and not state[key].is_floating_point()
    ]  # fmt: skip
    if quantised:
        raise CheckpointError(
            f"{name} is quantised: {quantised[0]!r} holds {state[quantised[0]].dtype}. Dequantise it first; its values "
            "mean nothing without their scales."
        )
    missing = [key for key in dict(module.named_parameters()) if key not in state and key in own]
    if wrong or (missing and len(missing) == len(list(module.parameters()))):
        example = wrong[0] if wrong else missing[0]
        raise CheckpointError(
            f"{name} is no checkpoint of {type(module).__name__} ({example!r} {'differs' if wrong else 'is missing'}): "
            "pass the module that it belongs to as `donor_model=`, or its name, such as 'timm:resnet34'."
        )
    if missing:
        raise CheckpointError(
            f"{name} lacks {len(missing)} parameters of {type(module).__name__}, such as {missing[0]!r}."
        )
    try:
        module.load_state_dict({key: value for key, value in state.items() if key in own}, strict=False)
    except RuntimeError as error:
        raise ParameterError(f"{name} could not be loaded into {type(module).__name__}: {error}") from error
    return module


def _read(path: Path) -> dict[str, Tensor]:
    if path.is_dir():
        for index in _INDICES:
            if (path / index).is_file():
                return read_indexed(path / index)
        for file in _WEIGHTS:
            if (path / file).is_file():
                return state_in(read_file(path / file), path / file)
        raise CheckpointError(
            f"{str(path)!r} holds no weights: expected one of {', '.join((*_WEIGHTS, *_INDICES))}, as save_pretrained "
            "writes them."
        )
    return state_in(read_file(path), path)
