"""Every name of ``torchvision.models.list_models()``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import torchvision
from torchvision.models import get_model_builder, list_models

from benchmarks.trace_suites import Case

# Weights would be downloaded; a classifier's backbone has some of its own.
_NO_WEIGHTS = {"weights": None, "weights_backbone": None}

EXCLUDED: Mapping[str, str] = dict.fromkeys(
    list_models(module=torchvision.models.quantization),
    "quantised: its operations have packed integer weights instead of parameters",
)


def cases() -> Iterator[Case]:
    """A case per name; the groups are torchvision's own modules."""
    for group in ("classification", "segmentation", "detection", "video", "optical_flow"):
        module = torchvision.models if group == "classification" else getattr(torchvision.models, group)
        for name in list_models(module=module):
            weights = _NO_WEIGHTS if group in ("segmentation", "detection") else {"weights": None}
            yield Case(name, partial(get_model_builder(name), **weights), group=group)
