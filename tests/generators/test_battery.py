"""What every generator must do, run for each class that a method's folder registers.

A new method is found by itself: it states a small example (``Generator.example``), and nothing is added here.
"""

import copy
import json
import pickle
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import hypergen
from hypergen.errors import CheckpointError, ParameterError
from hypergen.generators import Generator, ZooGenerator, generator_class, load_generator
from hypergen.generators.checkpoint import CARD, CONFIG, WEIGHTS
from hypergen.generators.registry import registered_names

NAMES = [name for name in registered_names() if generator_class(name).__module__.startswith("hypergen.")]


class Example:
    """A generator's own example, with nothing at zero: what begins at zero hides mistakes."""

    def __init__(self, name, seed=0):
        torch.manual_seed(seed)
        found = generator_class(name).example()
        self.generator, self.target = found.generator.eval(), found.target
        self.condition, self.example_inputs, self.differentiable = (
            found.condition,
            found.example_inputs,
            found.differentiable,
        )
        for tensor in (*self.generator.parameters(), *self.generator.buffers()):
            if tensor.is_floating_point() and not tensor.any():
                nn.init.normal_(tensor.data, std=0.3)

    def generate(self, generator=None, target=None, condition=None):
        return (generator or self.generator).generate(
            self.target if target is None else target,
            self.condition if condition is None else condition,
            example_inputs=self.example_inputs,
        )


@pytest.fixture(params=NAMES)
def example(request):
    return Example(request.param)


def assert_equal(found, expected):
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


def test_every_method_is_found():
    assert len(NAMES) >= 7 and all(issubclass(generator_class(name), Generator) for name in NAMES)


def test_parameters_fit_the_target_and_leave_it_alone(example):
    before = copy.deepcopy(example.target.state_dict())
    parameters = example.generate()
    expected = {name: value.shape for name, value in example.target.named_parameters()}
    assert {name: value.shape for name, value in parameters.items()} == expected
    assert all(value.isfinite().all() and value.is_floating_point() for value in parameters.values())
    assert any(value.std() > 0 for value in parameters.values())
    assert all(torch.equal(value, before[name]) for name, value in example.target.state_dict().items())


def test_the_network_runs_with_what_is_generated(example):
    report = hypergen.initialize(
        example.target, example.generator, condition=example.condition, example_inputs=example.example_inputs
    )
    assert report.share_of_parameters_predicted == 1
    assert example.target(example.example_inputs).isfinite().all()


@pytest.mark.parametrize("fault", ["missing", "extra", "shape", "nan"])
def test_a_prediction_that_does_not_fit_is_refused(example, fault, monkeypatch):
    predict = example.generator.predict

    def faulty(*args, **options):
        parameters = {name: value.clone() for name, value in predict(*args, **options).items()}
        first = next(iter(parameters))
        if fault == "missing":
            del parameters[first]
        elif fault == "extra":
            parameters["no.such"] = torch.zeros(1)
        elif fault == "shape":
            parameters[first] = parameters[first].flatten()[:1]
        else:
            parameters[first].data.flatten()[0] = float("nan")
        return parameters

    monkeypatch.setattr(example.generator, "predict", faulty)
    with pytest.raises(ParameterError):
        example.generate()


def test_the_same_seed_gives_the_same_parameters_and_takes_no_random_numbers_of_the_caller(example):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = example.generate()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again = example.generate()
    assert all(torch.equal(first[name], value) for name, value in again.items())
    if isinstance(example.generator, ZooGenerator):
        other = example.generate(condition={**example.condition, "seed": 5})
        assert any(not torch.equal(first[name], value) for name, value in other.items())


def test_gradients_reach_the_generator(example):
    example.generator.train()
    parameters = example.generate()
    loss = sum(value.square().sum() for value in parameters.values())
    assert loss.requires_grad == example.differentiable
    if example.differentiable:
        loss.backward()
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in example.generator.parameters())
    with torch.no_grad():
        assert not any(value.requires_grad for value in example.generate().values())


