import pytest
import torch

import hypergen
from hypergen.architectures import Architecture
from hypergen.functional.stacked_module import StackedModule
from hypergen.metanets.property_prediction.model import PropertyPredictor

IMAGE = {"image_size": 8, "channels": 1, "num_classes": 10}
ARCHITECTURES = [
    Architecture("mlp", {**IMAGE, "widths": [6, 5], "norm": "none"}),
    Architecture("cnn", {**IMAGE, "widths": [4, 6], "depths": [1, 1], "norm": "batch", "head": "flatten"}),
    Architecture("vit", {**IMAGE, "width": 8, "depth": 1, "heads": 2, "patch_size": 4}),
]


def random_networks(architecture: Architecture):
    module = StackedModule(architecture.build)
    random = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.rand(value.shape, generator=random, dtype=torch.float64) + (name.endswith("running_var") - 0.5)
        for name, value in module.initialise([0, 1]).items()
        if value.is_floating_point()
    }
    return hypergen.trace(architecture.build(), torch.zeros(1, 1, 8, 8)), module, tensors


def predictor(**options) -> PropertyPredictor:
    torch.manual_seed(0)
    settings = {"classes": 10, "input_shape": [1, 8, 8], "probes": 4, "latent": 3, "hidden": 8}
    return PropertyPredictor(2, **{**settings, **options}).double().eval()


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda one: one.family)
@pytest.mark.parametrize("options", [{}, {"probes": 0}, {"graph": False}], ids=["both", "graph", "probes"])
def test_predictions_stay_when_neurons_are_permuted_and_only_then(architecture, options):
    traced, module, tensors = random_networks(architecture)
    graph, predict = traced.parameter_graph(), predictor(**options)
    found = predict(graph, module, tensors)
    assert found.shape == (2, 2)

    symmetry = traced.symmetry()
    permuted = symmetry.apply(tensors, symmetry.sample(torch.Generator().manual_seed(1)))
    assert any(not torch.equal(permuted[name], value) for name, value in tensors.items())
    torch.testing.assert_close(predict(graph, module, permuted), found, rtol=1e-9, atol=1e-9)

    # One matrix alone, without the layers that it reads and that read it.
    name = max(tensors, key=lambda key: tensors[key][0].numel())
    broken = {**tensors, name: tensors[name].roll(1, 1)}
    assert (predict(graph, module, broken) - found).abs().max() > 1e-6


def test_one_predictor_reads_networks_of_all_architectures_each_for_itself():
    predict = predictor()
    for architecture in ARCHITECTURES:
        traced, module, tensors = random_networks(architecture)
        together = predict(traced.parameter_graph(), module, tensors)
        alone = predict(traced.parameter_graph(), module, {name: value[1:] for name, value in tensors.items()})
        torch.testing.assert_close(together[1:], alone)


def test_something_must_be_read():
    with pytest.raises(ValueError, match="the graph, or a number of probes"):
        predictor(graph=False, probes=0)
