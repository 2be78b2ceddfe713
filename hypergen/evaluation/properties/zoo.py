"""The evaluation of a predictor of properties on the unseen networks of a zoo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from hypergen.data.zoo import ZooDataModule
from hypergen.errors import HypergenError
from hypergen.evaluation.properties.baselines import baseline_predictions
from hypergen.evaluation.properties.figures import Predictions, property_rows
from hypergen.evaluation.properties.plots import write_property_plots
from hypergen.evaluation.results import Results
from hypergen.generators.checkpoint import save_tensors
from hypergen.metanets.probes import Probes
from hypergen.metanets.property_prediction.model import PropertyPredictor
from hypergen.metanets.property_prediction.training import PropertyPrediction


@dataclass(frozen=True)
class PropertyEvaluation:
    """How well a property was predicted.

    Attributes:
        results: Kendall's tau and r² of the metanetwork and of baselines.
        predictions: What each method predicted.
        predictor: The metanetwork.
    """

    results: Results
    predictions: Predictions
    predictor: PropertyPredictor

    def write(self, folder: str | Path) -> None:
        """Write results, plots and ``metanetwork.safetensors``."""
        self.results.write(folder)
        write_property_plots(self.predictions, folder)
        save_tensors(Path(folder) / "metanetwork.safetensors", self.predictor.state_dict())


def evaluate_property_prediction(
    trained: PropertyPrediction,
    data: ZooDataModule,
    *,
    probes: int = 64,
    aims: Mapping[str, float] | None = None,
    name: str = "metanetwork",
    seed: int = 0,
) -> PropertyEvaluation:
    """Compare a predictor with simple ones on the test networks of a zoo.

    Baselines learn from the training and the validation networks together, the predictor from the training networks.

    Args:
        trained: The LightningModule after training.
        data: The zoo, with its images.
        probes: Random inputs for the baseline that reads responses to them.
        aims: Target values by row.
        name: Name of the results.
        seed: Random seed of those inputs.

    Raises:
        HypergenError: There are fewer than two test networks, or no images.
    """
    test = trained.test
    count = sum(map(len, test))
    if count < 2 or data.images is None:
        raise HypergenError(f"Predictions are ranked on at least two test networks, with images; got {count}.")
    methods = {"metanetwork": [trained.predict(test)]}
    torch.manual_seed(seed)
    shape = list(data.images.tensors("train")[0].shape[1:])
    simple = baseline_predictions((trained.networks, trained.validation, test), Probes(probes, shape))
    methods |= {method: [found.reshape(count, -1)] for method, found in simple.items()}
    measured = torch.cat([each.properties for each in test])
    groups = torch.tensor([number for number, each in enumerate(test) for _ in range(len(each))])
    predictions = Predictions("test", ("property",), measured, methods, groups)
    rows = [replace(row, aim=(aims or {}).get(row.figure)) for row in property_rows(predictions, seed)]
    details = {"architectures": [each.name for each in test], "zoo": str(data.folder)}
    return PropertyEvaluation(Results(name, seed, tuple(rows), details), predictions, trained.predictor)
