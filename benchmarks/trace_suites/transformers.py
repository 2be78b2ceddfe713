"""Every model type of Transformers, small, with every class that its auto classes make for it.

The group ``type`` has one network per model type, without a head where there is such a class; ``head`` has the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import torch

from benchmarks.trace_suites import Case
from hypergen.architectures.hugging_face.small import model_class, model_class_names, small_configs, small_model
from hypergen.graph.inputs import example_arguments
from hypergen.graph.tracing.tensors import map_tensors

_MOST_PARAMETERS = 250_000_000
_SESSION = "takes a session object that holds a video, no tensors"
_NO_FORWARD = "has no forward pass, only generate()"
_UNTRACED: dict[str, str] = {
    "bark": _NO_FORWARD,
    "edgetam_video": _SESSION,
    "glm_image_vqmodel": "has no forward pass, only encode()",
    "higgs_audio_v2_tokenizer": "asks for torchaudio, which is not among hypergen's dependencies",
    "nougat": "transformers cannot make its default configuration (it names an unknown type, donut_swin)",
    "gemma4_assistant": "transformers refuses its own default configuration",
    "qwen2_5_omni": _NO_FORWARD,
    "qwen3_omni_moe": _NO_FORWARD,
    "rag": "asks for datasets and an index of documents",
    "sam2_video": _SESSION,
    "sam3_tracker_video": _SESSION,
    "sam3_video": _SESSION,
    "voxtral_realtime_text": "is a part of voxtral_realtime and takes a condition that its signature does not name",
    "timm_backbone": "is whatever timm network its configuration names; the suite timm has them",
    "timm_wrapper": "is whatever timm network its configuration names; the suite timm has them",
}
_PART = "is a configuration of a part of other types: the auto classes make no model of it"

EXCLUDED: Mapping[str, str] = _UNTRACED | {name: _PART for name, classes in model_class_names().items() if not classes}


def cases() -> Iterator[Case]:
    """A case per type and class, named ``type/ModelClass``."""
    import transformers.modeling_utils  # noqa: F401  # A second's work, done once for all forked processes.

    for model_type, class_names in model_class_names().items():
        for class_name in class_names if model_type not in EXCLUDED else ():
            group = "type" if class_name == class_names[0] else "head"
            named = f"{model_type}/{class_name}", partial(small_model, model_type, class_name)
            yield Case(*named, group=group, not_run=partial(why_not_run, model_type, class_name))


def why_not_run(model_type: str, class_name: str) -> str:
    """Why PyTorch runs no small network of a class on its example inputs; empty if it runs one, or may run one.

    That hypergen knows no example for an argument, or that a network is too large to be tried, is no reason.
    """
    cls = model_class(model_type, class_name)
    reason = ""
    for config in small_configs(model_type):
        try:
            with torch.device("meta"):
                size = sum(parameter.numel() for parameter in cls(config).parameters())
            if size > _MOST_PARAMETERS:
                return reason
            with torch.device("cpu"):
                model = cls(config).eval()
        except Exception as error:
            reason = reason or f"cannot be built: {type(error).__name__}: {error}"
            continue
        args, kwargs = map_tensors(example_arguments(model), _with_values)
        try:
            with torch.no_grad():
                model(*args, **kwargs)
            return ""
        except Exception as error:
            if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
                return reason
            reason = reason or f"{type(error).__name__}: {error}"
    return reason or "transformers refuses every small configuration"


def _with_values(tensor: torch.Tensor) -> torch.Tensor:
    return torch.rand(tensor.shape, dtype=tensor.dtype) if tensor.is_meta else tensor
