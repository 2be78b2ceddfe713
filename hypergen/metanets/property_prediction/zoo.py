"""Property prediction on a zoo as it lies on disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from hypergen.data.zoo import ZooDataModule, architecture_of
from hypergen.errors import HypergenError
from hypergen.functional.stacked_module import StackedModule
from hypergen.functional.stacked_outputs import logits_of
from hypergen.graph import trace
from hypergen.metanets.property_prediction.model import PropertyPredictor
from hypergen.metanets.property_prediction.training import MeasuredNetworks, PropertyPrediction


def measured_networks(data: ZooDataModule, target: str, split: str) -> list[MeasuredNetworks]:
    """The networks of a split by architecture, with one column of the zoo's index.

    Args:
        data: The zoo, with the images that its networks were trained on.
        target: Name of the column, such as ``"test.accuracy"``.
        split: ``"train"``, ``"validation"`` or ``"test"``.

    Raises:
        UnknownNameError: The zoo has no such column.
        HypergenError: The split has no network that the column is known of, or the column has no numbers.
    """
    if data.images is None:
        raise HypergenError("Networks are traced and probed with images; pass ZooDataModule(…, images=…).")
    part = data.part(split)
    values = part.column(target)
    if any(isinstance(value, (str, list, dict)) for value in values):
        raise HypergenError(f"The column {target!r} of the zoo has no numbers, so it cannot be predicted.")
    part = part.take(position for position, value in enumerate(values) if value is not None)
    if not len(part):
        raise HypergenError(f"The zoo {str(data.folder)!r} has no networks for {split} with {target!r}.")
    found = []
    image = data.images.tensors("train")[0][:1]
    for layout in dict.fromkeys(part.column("layout")):
        own = part.select(layout=layout)
        architecture = architecture_of(own)
        tensors = {name: value for name, value in own.stack().items() if value.is_floating_point()}
        measured = torch.tensor(own.column(target), dtype=torch.float32)[:, None]
        graph = trace(architecture.build(), image).parameter_graph()
        name = own.layout.name or layout
        found.append(MeasuredNetworks(name, StackedModule(architecture.build), graph, tensors, measured))
    return found


def predictor_for(data: ZooDataModule, metanetwork: Callable[..., PropertyPredictor]) -> PropertyPredictor:
    """Make a predictor of one property of the networks of a zoo.

    Args:
        data: The zoo, with the images that its networks were trained on.
        metanetwork: Maker of the predictor, from ``outputs``, ``classes`` and ``input_shape``.
    """
    if data.images is None:
        raise HypergenError("A predictor's probes have the shape of images; pass ZooDataModule(…, images=…).")
    data.check_task()
    inputs = data.images.tensors("train")[0][:1]
    with torch.random.fork_rng(devices=[]):
        model = architecture_of(data.part("train").take([0])).build().eval()
        classes = logits_of(model(torch.zeros_like(inputs))).shape[1]
    return metanetwork(outputs=1, classes=int(classes), input_shape=list(inputs.shape[1:]))


def property_prediction(
    predictor: PropertyPredictor, data: ZooDataModule, *, target: str, **options: Any
) -> PropertyPrediction:
    """The training of a predictor of one column of a zoo; ``options`` are those of :class:`PropertyPrediction`."""
    train, validation, test = (measured_networks(data, target, split) for split in ("train", "validation", "test"))
    return PropertyPrediction(predictor, train, validation, test=test, **options)
