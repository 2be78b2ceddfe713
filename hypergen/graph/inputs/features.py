"""How many tokens a model's image, clip or sound takes the place of in its prompt."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from hypergen.graph.tracing.inventory import swapped_tensors, take_inventory
from hypergen.graph.tracing.known_values import KnownValues
from hypergen.graph.tracing.recorder import Recorder
from hypergen.graph.tracing.tensors import map_tensors, tensors_in

# How models complain of a prompt that has another number of placeholders than what they are shown has vectors.
_COMPLAINT = re.compile(r"tokens: \d+, features:? (\d+)")


def count_features(model: Any, method: str, arguments: Mapping[str, Any]) -> int:
    """Number of vectors that a tower makes of its input.

    Args:
        model: The network, which is left as it was.
        method: The method that runs the tower, for example ``"get_image_features"``.
        arguments: What it is called with.

    Returns:
        Their number; 0 where the method cannot be run.
    """
    inventory = take_inventory(model)
    count = 0
    for values in (None, KnownValues(guess=True)):
        try:
            recorder = Recorder(inventory, "meta", values)
            given = map_tensors(dict(arguments), recorder.add_input)
            with (
                torch.no_grad(),
                swapped_tensors(inventory.modules, recorder.bring, recorder.enter, recorder.leave),
                recorder,
            ):
                result = getattr(model, method)(**given)
            # The vectors of the text's width, behind what the tower puts out by the way.
            features = tensors_in([getattr(result, "pooler_output", None)]) or tensors_in([result])
            return sum(feature.numel() // feature.shape[_width_axis(feature)] for feature in features)
        except Exception as error:
            complaint = _COMPLAINT.search(str(error))
            count = int(complaint[1]) if complaint else count
    return count


def _width_axis(features: torch.Tensor) -> int:
    """The last one, but in a map of an image, which has it before rows and columns."""
    is_map = features.dim() == 3 and features.shape[0] > 1 and features.shape[1] == features.shape[2]
    return 0 if is_map else -1
