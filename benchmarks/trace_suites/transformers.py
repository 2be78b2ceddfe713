"""Every model type of ``transformers.CONFIG_MAPPING``, small, with every head that its auto classes know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from benchmarks.trace_suites import Case
from hypergen.hugging_face import model_class_names, small_model

EXCLUDED: Mapping[str, str] = {}


def cases() -> Iterator[Case]:
    """A case per type and head, named ``type/ModelClass``; the type is its group."""
    for model_type, class_names in model_class_names().items():
        for class_name in class_names:
            yield Case(f"{model_type}/{class_name}", partial(small_model, model_type, class_name), group=model_type)
