"""Every name of ``timm.list_models()``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import timm

from benchmarks.trace_suites import Case

EXCLUDED: Mapping[str, str] = {}


def cases() -> Iterator[Case]:
    """A case per name, without pretrained weights."""
    for name in timm.list_models():
        yield Case(name, partial(timm.create_model, name, pretrained=False))
