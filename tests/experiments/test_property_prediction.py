from functools import partial

import pytest
import pytorch_lightning as pl
import torch

from experiments.property_prediction.measured_zoo import from_targets, measured_zoo, to_targets
from experiments.property_prediction.run import train_property_prediction
from hypergen.architectures import Architecture
from hypergen.data.digits import DigitsDataModule
from hypergen.errors import HypergenError
from hypergen.evaluation.properties import baselines as property_baselines
from hypergen.functional.stacked import seen_images
from hypergen.metanets.property_prediction.model import PropertyPredictor
from hypergen.metanets.property_prediction.training import PropertyPrediction
from hypergen.zoo.build.plan import ZooPlan

IMAGE = {"image_size": 8, "channels": 1, "num_classes": 10}
METHODS = {"metanetwork": True, "probes_alone": False}


@pytest.fixture(scope="module")
def data() -> DigitsDataModule:
    return DigitsDataModule(64, 0, 0)


def plan(**options) -> ZooPlan:
    architectures = [Architecture("mlp", {**IMAGE, "widths": [width], "norm": "batch"}) for width in (6, 4)]
    settings = {"networks": 20, "steps": 20, "save_every": 10, "data_fraction": [0.01, 1.0]}
    return ZooPlan(architectures, **{**settings, **options})


def test_measured_networks_are_the_last_of_each_run_with_their_own_gap(tmp_path, data):
    zoo = measured_zoo(tmp_path, plan(), data, "digits", 0.1, 0.2)
    for split, count in (("train", 14), ("validation", 2), ("test", 4)):
        assert [len(each) for each in getattr(zoo, split)] == [count, count]
    # The last network of the first architecture, measured by hand.
    each = zoo.test[0]
    recipe = plan().recipe(plan().architectures[0], 19)
    network = plan().architectures[0].build().eval()
    network.load_state_dict({name: value[-1] for name, value in each.tensors.items()}, strict=False)
    images, labels = data.tensors("train")
    seen = seen_images(recipe.data_seed, recipe.data_fraction, len(images))
    accuracies = {}
    for split, (inputs, classes) in {"seen": (images[seen], labels[seen]), "test": data.tensors("test")}.items():
        with torch.no_grad():
            accuracies[split] = float((network(inputs).argmax(1) == classes).float().mean())
    accuracy, gap = from_targets(each.properties)[-1].tolist()
    assert accuracy == pytest.approx(accuracies["test"], abs=1e-5)
    assert gap == pytest.approx(accuracies["seen"] - accuracies["test"], abs=1e-5)
    assert zoo.by_validation_images.shape == (8, 2)


def test_targets_can_be_turned_back():
    accuracy, gap = torch.tensor([0.1, 0.5, 0.97]), torch.tensor([0.0, -0.1, 0.3])
    torch.testing.assert_close(from_targets(to_targets(accuracy, gap)), torch.stack([accuracy, gap], 1))
    assert to_targets(torch.ones(1), torch.zeros(1)).isfinite().all()


def test_too_few_networks_are_refused(tmp_path, data):
    with pytest.raises(HypergenError, match="6 networks are too few"):
        measured_zoo(tmp_path, plan(networks=6, steps=1, save_every=1), data, "digits", 0.1, 0.2)


def test_a_tiny_run_end_to_end(tmp_path, data, monkeypatch):
    monkeypatch.setattr(property_baselines, "BOOSTING", ({"max_iter": 2, "min_samples_leaf": 5},))
    shape = {"probes": 3, "latent": 2, "hidden": 8, "layers": 1}
    arguments = {
        "name": "tiny",
        "seed": 0,
        "data": data,
        "data_name": "digits",
        "zoos": {"mixed": plan()},
        "predictors": {name: partial(PropertyPredictor, **shape, graph=graph) for name, graph in METHODS.items()},
        "training": partial(PropertyPrediction, steps=4, batch_size=4),
        "trainer": partial(
            pl.Trainer,
            max_steps=4,
            max_epochs=-1,
            val_check_interval=2,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            enable_model_summary=False,
            accelerator="cpu",
        ),
        "seeds": 2,
        "aims": {"kendall_tau_mixed_zoo": 0.8},
    }
    results = train_property_prediction(output=str(tmp_path), **arguments)
    assert results["kendall_tau_mixed_zoo"].aim == 0.8 and results["kendall_tau_mixed_zoo"].n == 8
    baselines = ("statistics", "statistics_per_architecture")
    best = max(results[f"kendall_tau_mixed_zoo_{method}"].value for method in baselines)
    margin = results["kendall_tau_mixed_zoo_margin_over_statistics"].value
    assert margin == pytest.approx(results["kendall_tau_mixed_zoo"].value - best, abs=1e-6)
    assert results["kendall_tau_mixed_zoo_validation_images"].value > 0.5
    assert "gap_kendall_tau_mixed_zoo_probes_alone" in results
    assert results["kendall_tau_mixed_zoo_over_trainings"].n == 2
    assert {path.name for path in tmp_path.iterdir()} >= {
        "results.json",
        "results.md",
        "mixed_zoo_predictions.png",
        "mixed_zoo_tau.png",
        "zoo_mixed",
    }