def test_a_target_without_values_gets_the_same_parameters(example):
    assert_equal(example.generate(target=copy.deepcopy(example.target).to("meta")), example.generate())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_targets_of_other_types_keep_theirs(example, dtype):
    target = copy.deepcopy(example.target).to(dtype)
    expected = example.generate()
    hypergen.initialize(
        target, example.generator, condition=example.condition, example_inputs=example.example_inputs.to(dtype)
    )
    for name, value in target.named_parameters():
        assert value.dtype == dtype
        torch.testing.assert_close(value.detach().float(), expected[name].detach(), rtol=2e-2, atol=2e-2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_it_gives_the_same_parameters(example):
    expected = example.generate()
    found = example.generate(generator=copy.deepcopy(example.generator).cuda())
    assert all(value.is_cuda for value in found.values())
    for name, value in expected.items():
        torch.testing.assert_close(found[name].cpu(), value, rtol=1e-3, atol=1e-3)


def test_it_moves_between_devices_and_types_as_any_module(example):
    assert all(value.is_meta for value in copy.deepcopy(example.generator).to("meta").state_dict().values())
    found = example.generate(generator=copy.deepcopy(example.generator).double())
    for name, value in example.generate().items():
        torch.testing.assert_close(found[name].float(), value, rtol=1e-3, atol=1e-3)


def test_save_and_load(example, tmp_path):
    generator = example.generator
    folder = generator.save_pretrained(tmp_path / "it", card="Trained on nothing.")
    assert sorted(file.name for file in folder.iterdir()) == sorted([CARD, CONFIG, WEIGHTS])
    card = (folder / CARD).read_text()
    assert card.startswith("---\n") and type(generator).__name__ in card and "Trained on nothing." in card
    assert json.loads((folder / CONFIG).read_text())["arguments"] == generator.config
    expected = example.generate()
    for loaded in (
        load_generator(folder),
        load_generator(folder / WEIGHTS),
        Generator.from_pretrained(folder),
        type(generator).from_pretrained(folder),
    ):
        assert type(loaded) is type(generator) and loaded.config == generator.config and not loaded.training
        found = example.generate(generator=loaded)
        assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_tensors_that_do_not_belong_are_refused(example, change, tmp_path):
    folder = example.generator.save_pretrained(tmp_path)
    tensors = load_file(folder / WEIGHTS)
    name = next(name for name, value in tensors.items() if value.numel() > 1)
    if change == "missing":
        del tensors[name]
    elif change == "extra":
        name = "stranger"
        tensors[name] = torch.zeros(1)
    else:
        tensors[name] = tensors[name].flatten()[:1]
    save_file(tensors, folder / WEIGHTS, {"hypergen": (folder / CONFIG).read_text()})
    with pytest.raises(CheckpointError, match=re.escape(name)):
        load_generator(folder)


def test_arguments_make_it_again(example):
    again = type(example.generator)(**json.loads(json.dumps(example.generator.config)))
    assert again.config == example.generator.config
    shapes = {name: value.shape for name, value in again.state_dict().items()}
    assert shapes == {name: value.shape for name, value in example.generator.state_dict().items()}


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda generator: pickle.loads(pickle.dumps(generator))])
def test_copies_give_the_same(example, duplicate):
    other = duplicate(example.generator)
    assert other.config == example.generator.config
    assert_equal(example.generate(generator=other), example.generate())


def test_names_of_the_network_do_not_matter_to_what_reads_its_graph(example):
    if isinstance(example.generator, ZooGenerator):
        pytest.skip("It writes networks of the layouts of its zoo, which are names and shapes.")
    wrapped = nn.Sequential(copy.deepcopy(example.target))
    found = example.generate(target=wrapped)
    assert_equal({name.removeprefix("0."): value for name, value in found.items()}, example.generate())


def test_a_zoo_generator_samples_many_and_is_a_pipeline(example, tmp_path):
    if not isinstance(example.generator, ZooGenerator):
        pytest.skip("It takes no conditions of a zoo.")
    assert set(example.generator.condition_kinds) <= set(example.condition)
    options = {"example_inputs": example.example_inputs}
    with torch.no_grad():
        many = example.generator.sample(example.target, [example.condition] * 3, seed=3, **options)
    assert all(len(value) == 3 for value in many.values())
    assert any(not torch.equal(value[0], value[1]) for value in many.values())
    found = example.generator.pipeline()(
        example.target, [example.condition] * 3, generator=torch.Generator().manual_seed(3), **options
    )
    assert all(torch.equal(found.parameters[name], value) for name, value in many.items())


def test_it_names_its_paper(example):
    doc = type(example.generator).__doc__
    assert re.search(r"arXiv|et al\.", doc) and re.search(r"\b(19|20)\d\d\b", doc)
