import math
from itertools import islice

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hypergen
from hypergen.architectures import Architecture, ImageClassifierSpace, TrainingStream
from hypergen.data import DigitsDataModule, TextDataModule
from hypergen.generators.ghn import training as graph_hypernetwork
from hypergen.generators.ghn.features import batch_graphs
from hypergen.generators.ghn.meta_batches import MetaBatch, MetaBatches, trace_architecture
from hypergen.generators.ghn.model import GraphHypernetwork
from hypergen.generators.ghn.training import GraphHypernetworkTraining

SHAPE = {"image_size": 8, "channels": 1, "num_classes": 10}
UNCLIPPED = 1e9
pytestmark = pytest.mark.filterwarnings("ignore:You are trying to `self.log")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def digits():
    return DigitsDataModule()


@pytest.fixture(scope="module")
def traced():
    """Three networks, with batch norm, layer norm and dropout among their parts."""
    space = ImageClassifierSpace(families=("vit", "cnn"), max_parameters=20_000)
    architectures = [
        Architecture("mlp", {**SHAPE, "widths": [24, 16], "norm": "batch"}),
        Architecture("mlp", {**SHAPE, "widths": [32], "norm": "layer"}),
        space.sample(2),
    ]
    return dict(enumerate(trace_architecture(a) for a in architectures))


def make_generator(seed=0, **arguments):
    torch.manual_seed(seed)
    sizes = {"hidden": 16, "reach": 2, "layers": 1, "heads": 2, "rank": 16, "steered_rank": 8, "width": 16}
    return GraphHypernetwork(**{**sizes, **arguments})


def make_batch(traced, numbers=(0, 1, 2), images=16, step=0, seed=0):
    chosen = np.random.default_rng(seed).integers(1, 500, size=(len(numbers), images))
    return MetaBatch(step, tuple(numbers), chosen, {n: traced[n] for n in set(numbers)}, len(numbers))


def make_training(generator, images, **arguments):
    return GraphHypernetworkTraining(generator, images, **{"steps": 100, "max_gradient_norm": UNCLIPPED, **arguments})


def gradients(module):
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def plainly(generator, digits, traced, batch):
    """The mean loss by autograd from end to end, each network's share cut to that of guessing."""
    images, labels = digits.tensors("train")
    predicted = generator(batch_graphs([traced[number].features for number in batch.numbers]))
    losses = []
    for number, flat, chosen in zip(batch.numbers, predicted, batch.samples, strict=True):
        module = traced[number].architecture.build().train()
        for part in module.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0
        parameters = traced[number].features.layout.unflatten(flat)
        losses.append(
            F.cross_entropy(torch.func.functional_call(module, parameters, (images[chosen],)), labels[chosen])
        )
    shares = [loss / max(loss.item() / math.log(10), 1.0) for loss in losses]
    return sum(losses) / len(losses), sum(shares) / len(shares)


@pytest.mark.parametrize(
    ("decoder", "parametrization"), [("low_rank", "anchored"), ("low_rank", "plain"), ("conv", "magnitude_invariant")]
)
def test_gradient_of_the_generator_is_that_of_plain_autograd(digits, traced, decoder, parametrization):
    generator = make_generator(decoder=decoder, parametrization=parametrization)
    batch = make_batch(traced, (0, 1, 2, 0))
    loss, objective = plainly(generator, digits, traced, batch)
    objective.backward()
    expected = gradients(generator)
    generator.zero_grad()
    returned = make_training(generator, digits).training_step(batch, 0)
    returned.backward()
    assert returned.item() == pytest.approx(loss.item(), rel=1e-5)
    found = gradients(generator)
    assert found.keys() == expected.keys()
    largest = max(gradient.abs().max() for gradient in expected.values())
    for name, gradient in expected.items():
        assert (found[name] - gradient).abs().max() <= 1e-6 * max(largest, 1), name


