import json
import subprocess
import sys

import pytest
import torch
from torch import nn

from experiments.held_out_libraries.networks import HeldOutNetwork, load_list
from experiments.held_out_libraries.run import evaluate_held_out
from hypergen.architectures import IdiomSpace
from hypergen.architectures.cost import without_initialisation
from hypergen.data import DigitsDataModule
from hypergen.errors import HypergenError
from hypergen.evaluation.image_data import ImageData

WRITTEN = [network for network in load_list() if network.constructor.startswith("experiments.")]
PACKAGES = ("vit_pytorch", "mlp_mixer_pytorch", "pytorchcv", "segmentation_models_pytorch", "efficientnet_pytorch")


def test_the_list_is_long_and_of_many_sources():
    networks = load_list()
    assert len(networks) >= 60 and len({network.source for network in networks}) >= 6
    assert {"cnn", "tokens", "mixer", "recurrent", "perceptron"} == {network.kind for network in networks}


def test_training_imports_none_of_the_sources():
    code = (
        "import sys; from hypergen.architectures import IdiomSpace;"
        "space = IdiomSpace(idioms=['library', 'block_net']);"
        "[space.sample(seed).build() for seed in range(25)];"
        f"found = [name for name in {(*PACKAGES, 'transformers', 'experiments')} if name in sys.modules];"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def shapes(network: nn.Module) -> tuple:
    return tuple(sorted(tuple(parameter.shape) for parameter in network.parameters()))


def test_training_draws_no_copy_of_a_held_out_network():
    held_out = {shapes(network.build()) for network in WRITTEN if "efficientnet" not in network.name}
    space = IdiomSpace(idioms=["tutorial_cnn", "perceptron", "recurrent"])
    with without_initialisation():
        drawn = {shapes(space.sample(seed).build()) for seed in range(300)}
    assert not held_out & drawn


@pytest.mark.parametrize("network", WRITTEN, ids=lambda network: network.name)
def test_networks_written_from_descriptions_give_logits(network: HeldOutNetwork):
    if "efficientnet" in network.name:
        pytest.importorskip("efficientnet_pytorch")
    assert network.build().eval()(torch.randn(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("package", PACKAGES)
def test_networks_of_packages_give_logits(package: str):
    pytest.importorskip(package)
    chosen = [network for network in load_list() if network.constructor.startswith(package)]
    for network in chosen:
        assert network.build().eval()(torch.randn(2, 1, 8, 8)).shape == (2, 10), network.name


class Constant:
    """Predicts zeros, or fails."""

    def __init__(self, fails: bool = False) -> None:
        self.fails = fails

    def generate(self, target, condition=None, *, example_inputs=None):
        if self.fails:
            raise HypergenError("no")
        return {name: torch.zeros_like(parameter) for name, parameter in target.named_parameters()}


def evaluated(generator, steps: int = 0) -> dict:
    chosen = [network for network in WRITTEN if network.name in ("lenet5", "keras_mnist_convnet")]
    results = evaluate_held_out(generator, ImageData.read(DigitsDataModule()), chosen, steps=steps)
    return {row["figure"]: row for row in json.loads(results.to_json())["rows"]}


def test_zeros_are_at_chance_and_random_features_are_not():
    rows = evaluated(Constant())
    assert rows["held_out_libraries_mean"]["value"] < 0.15 and rows["held_out_libraries_mean"]["n"] == 2
    assert rows["held_out_libraries_ridge_default_mean"]["value"] > 0.5
    assert rows["held_out_libraries_ridge_margin"]["value"] < -0.3
    assert rows["held_out_libraries_failed"]["value"] == 0


def test_a_failure_counts_as_zero_and_training_is_compared():
    rows = evaluated(Constant(fails=True), steps=3)
    assert rows["held_out_libraries_mean"]["value"] == 0 and rows["held_out_libraries_failed"]["value"] == 2
    assert rows["held_out_libraries_3_steps_mean"]["value"] == 0
    assert rows["held_out_libraries_3_steps_default_mean"]["value"] > 0.1


def test_errors_name_the_list_and_the_package(tmp_path):
    (tmp_path / "list.json").write_text('{"networks": [{"name": "a", "source": "b"}]}')
    with pytest.raises(HypergenError, match="no list of held-out networks"):
        load_list(tmp_path / "list.json")
    entry = {"name": "a", "source": "b", "kind": "cnn", "constructor": "no_such_package:Net"}
    (tmp_path / "list.json").write_text(json.dumps({"networks": [entry, entry]}))
    with pytest.raises(HypergenError, match="more than once"):
        load_list(tmp_path / "list.json")
    with pytest.raises(HypergenError, match=r"hypergen-weights\[held-out\]"):
        HeldOutNetwork(**entry).build()
