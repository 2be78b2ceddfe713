import pytest
import pytorch_lightning as pl
import torch
from torchmetrics.functional import kendall_rank_corrcoef

import hypergen
from hypergen.architectures import Architecture
from hypergen.errors import ParameterError
from hypergen.functional.stacked_module import StackedModule
from hypergen.metanets.property_prediction.model import PropertyPredictor
from hypergen.metanets.property_prediction.training import MeasuredNetworks, PropertyPrediction

IMAGE = {"image_size": 4, "channels": 1, "num_classes": 3}


def measured(widths: list[int], networks: int) -> MeasuredNetworks:
    """Networks whose first property is the logarithm of their scale."""
    architecture = Architecture("mlp", {**IMAGE, "widths": widths, "norm": "none"})
    module = StackedModule(architecture.build)
    scales = torch.logspace(-1, 1, networks)[torch.randperm(networks, generator=torch.Generator().manual_seed(0))]
    tensors = {
        name: value * scales.view(-1, *[1] * (value.dim() - 1))
        for name, value in module.initialise(range(networks)).items()
    }
    graph = hypergen.trace(architecture.build(), torch.zeros(1, 1, 4, 4)).parameter_graph()
    return MeasuredNetworks(architecture.name, module, graph, tensors, torch.stack([scales.log(), scales], 1))


def fit(module: PropertyPrediction, tmp_path) -> None:
    trainer = pl.Trainer(
        max_steps=module.steps,
        max_epochs=-1,
        val_check_interval=20,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        default_root_dir=tmp_path,
    )
    trainer.fit(module)


def predictor() -> PropertyPredictor:
    torch.manual_seed(0)
    return PropertyPredictor(2, 3, [1, 4, 4], probes=4, latent=3, hidden=8, layers=1, dropout=0.0)


def test_training_ranks_unseen_networks_and_keeps_the_best_predictor(tmp_path):
    networks = [measured([5], 60), measured([4, 4], 40)]
    train, validation = ([each[part] for each in networks] for part in (slice(0, 30), slice(30, None)))
    options = {"steps": 60, "batch_size": 16, "architectures_per_step": 2, "learning_rate": 1e-2}
    module = PropertyPrediction(predictor(), train, validation, **options)
    fit(module, tmp_path)
    predicted = module.predict(validation)
    known = torch.cat([each.properties for each in validation])
    assert predicted.shape == known.shape == (40, 2)
    assert module.best_tau > 0.4
    assert float(kendall_rank_corrcoef(predicted[:, 0], known[:, 0])) == pytest.approx(module.best_tau, abs=1e-5)

    # A worse predictor is not kept.
    with torch.no_grad():
        for value in module.predictor.parameters():
            value.zero_()
    module.log = lambda *_, **__: None
    module.validation_step(0, 0)
    module.on_fit_end()
    assert torch.equal(module.predict(validation), predicted)


def test_the_seed_decides_the_batches():
    networks = [measured([5], 20)]
    losses = []
    for seed in (0, 0, 1):
        module = PropertyPrediction(predictor().eval(), networks, networks, steps=2, batch_size=4, seed=seed)
        losses.append(module.training_step(0, 0).item())
    assert losses[0] == losses[1] != losses[2]


def test_networks_that_are_not_finite_are_named():
    networks = measured([5], 8)
    name = next(iter(networks.tensors))
    broken = {**networks.tensors, name: networks.tensors[name].clone()}
    broken[name][3, 0, 0] = torch.nan
    with pytest.raises(ParameterError, match=rf"{name} has values that are not finite in the networks \[3\]"):
        MeasuredNetworks("mlp", networks.network, networks.graph, broken, networks.properties)
    with pytest.raises(ParameterError, match="is of 8 networks; the properties are of 5"):
        MeasuredNetworks("mlp", networks.network, networks.graph, networks.tensors, networks.properties[:5])
