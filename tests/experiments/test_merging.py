import json

import pytest
import torch

from experiments.merging.run import Curve, train_merging, walk
from hypergen.architectures import Architecture
from hypergen.data import DigitsDataModule

SHAPE = {"image_size": 8, "channels": 1, "num_classes": 10}
MLP = Architecture("mlp", {**SHAPE, "widths": [32], "norm": "batch"})


def test_a_barrier_is_the_rise_over_the_line_between_the_ends():
    curve = Curve(torch.tensor([1.0, 2.0, 2.5, 2.0, 2.0]), torch.tensor([0.9, 0.5, 0.4, 0.5, 0.8]))
    assert curve.barrier == pytest.approx(1.0) and curve.midpoint == pytest.approx(0.4)
    assert Curve(torch.tensor([1.0, 1.0, 3.0]), torch.ones(3)).barrier == 0  # below the line there is none


def test_the_ends_of_a_walk_are_the_networks():
    data = DigitsDataModule()
    splits = {split: data.tensors(split) for split in ("train", "test")}
    model = Architecture("mlp", {**SHAPE, "widths": [8], "norm": "none"}).build()
    a = {name: value.clone() for name, value in model.state_dict().items()}
    images, labels = splits["test"]
    expected = torch.nn.functional.cross_entropy(model(images), labels).item()
    curve = walk(model, a, {name: torch.zeros_like(value) for name, value in a.items()}, splits, 3)
    assert float(curve.loss[0]) == pytest.approx(expected)
    assert float(curve.loss[-1]) == pytest.approx(torch.tensor(10.0).log().item())  # zeros say nothing


def test_the_experiment_finds_lower_barriers(tmp_path):
    results = train_merging(
        name="merging",
        output=str(tmp_path),
        seed=0,
        data=DigitsDataModule(),
        architectures={"mlp": MLP},
        pairs=2,
        steps=60,
        learning_rate=1e-2,
        points=3,
    )
    assert results["accuracy_mlp"].n == 4 and results["accuracy_mlp"].value > 0.85
    assert results["barrier_mlp_aligned"].value < results["barrier_mlp_none"].value
    assert 0 < results["distance_ratio_mlp"].value < 1
    assert (tmp_path / "interpolation.png").stat().st_size > 1000
    assert len(json.loads((tmp_path / "results.json").read_text())["rows"]) == len(results.rows)
    with pytest.raises(ValueError, match="odd"):
        train_merging(name="", output="", seed=0, data=DigitsDataModule(), architectures={}, points=4)
