"""Every name of ``torchvision.models.list_models()``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
import torchvision
from torch import nn
from torchvision import extension
from torchvision.models import get_model_builder, list_models

from benchmarks.trace_suites import Case

# Weights would be downloaded; a classifier's backbone has some of its own.
_NO_WEIGHTS = {"weights": None, "weights_backbone": None}

# Detectors call C++ operators. A torchvision that was built for another torch, as its default wheel is beside that for
# the CPU alone, has none of them and cannot run detectors at all.
_DETECTORS_RUN = extension._has_ops()

EXCLUDED: Mapping[str, str] = {
    **dict.fromkeys(
        list_models(module=torchvision.models.quantization),
        "quantised: its operations have packed integer weights instead of parameters",
    ),
    **dict.fromkeys(
        [] if _DETECTORS_RUN else list_models(module=torchvision.models.detection),
        "torchvision's C++ operators, without which detectors do not run, do not load here; traced is its backbone",
    ),
}


def cases() -> Iterator[Case]:
    """A case per name; the groups are torchvision's own modules."""
    for group in ("classification", "segmentation", "detection", "video", "optical_flow"):
        module = torchvision.models if group == "classification" else getattr(torchvision.models, group)
        for name in list_models(module=module):
            weights = _NO_WEIGHTS if group in ("segmentation", "detection") else {"weights": None}
            build = partial(get_model_builder(name), **weights)
            if name in EXCLUDED:
                yield Case(f"{name}.backbone", partial(_backbone, build), _image, group)
            else:
                yield Case(name, build, group=group)


def _backbone(build: Callable[[], nn.Module]) -> nn.Module:
    return build().get_submodule("backbone")


def _image() -> torch.Tensor:
    return torch.empty(1, 3, 320, 320, device="meta")
