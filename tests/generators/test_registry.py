import shutil

import pytest
import torch
from torch import nn

from hypergen.errors import CheckpointError, UnknownNameError
from hypergen.generators import (
    Generator,
    factory,
    generator_class,
    list_generators,
    load_generator,
    register_generator,
)
from hypergen.generators.registry import exported_names, registered_names


@register_generator
class Constant(Generator):
    def __init__(self, value: float = 1.0):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def predict(self, target, condition=None, *, example_inputs=None):
        return {name: self.value.expand(parameter.shape) for name, parameter in target.named_parameters()}


@pytest.fixture
def released(tmp_path, monkeypatch):
    folder = tmp_path / "released"
    for name in ("digits-ghn", "digits-small", "cifar10-ghn"):
        Constant().save_pretrained(folder / name)
    (folder / "unfinished").mkdir()
    monkeypatch.setattr(factory, "RELEASED", folder)
    monkeypatch.chdir(tmp_path)
    return folder


def test_list(released):
    assert list_generators() == ["cifar10-ghn", "digits-ghn", "digits-small"]
    assert list_generators("digits-*") == ["digits-ghn", "digits-small"]
    assert list_generators("imagenet*") == []


def test_resolution_order(released, tmp_path, monkeypatch):
    import huggingface_hub

    def refuse(repository, **_):
        raise ConnectionError(f"asked for {repository}")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    # A released name wins over a folder of the same name, which a path still reaches.
    Constant(2.0).save_pretrained(tmp_path / "digits-ghn")
    assert load_generator("digits-ghn").value.item() == 1.0
    assert load_generator("./digits-ghn").value.item() == 2.0
    assert load_generator(tmp_path / "digits-ghn").value.item() == 2.0
    Constant(3.0).save_pretrained(tmp_path / "mine")
    assert load_generator("mine").value.item() == 3.0
    assert load_generator("mine/model.safetensors").value.item() == 3.0
    # A folder wins over a repository of the same name.
    shutil.copytree(tmp_path / "mine", tmp_path / "owner" / "mine")
    assert load_generator("owner/mine").value.item() == 3.0
    with pytest.raises(CheckpointError, match="asked for owner/other"):
        load_generator("owner/other")


def test_unknown_name_gives_the_nearest(released):
    with pytest.raises(UnknownNameError, match=r"Unknown generator 'digit-ghn'\. Did you mean 'digits-ghn'"):
        load_generator("digit-ghn")
    with pytest.raises(UnknownNameError, match="Known: 'cifar10-ghn', 'digits-ghn', 'digits-small'"):
        load_generator("zzzzzzzz")


@pytest.mark.parametrize("path", ["outputs/a/b", "./outputs", "weights.safetensors", "~/no/such/folder"])
def test_missing_paths_are_called_paths(released, path):
    with pytest.raises(CheckpointError, match="no such file or folder"):
        load_generator(path)


METHODS = [
    "AutoregressiveGenerator",
    "CheckpointTransformer",
    "GraphHypernetwork",
    "HyperRepresentation",
    "LatentDiffusion",
    "RecurrentDiffusion",
    "ReleasedGraphHypernetwork",
]


def test_classes_of_the_package_load_when_named():
    for name in METHODS:
        assert generator_class(name).__name__ == name
    assert set(METHODS) <= set(registered_names())


def test_what_a_method_exports_beside_its_generator_is_no_generator():
    assert "WeightAutoencoder" in exported_names()
    with pytest.raises(CheckpointError, match="Unknown generator class 'WeightAutoencoder'"):
        generator_class("WeightAutoencoder")


def test_two_classes_of_one_name():
    assert register_generator(Constant) is Constant
    other = type("Constant", (Constant,), {"__module__": "elsewhere"})
    with pytest.raises(ValueError, match="'Constant' is registered already"):
        register_generator(other)
    assert generator_class("Constant") is Constant


def test_unregistered_class(tmp_path):
    class Private(Constant):
        pass

    Private().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="Unknown generator class 'Private'.*import the module that registers it"):
        load_generator(tmp_path)
