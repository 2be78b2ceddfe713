"""A miniature of the whole protocol: four small networks, their baselines, and generators of known quality."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hypergen.architectures import Architecture
from hypergen.data import DigitsDataModule
from hypergen.evaluation import BaselineProtocol, ImageData, StepsProtocol, compute_baselines
from hypergen.evaluation.short_training import build_default, training_steps

SHAPE = {"image_size": 8, "channels": 1, "num_classes": 10}
PROTOCOL = BaselineProtocol(
    epochs=(1, 5),
    other_epochs=(1,),
    learning_rates=(1e-3, 1e-2),
    steps=StepsProtocol(threshold=0.9, learning_rates=(3e-3, 1e-2), cap=120, curve_steps=30),
    step_architectures=2,
)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits():
    return DigitsDataModule()


@pytest.fixture(scope="session")
def images(digits):
    return ImageData.read(digits)


@pytest.fixture(scope="session")
def protocol():
    return PROTOCOL


@pytest.fixture(scope="session")
def make_mlp():
    return lambda **config: Architecture("mlp", {**SHAPE, **config})


@pytest.fixture(scope="session")
def splits():
    return {
        "test": [
            Architecture("mlp", {**SHAPE, "widths": [64], "norm": "batch"}),
            Architecture("mlp", {**SHAPE, "widths": [32, 32], "norm": "layer"}),
        ],
        "wide": [Architecture("mlp", {**SHAPE, "widths": [96], "norm": "batch"})],
        "no_norm": [Architecture("mlp", {**SHAPE, "widths": [48], "norm": "none"})],
    }


@pytest.fixture(scope="session")
def baselines(images, splits):
    return compute_baselines(images, splits, PROTOCOL, workers=0)


class KnownNetworks:
    """A generator that knows every network it will meet, by the shapes of its parameters.

    Args:
        splits: The networks.
        images: Training images; None to leave the networks untrained.
        epochs: Of training.
    """

    def __init__(self, splits, images=None, epochs=8, learning_rate=1e-2):
        self.known = {}
        for architectures in splits.values():
            for architecture in architectures:
                model = build_default(architecture, seed=0)
                if images is not None:
                    steps = training_steps(model, *images.train, learning_rate=learning_rate, seed=0)
                    for _ in range(epochs * 17):
                        next(steps)
                self.known[_shapes(model)] = {name: value.detach() for name, value in model.named_parameters()}
        assert len(self.known) == sum(map(len, splits.values()))

    def generate(self, target: nn.Module, *, example_inputs):
        assert example_inputs.shape == (1, 1, 8, 8)
        assert all(parameter.is_meta for parameter in target.parameters())
        return {name: value.clone() for name, value in self.known[_shapes(target)].items()}


def _shapes(model):
    return tuple((name, tuple(value.shape)) for name, value in model.named_parameters())


@pytest.fixture(scope="session")
def untrained(splits):
    return KnownNetworks(splits)


@pytest.fixture(scope="session")
def trained(splits, images):
    return KnownNetworks(splits, images)
