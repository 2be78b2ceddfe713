import json
from functools import partial

import pytest
import pytorch_lightning as pl

from experiments.pruning.run import METHODS, train_pruning
from hypergen.architectures import Architecture
from hypergen.data import DigitsDataModule
from hypergen.metanets.meta_pruning.model import PruningMetanetwork
from hypergen.metanets.meta_pruning.training import MetaPruningTraining


def test_the_experiment_compares_methods_at_the_same_cost(tmp_path):
    results = train_pruning(
        name="pruning",
        output=str(tmp_path),
        seed=0,
        data=DigitsDataModule(),
        architectures={
            "mlp": Architecture(
                "mlp", {"image_size": 8, "channels": 1, "num_classes": 10, "widths": [16], "norm": "batch"}
            )
        },
        networks={"mlp": 6},
        metanetwork=PruningMetanetwork(hidden=4, layers=1),
        training=partial(MetaPruningTraining, steps=4, gradient_images=64),
        trainer=partial(pl.Trainer, accelerator="cpu", devices=1, max_epochs=-1),
        held_out=3,
        steps=60,
        snapshots=[30],
        learning_rate=1e-2,
        flops=0.3,
        finetuning_steps=6,
        finetuning_rates=[1e-2],
        aims={"accuracy_over_magnitude_mlp": 0.0},
    )
    assert 0.2 < results["flops_share_mlp"].value <= 0.3
    for method in METHODS:
        assert results[f"accuracy_mlp_{method}"].n == 3
        difference = results["accuracy_mlp_metanetwork"].value - results[f"accuracy_mlp_{method}"].value
        if method != "metanetwork":
            assert results[f"accuracy_over_{method}_mlp"].value == pytest.approx(difference)
    assert results["accuracy_over_magnitude_mlp"].aim == 0.0 and results.rows[0].aim == 0.0
    # What any method leaves is worse than the whole network, and better than nothing.
    assert results["accuracy_mlp_unpruned"].value > results["accuracy_mlp_magnitude"].value
    assert results["accuracy_mlp_magnitude"].value > results["accuracy_mlp_scratch"].value
    assert results["accuracy_mlp_magnitude"].value > results["pruned_accuracy_mlp_magnitude"].value
    assert (tmp_path / "pruning.png").stat().st_size > 1000
    assert (tmp_path / "metanetwork.safetensors").exists()
    assert json.loads((tmp_path / "results.json").read_text())["details"]["counts"]["mlp"]
