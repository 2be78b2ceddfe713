import json
import math

import pytest
import torch
from torch import nn

from hypergen import initialize
from hypergen.architectures import Architecture, language_model_split
from hypergen.data import TextDataModule
from hypergen.errors import ParameterError
from hypergen.evaluation import language_models
from hypergen.evaluation.image_data import ImageData
from hypergen.evaluation.language_models import (
    LanguageModelTask,
    PerplexityProtocol,
    check_points,
    count_perplexities,
    evaluate_language_model_generator,
    measure_language_model,
    perplexities_while_training,
    perplexity,
)
from hypergen.evaluation.parallel import pack

ARCHITECTURE = Architecture("gpt", {"vocabulary": 8, "context": 6, "width": 16, "depth": 1, "heads": 1})
PROTOCOL = PerplexityProtocol(20, (1e-3, 1e-2), 4)


def windows(count, seed):
    """Tokens that count upwards, with a mistake now and then."""
    generator = torch.Generator().manual_seed(seed)
    text = (torch.arange(count * 7) + (torch.rand(count * 7, generator=generator) < 0.1).cumsum(0)) % 8
    text = text.view(count, 7)
    return text[:, :-1], text[:, 1:]


@pytest.fixture(scope="module")
def data():
    return ImageData(windows(200, 0), windows(20, 1), windows(20, 2))


def predicted(seed=1):
    torch.manual_seed(seed)
    return pack(dict(ARCHITECTURE.build().named_parameters()))


def task(parameters=None, failure=None, protocol=PROTOCOL):
    return LanguageModelTask("test", ARCHITECTURE, parameters or {}, failure, protocol, 0)


def test_check_points():
    points = check_points(500)
    assert points[:6] == [0, 1, 2, 3, 4, 5] and points[-1] == 500
    assert all(0 < b - a <= max(1, 0.25 * a + 1) for a, b in zip(points, points[1:], strict=False))
    assert check_points(2) == [0, 1, 2]


def test_perplexity_is_that_of_all_positions(data):
    model = ARCHITECTURE.build()
    tokens, following = data.test
    chances = model(tokens).softmax(-1).gather(-1, following[..., None])
    assert perplexity(model, tokens, following, batch_size=7) == pytest.approx(math.exp(-chances.log().mean().item()))
    broken = nn.Sequential(nn.Embedding(8, 8))
    broken[0].weight.data.fill_(math.nan)
    assert perplexity(broken, tokens, following) == math.inf


def test_counted_perplexities():
    tokens = torch.tensor([[0, 1, 0, 1]]).repeat(500, 1)
    following = 1 - tokens
    counted = count_perplexities(ImageData((tokens, following), (tokens, following), (tokens, following)))
    assert counted["unigram_perplexity"] == pytest.approx(2, rel=1e-3)
    assert counted["bigram_perplexity"] == pytest.approx(1, rel=1e-3)


def test_training_lowers_perplexity_and_both_splits_are_measured(data):
    torch.manual_seed(0)
    curve = list(perplexities_while_training(ARCHITECTURE.build(), data, [0, 60], 1e-2, 0, 8))
    assert [step for step, *_ in curve] == [0, 60]
    assert curve[1][1] < 0.7 * curve[0][1] and curve[1][2] < 0.7 * curve[0][2]


@pytest.fixture
def curves(monkeypatch):
    """Networks whose perplexities are written down, by (predicted?, learning rate)."""

    def install(written, at_prediction):
        start = iter([90.0, at_prediction])
        monkeypatch.setattr(language_models, "perplexity", lambda *_: next(start))

        def fake(model, data, checks, rate, seed, batch_size):
            from_default = list(checks) == [PROTOCOL.steps]
            return iter(written[not from_default, rate])

        monkeypatch.setattr(language_models, "perplexities_while_training", fake)

    return install


DEFAULT = {(False, 1e-3): [(20, 30.0, 28.0)], (False, 1e-2): [(20, 25.0, 29.0)]}


def test_learning_rates_are_chosen_on_validation_and_steps_counted_on_test(curves, data):
    curves(
        {
            **DEFAULT,
            (True, 1e-3): [(0, 50.0, 40.0), (3, 26.0, 20.0), (4, 24.0, 20.0)],
            (True, 1e-2): [(0, 50.0, 40.0), (2, 24.0, 40.0), (9, 24.0, 28.9)],
        },
        40.0,
    )
    record = measure_language_model(data, task(predicted()))
    # 1e-2 is best on validation for both, though 1e-3 would be better on test for both.
    assert (record.trained, record.learning_rate) == (29.0, 1e-2)
    assert (record.steps, record.predicted_learning_rate) == (9, 1e-2)


def test_parameters_that_are_there_already_need_no_step(curves, data):
    curves(DEFAULT, 29.0)
    record = measure_language_model(data, task(predicted()))
    assert (record.steps, record.predicted, record.predicted_learning_rate) == (0, 29.0, None)


def test_never_there_is_said(curves, data):
    never = [(0, 50.0, 40.0), (20, 40.0, 39.0)]
    curves({**DEFAULT, (True, 1e-3): never, (True, 1e-2): never}, 40.0)
    assert measure_language_model(data, task(predicted())).steps is None


def test_a_failed_prediction_is_trained_from_nowhere(curves, data):
    curves(DEFAULT, None)
    record = measure_language_model(data, task(failure="ParameterError: no"))
    assert (record.predicted, record.steps, record.trained) == (math.inf, None, 29.0)


def test_what_comes_with_the_package_is_better_than_counting_pairs():
    data = ImageData.read(TextDataModule())
    tokens, following = (part[:32] for part in data.test)
    pairs = count_perplexities(data._replace(test=(tokens, following)))["bigram_perplexity"]
    network = language_model_split("test")[0].build()
    initialize(network, "text-logah", example_inputs=tokens[:1])
    assert perplexity(network, tokens, following) < pairs


class Constant(nn.Module):
    """Predicts ones, or nothing for wide targets."""

    def generate(self, target, example_inputs):
        values = dict(target.named_parameters())
        if values["tokens.weight"].shape[1] > 128:
            raise ParameterError("too wide")
        return {name: torch.ones(value.shape) for name, value in values.items()}


def test_every_split_is_evaluated_and_failures_are_counted(tmp_path):
    text = torch.randint(96, (3, 9, 65), generator=torch.Generator().manual_seed(0))

    class Text:
        def tensors(self, split):
            part = text[("train", "validation", "test").index(split)]
            return part[:, :-1], part[:, 1:]

    evaluation = evaluate_language_model_generator(
        Constant(), Text(), steps=1, learning_rates=[1e-3], batch_size=2, architectures_per_split=1, workers=0
    )
    figures = evaluation.results
    assert [record.split for record in evaluation.records] == ["test", "wide", "deep"]
    assert figures["predictions_failed"].value == 1
    assert "too wide" in evaluation.records[1].failure
    # Logits that are all alike guess.
    assert figures["predicted_perplexity_test"].value == pytest.approx(96, rel=1e-3)
    assert math.isnan(figures["predicted_perplexity_wide"].value)
    assert figures["steps_ratio"].n == 1 and figures["steps_ratio"].aim == 0.5
    evaluation.write(tmp_path)
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["details"]["records"][1]["predicted"] is None
