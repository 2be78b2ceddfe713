"""Generators of bodies: the last layer is solved on the user's labels wherever there are any."""

import pytest
import torch
from torch import nn

import hypergen
from hypergen.errors import GeneratorError, ParameterError
from hypergen.generators import GraphHypernetwork


@pytest.fixture(scope="module")
def bodies():
    torch.manual_seed(0)
    return GraphHypernetwork(**GraphHypernetwork.example_arguments, readout="ridge")


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 3))


def batches(count=24, labelled=True):
    labels = torch.arange(count) % 3
    images = 0.3 * torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(2)) + labels[:, None, None, None]
    return [(images, labels)] if labelled else [images]


def test_head_is_solved_without_being_asked(bodies):
    model = network()
    report = hypergen.initialize(model, bodies, calibrate=batches())
    assert report.head[:2] == ("4", 24) and "accuracy on samples left out" in str(report)
    images, labels = batches(60)[0]
    assert (model.eval()(images).argmax(1) == labels).float().mean() > 0.9
    untouched = network()
    assert hypergen.initialize(untouched, bodies, calibrate=batches(), head="predicted").head is None


def test_starts_are_compared_on_samples_left_out(bodies):
    labels = torch.arange(24) % 3
    noise = [(torch.randn(24, 1, 8, 8, generator=torch.Generator().manual_seed(3)), labels)]
    report = hypergen.initialize(network(), bodies, calibrate=noise, fallback="never")
    # 24 samples of noise can be learned by heart; the error of guessing is 2/9.
    assert report.comparison.predicted.loss > 0.2 and report.comparison.default.loss > 0.2
    assert "squared error on samples left out" in report.comparison.reason


@pytest.mark.parametrize("calibrate", [None, "inputs"])
def test_without_labels_the_report_says_that_logits_mean_nothing(bodies, calibrate):
    data = batches(labelled=False) if calibrate else None
    report = hypergen.initialize(network(), bodies, calibrate=data, example_inputs=torch.zeros(1, 1, 8, 8))
    assert report.head is None and "labels" in report.unsolved
    assert "the logits say nothing yet" in str(report)


def test_a_network_without_a_layer_to_solve_is_initialised_all_the_same(bodies):
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.AdaptiveAvgPool1d(3))
    report = hypergen.initialize(model, bodies, calibrate=batches())
    assert "that could be solved" in report.unsolved
    with pytest.raises(ParameterError, match="that could be solved"):
        hypergen.initialize(model, bodies, calibrate=batches(), head="ridge")


def test_a_frozen_head_is_not_solved(bodies):
    model = network()
    model[4].requires_grad_(False)
    before = model[4].weight.clone()
    with pytest.raises(GeneratorError, match='head="predicted"'):
        hypergen.initialize(model, bodies, calibrate=batches())
    assert torch.equal(model[4].weight, before)


def test_readout_is_kept_and_checked(bodies, tmp_path):
    bodies.save_pretrained(tmp_path)
    assert hypergen.load_generator(tmp_path).readout == "ridge"
    with pytest.raises(ValueError, match="readout"):
        GraphHypernetwork(**GraphHypernetwork.example_arguments, readout="softmax")


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        while True:
            yield batches()[0]


@pytest.mark.parametrize("form", ["loader", "generator"])
def test_data_that_never_end_are_read_for_so_many_batches(bodies, form):
    loader = torch.utils.data.DataLoader(Stream(), batch_size=None)
    report = hypergen.initialize(network(), bodies, calibrate=loader if form == "loader" else iter(loader))
    assert report.head.samples == 24 * 200


def test_a_network_is_read_at_the_size_of_the_images_not_at_the_one_that_it_tells(bodies):
    model = network()
    model[4] = nn.Linear(8 * 14 * 14, 3)
    model.example_input_array = torch.zeros(1, 1, 8, 8)  # at which it does not even run
    labels = torch.arange(24) % 3
    report = hypergen.initialize(model, bodies, calibrate=[(torch.randn(24, 1, 16, 16), labels)], fallback="never")
    assert report.share_of_parameters_predicted == 1 and report.head.samples == 24
