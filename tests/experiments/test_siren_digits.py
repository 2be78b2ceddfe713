import json
from functools import partial

import pytest
import pytorch_lightning as pl
import torch

from experiments.siren_digits.baselines import DrawnPictures, baseline_edits, errors, finetuning_errors
from experiments.siren_digits.classification import SirenClassification
from experiments.siren_digits.editing import SirenEditing
from experiments.siren_digits.run import train_siren_digits
from experiments.siren_digits.zoo import fit_sirens, render, stacked_siren
from hypergen.data import DigitsDataModule
from hypergen.errors import HypergenError
from hypergen.zoo import Zoo


def train(output, **options):
    settings = {"hidden": 8, "layers": 1, "steps": 3}
    return train_siren_digits(
        name="siren_digits",
        output=str(output),
        seed=0,
        trainer=partial(pl.Trainer, accelerator="cpu", max_epochs=-1, enable_model_summary=False),
        sirens=stacked_siren([6, 6]),
        fitting=partial(fit_sirens, steps=20, learning_rate=1e-2),
        copies=2,
        classification=partial(SirenClassification, **settings),
        probes=4,
        steps_with_probes=2,
        editing=partial(SirenEditing, **settings),
        images=40,
        aims={"siren_digits_accuracy": 0.9},
        **{"data": DigitsDataModule(), **options},
    )


def test_the_experiment_writes_figures_pictures_and_the_zoo(tmp_path):
    results = train(tmp_path)
    first = results.rows[0]
    assert (first.figure, first.aim, first.n) == ("siren_digits_accuracy", 0.9, 40)
    selected = results.details["selected"]
    assert first.value == results[f"siren_digits_accuracy_{selected}"].value
    other = next(kind for kind in ("with_probes", "without_probes") if kind != selected)
    validation = [results[f"siren_digits_validation_accuracy_{kind}"].value for kind in (selected, other)]
    assert validation[0] >= validation[1]
    assert results["sirens"].value == 4 * 40
    assert json.loads((tmp_path / "results.json").read_text())["rows"][0]["figure"] == "siren_digits_accuracy"
    assert {path.name for path in tmp_path.glob("*.png")} == {"accuracy.png", "edits.png"}
    zoo = Zoo(tmp_path / "zoo")
    assert {split: len(zoo.split(split, by="run")) for split in ("train", "validation", "test")} == {
        "train": 80,
        "validation": 40,
        "test": 40,
    }


def test_coloured_images_are_refused(tmp_path):
    data = DigitsDataModule()
    data.channels = 3
    with pytest.raises(HypergenError, match="3 channels"):
        train(tmp_path, data=data)


@pytest.fixture(scope="module")
def drawn():
    random = torch.Generator().manual_seed(0)
    sirens, pictures = stacked_siren([6, 6]), torch.rand(8, 4, 4, generator=random)
    return sirens, DrawnPictures(fit_sirens(sirens, pictures, range(8), steps=100), pictures, torch.arange(8) % 2)


def test_an_affine_edit_is_exact_for_the_affine_baseline(drawn):
    sirens, pictures = drawn
    own = DrawnPictures(pictures.networks, render(sirens, pictures.networks, (4, 4)), pictures.labels)
    edited = baseline_edits(own, own, lambda values: 0.5 * values + 0.25, sirens, steps=40)
    found = {kind: errors(sirens, networks, 0.5 * own.pictures + 0.25).mean() for kind, networks in edited.items()}
    assert found["output_affine"] < 1e-8 < 1e-3 < found["no_edit"]
    assert all(torch.equal(value, own.networks[name]) for name, value in edited["no_edit"].items())
    assert not torch.allclose(edited["mean_change"]["layers.0.bias"], edited["class_mean_change"]["layers.0.bias"])


def test_more_finetuning_leaves_less_error(drawn):
    sirens, pictures = drawn
    found = finetuning_errors(sirens, pictures, 1 - pictures.pictures, (0, 20, 80))
    assert found[0].mean() > found[20].mean() > found[80].mean()
