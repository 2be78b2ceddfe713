import torch
from torch import nn

from hypergen.architectures import ImageClassifierSpace, TrainingStream
from hypergen.data import DigitsDataModule
from hypergen.errors import ParameterError
from hypergen.evaluation.image_classifiers.unseen_networks import evaluate_on_unseen_networks
from hypergen.generators import load_generator


class Refuses:
    """Predicts nothing."""

    def generate(self, target, *, example_inputs):
        raise ParameterError("not today")


def _linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def test_networks_of_the_space_and_networks_by_name():
    space = ImageClassifierSpace(families=["cnn", "resnet"])
    options = {"space": space, "architectures_per_split": 4, "networks": {"linear": _linear}}
    found = evaluate_on_unseen_networks(
        load_generator("digits-ghn"), DigitsDataModule(), aims={"predicted_accuracy_mean": 0.8}, **options
    )
    assert len(found.networks) == 5
    stream = TrainingStream(space)
    assert not {one.name for one in found.networks} & {stream[number].name for number in range(50)}
    results = found.results
    assert results["predicted_accuracy_mean"].n == 4 and results["predicted_accuracy_mean"].met
    assert results["predicted_accuracy_ridge_head_linear"].value > 0.8
    assert 0.2 < results["default_accuracy_ridge_head_mean"].value < results["predicted_accuracy_ridge_head_mean"].value
    assert results["unusable_predictions"].value == 0
    state = torch.get_rng_state()
    other = evaluate_on_unseen_networks(Refuses(), DigitsDataModule(), **options)
    assert torch.equal(state, torch.get_rng_state())
    assert other.results["predicted_accuracy_mean"].value == 0 and other.results["unusable_predictions"].value == 5
    default = "default_accuracy_ridge_head_mean"
    assert other.results[default] == results[default]
    assert all("not today" in one.failure for one in other.networks)