def test_scaled_losses_scale_gradients(digits, traced):
    """As a gradient scaler or accumulation over steps asks for."""
    generator, batch = make_generator(), make_batch(traced)
    training = make_training(generator, digits)
    training.training_step(batch, 0).backward()
    once = gradients(generator)
    (training.training_step(batch, 0) * 3).backward()
    for name, gradient in gradients(generator).items():
        torch.testing.assert_close(gradient, 4 * once[name], rtol=1e-4, atol=1e-6)


class Given(nn.Module):
    """In place of a generator: the parameters of each network are its own."""

    def __init__(self, generator, traced, numbers):
        super().__init__()
        with torch.no_grad():
            flats = generator(batch_graphs([traced[n].features for n in numbers]))
        self.flats = nn.ParameterList(flat.clone() for flat in flats)
        self.numbers = {id(traced[n].features.layout): i for i, n in enumerate(numbers)}

    def forward(self, batch):
        return tuple(self.flats[self.numbers[id(layout)]] * 1.0 for layout in batch.layouts)


@pytest.fixture
def given(traced):
    return Given(make_generator(), traced, (0, 1, 2))


def norms_of(given):
    return [flat.grad.norm().item() for flat in given.flats]


def test_every_network_is_clipped_by_itself(digits, traced, given):
    make_training(given, digits).training_step(make_batch(traced), 0).backward()
    free, directions = norms_of(given), [F.normalize(flat.grad, dim=0) for flat in given.flats]
    limit = sorted(free)[1] * 3  # between the networks; gradients are divided by their number
    given.zero_grad()
    make_training(given, digits, max_gradient_norm=limit).training_step(make_batch(traced), 0).backward()
    assert norms_of(given) == pytest.approx([min(norm, limit / 3) for norm in free], rel=1e-4)
    assert max(free) > 1.01 * limit / 3
    for flat, direction in zip(given.flats, directions, strict=True):
        torch.testing.assert_close(F.normalize(flat.grad, dim=0), direction)


def test_losses_above_guessing_count_less(digits, traced, given):
    with torch.no_grad():
        given.flats[1] *= 30
    batch, training = make_batch(traced), make_training(given, digits)
    training.training_step(batch, 0).backward()
    images, labels = digits.tensors("train")
    for flat, number, chosen in zip(given.flats, batch.numbers, batch.samples, strict=True):
        free = flat.detach().clone().requires_grad_()
        loss = F.cross_entropy(training._targets[number].logits(free, images[chosen]), labels[chosen])
        loss.backward()
        share = min(math.log(10) / loss.item(), 1) / 3
        torch.testing.assert_close(flat.grad, share * free.grad, rtol=1e-4, atol=1e-6)
        assert number != 1 or share < 0.3


class Spoiled:
    """Digits whose first image is broken."""

    def __init__(self, digits):
        self.digits, self.task = digits, digits.task

    def tensors(self, split):
        images, labels = self.digits.tensors(split)
        images = images.clone()
        images[0] = math.inf
        return images, labels


def spoil(batch, network):
    batch.samples[network, 3] = 0
    return batch


@pytest.mark.parametrize("spoiled", [0, 1, 2])
def test_a_network_without_a_finite_loss_is_skipped_and_counted(digits, traced, spoiled):
    generator = make_generator()
    expected = [
        make_training(generator, digits).training_step(make_batch(traced), 0),
        make_training(generator, Spoiled(digits)).training_step(spoil(make_batch(traced), spoiled), 0),
    ]
    training = make_training(generator, Spoiled(digits))
    loss = training.training_step(spoil(make_batch(traced), spoiled), 0)
    assert training.skipped == 1
    assert loss.isfinite() and loss.item() == pytest.approx(expected[1].item())
    assert 0 < loss.item() < 3 * expected[0].item()
    training.training_step(make_batch(traced), 1)
    assert training.skipped == 1
    training.training_step(spoil(spoil(make_batch(traced), 0), 1), 2)
    assert training.skipped == 3


