"""How many tokens a model's image, clip or sound takes the place of in its prompt."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch

from hypergen.graph.inventory import on_loan, take_inventory
from hypergen.graph.known_values import KnownValues
from hypergen.graph.recorder import Recorder
from hypergen.graph.tensors import map_tensors, tensors_in


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
    for values in (None, KnownValues(guess=True)):
        with suppress(Exception), torch.no_grad():
            recorder = Recorder(inventory, "meta", values)
            given = map_tensors(dict(arguments), recorder.add_input)
            with on_loan(inventory.modules, recorder.bring, recorder.enter, recorder.leave), recorder:
                result = getattr(model, method)(**given)
            # The vectors of the text's width, behind what the tower puts out by the way.
            features = tensors_in([getattr(result, "pooler_output", None)]) or tensors_in([result])
            return sum(feature.numel() // feature.shape[-1] for feature in features)
    return 0
