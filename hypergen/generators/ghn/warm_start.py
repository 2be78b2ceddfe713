"""Graph hypernetworks that start from the weights of another."""

from __future__ import annotations

from typing import Any

import torch

from hypergen.errors import GeneratorError
from hypergen.generators.ghn.model import GraphHypernetwork


def warm_started(source: str, **changes: Any) -> GraphHypernetwork:
    """A graph hypernetwork with the weights of another one, whose arguments may differ where shapes allow it.

    Args:
        source: What :func:`hypergen.load_generator` takes.
        changes: Arguments that differ from the source's. A larger ``vocabulary`` keeps the embeddings that there are;
            those of further operations start from that of unknown ones. ``graphs="canonical"`` and
            ``channel_identity`` change how graphs are read, at the same weights. Which graphs the source was trained
            on is forgotten.

    Raises:
        GeneratorError: The source is no graph hypernetwork, or a weight of the new one has another shape.
    """
    from hypergen.generators.factory import load_generator

    earlier = load_generator(source)
    if not isinstance(earlier, GraphHypernetwork):
        raise GeneratorError(f"{source!r} is a {type(earlier).__name__}; expected a GraphHypernetwork to start from")
    generator = GraphHypernetwork(**{**earlier.config, **changes})
    weights, own = (
        {name: value for name, value in each.state_dict().items() if not name.startswith("training_graphs.")}
        for each in (earlier, generator)
    )
    embedding = "node_features.operation.weight"
    missing = len(own[embedding]) - len(weights[embedding])
    if missing > 0:
        unknown = weights[embedding][-1:]
        weights[embedding] = torch.cat([weights[embedding][:-1], unknown.expand(missing + 1, -1)])
    attributes = "node_features.attributes.0.weight"
    further = own[attributes].shape[1] - weights[attributes].shape[1]
    if further > 0:  # canonical graphs tell more of a node, which means nothing at first
        weights[attributes] = torch.cat([weights[attributes], torch.zeros(len(own[attributes]), further)], 1)
    wrong = [name for name in own if name not in weights or weights[name].shape != own[name].shape]
    if wrong:
        raise GeneratorError(
            f"{source!r} can't be continued with {changes}: {wrong[0]!r} needs the shape {tuple(own[wrong[0]].shape)}; "
            "leave out the arguments that change shapes"
        )
    generator.load_state_dict(weights, strict=False)  # all but the training graphs
    return generator