def test_a_skipped_network_leaves_the_gradients_of_others_alone(digits, traced, given):
    make_training(given, digits).training_step(make_batch(traced), 0).backward()
    expected = [flat.grad.clone() for flat in given.flats]
    given.zero_grad()
    make_training(given, Spoiled(digits)).training_step(spoil(make_batch(traced), 1), 0).backward()
    assert torch.equal(given.flats[0].grad, expected[0]) and torch.equal(given.flats[2].grad, expected[2])
    assert (given.flats[1].grad == 0).all()


def test_a_gradient_that_is_not_finite_skips_too(digits, traced, given, monkeypatch):
    logits = graph_hypernetwork._Target.logits

    def steep(self, flat, images):
        result = logits(self, flat, images)
        if self.features is traced[1].features:
            result = result + (0 * flat[0]).sqrt()  # zero, with a slope that is no number
        return result

    monkeypatch.setattr(graph_hypernetwork._Target, "logits", steep)
    training = make_training(given, digits)
    loss = training.training_step(make_batch(traced), 0)
    loss.backward()
    assert training.skipped == 1 and loss.isfinite()
    assert [bool((flat.grad == 0).all()) for flat in given.flats] == [False, True, False]


def test_a_step_of_skipped_networks_alone_changes_nothing(digits, traced, given):
    training = make_training(given, Spoiled(digits))
    batch = make_batch(traced)
    for network in range(3):
        spoil(batch, network)
    loss = training.training_step(batch, 0)
    loss.backward()
    assert training.skipped == 3 and loss.isfinite()
    assert all((flat.grad == 0).all() for flat in given.flats)


def test_networks_are_remembered(digits, traced):
    training = make_training(make_generator(), digits)
    first = training.training_step(make_batch(traced), 0)
    batch = make_batch(traced)
    batch.traced.clear()
    assert torch.equal(first, training.training_step(batch, 1))


def test_running_statistics_play_no_part(digits, traced):
    training = make_training(make_generator(), digits)
    losses = [training.training_step(make_batch(traced, (0,)), step).item() for step in range(3)]
    assert losses[0] == losses[1] == losses[2]
    fresh = make_training(make_generator(), digits)
    fresh.training_step(make_batch(traced, (0,), seed=1), 0)
    assert fresh.training_step(make_batch(traced, (0,)), 1).item() == losses[0]


def test_noise_belongs_to_the_step(digits, traced):
    def loss(noise, step):
        return make_training(make_generator(), digits, image_noise=noise).training_step(
            make_batch(traced, step=step), 0
        )

    assert loss(0.0, 0) == loss(0.0, 1)
    assert loss(0.5, 0) == loss(0.5, 0)
    assert len({loss(0.0, 0).item(), loss(0.5, 0).item(), loss(0.5, 1).item()}) == 3


def test_validation_reports_accuracy_of_the_whole_split(digits, traced):
    training = make_training(make_generator(), digits)
    logged = {}
    training.log = lambda name, value, **_: logged.update({name: float(value)})
    with torch.no_grad():
        training.validation_step(traced[1], 0)
    images, labels = digits.tensors("validation")
    parameters = training.generator.generate(trace_of(traced[1]))
    module = traced[1].architecture.build()
    expected = (torch.func.functional_call(module, parameters, (images,)).argmax(1) == labels).float().mean().item()
    assert logged == {"val/accuracy": pytest.approx(expected, abs=0.005)}


def trace_of(traced):
    from hypergen.graph import trace

    return trace(traced.architecture.build(), torch.zeros(1, 1, 8, 8))


def test_every_parameter_is_optimised_once(digits):
    generator = make_generator()
    groups = make_training(generator, digits).configure_optimizers()["optimizer"].param_groups
    optimised = [id(p) for group in groups for p in group["params"]]
    assert len(optimised) == len(set(optimised)) and set(optimised) == {id(p) for p in generator.parameters()}
    assert {id(p) for p in groups[1]["params"]} == {id(p) for p in generator.tables()}


def test_learning_rate_warms_up_and_decays(digits):
    training = make_training(make_generator(), digits, steps=100, warmup_steps=10)
    factors = [training._factor(step) for step in range(130)]
    assert factors[:10] == sorted(factors[:10]) and factors[0] < 0.2
    assert max(factors) > 0.95 and factors[10:] == sorted(factors[10:], reverse=True)
    assert 0 < factors[100] < 0.05 and factors[100] == factors[129]


def train(digits, steps, seed=0):
    generator = make_generator(seed)
    training = make_training(
        generator,
        digits,
        steps=steps,
        warmup_steps=3,
        learning_rate=3e-3,
        table_learning_rate=3e-2,
        max_gradient_norm=1.0,
    )
    setup = training.configure_optimizers()
    optimizer, schedule = setup["optimizer"], setup["lr_scheduler"]["scheduler"]
    space = ImageClassifierSpace(families=("mlp",), depth=(1, 2), mlp_width=(16, 32))
    stream = MetaBatches(TrainingStream(space), 4, [(0, 1000)], 4, 32, seed)
    losses = []
    for i, batch in enumerate(islice(stream, steps)):
        loss = training.training_step(batch, i)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return torch.tensor(losses), generator, training


def test_loss_falls_in_30_steps_and_the_same_way_each_time(digits):
    losses, generator, training = train(digits, 30)
    again, other, _ = train(digits, 30)
    assert torch.equal(losses, again)
    assert all(torch.equal(p, q) for p, q in zip(generator.parameters(), other.parameters(), strict=True))
    start, end = losses[:6], losses[-6:]
    # By far more than losses differ from batch to batch.
    assert start.mean() - end.mean() > 4 * (start.std() + end.std()) / math.sqrt(6)
    assert end.mean() < 0.8 * start.mean() and training.skipped == 0


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("".join(f"{number}, {number**3}; " for number in range(300)))
    return TextDataModule(path, context=8, stride=1)


def test_language_models_learn_the_next_token(text):
    sizes = {"vocabulary": 96, "context": 8, "width": 16, "depth": 1, "heads": 1}
    options = [{"positions": "rotary", "tied": True}, {"positions": "learned", "tied": False}]
    traced = dict(enumerate(trace_architecture(Architecture("gpt", {**sizes, **option})) for option in options))
    generator, batch = make_generator(), make_batch(traced, (0, 1))
    tokens, following = text.tensors("train")
    predicted = generator(batch_graphs([traced[number].features for number in batch.numbers]))
    shares = []
    for number, flat, chosen in zip(batch.numbers, predicted, batch.samples, strict=True):
        parameters = traced[number].features.layout.unflatten(flat)
        logits = torch.func.functional_call(traced[number].architecture.build(), parameters, (tokens[chosen],))
        loss = F.cross_entropy(logits.transpose(1, 2), following[chosen])
        shares.append(loss / max(loss.item() / math.log(96), 1.0))
    (sum(shares) / 2).backward()
    expected = gradients(generator)
    generator.zero_grad()
    make_training(generator, text).training_step(batch, 0).backward()
    found = gradients(generator)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_noise_on_tokens_is_refused(text):
    with pytest.raises(ValueError, match="image_noise=0.1 and augment=False are for images"):
        make_training(make_generator(), text, image_noise=0.1)


def test_mixed_precision_accumulated_gradients_and_a_moving_average(run, tmp_path):
    options = ["debug=fast", "evaluate=false", "trainer=cpu", "logger=none", "training.table_learning_rate=0.1"]
    options += ["trainer.precision=bf16-mixed", "+trainer.accumulate_grad_batches=2", "training.warmup_steps=1"]
    for decay in (0, 0.9):
        run(*options, f"training.average_decay={decay}", output=tmp_path / str(decay))
    ends = [hypergen.load_generator(tmp_path / str(decay) / "generator") for decay in (0, 0.9)]
    last, average = (end.state_dict()["decoder.row_tables.conv"] for end in ends)
    assert last.isfinite().all() and average.isfinite().all()
    assert not torch.equal(last, average)
    torch.testing.assert_close(last, average, atol=0.5, rtol=0)  # four steps of 0.1 at most
