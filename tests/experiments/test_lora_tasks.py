import copy
import json

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

import hypergen
from experiments.lora_tasks.run import gain_rows, text_sampler, train_lora_tasks
from experiments.lora_tasks.zoo import LanguageModel, LetterTask, LetterTasks, answering, trained_parameters
from experiments.shared.task_zoo import Learner
from hypergen.errors import GeneratorError, ParameterError
from hypergen.evaluation.results import Row
from hypergen.functional.stacked import Recipe, train_stacked
from hypergen.generators.latent_diffusion.model import LatentDiffusion
from hypergen.generators.latent_diffusion.training import LatentDiffusionTraining
from hypergen.generators.tokens.network_batches import LayoutNetworks, TrainingZoo
from hypergen.zoo import Zoo

pytest.importorskip("peft")
LETTERS = LetterTasks(words={"train": 64, "validation": 8, "test": 8})
LANGUAGE = LanguageModel(hidden=8, layers=1, heads=2, steps=2, batch_size=8, rank=2, adapter_steps=2)


def make(**arguments) -> LatentDiffusion:
    layout = {name: list(value.shape[1:]) for name, value in trained_parameters(adapted()).items()}
    settings = {"token_size": 4, "latent_size": 6, "condition_size": 8, "text_buckets": 32, "sampling_steps": 2}
    torch.manual_seed(0)
    return LatentDiffusion([layout], linear=True, prediction_type="sample", **settings, **arguments)


def adapted() -> nn.Module:
    return LANGUAGE.with_adapter(LANGUAGE.train(LETTERS.drawn[0][:2], 0), 0)


def test_tasks_answer_what_their_texts_say():
    word = torch.tensor([[0, 1, 2, 3, 25]])  # abcdz
    assert LetterTask(1, 0, 0).answers(word).tolist() == [1]
    assert LetterTask(4, 1, 0).answers(word).tolist() == [0]  # After z comes a.
    assert LetterTask(0, 2, 1).answers(word).tolist() == [26 + 25]
    assert LetterTask(2, 3, 0).answers(word).tolist() == [23]
    task = LetterTask(4, 3, 1)
    assert task.text() == "Write the last letter, mirrored in the alphabet, in upper case."
    assert task.text(1) != task.text() == task.text(2)
    train, held_out = LETTERS.drawn
    assert len({task.name for task in (*train, *held_out)}) == 40 and len(held_out) == 8
    features = torch.tensor([task.features for task in held_out])
    assert LETTERS.task_of(features) == held_out


def test_labels_are_the_answers_of_each_task():
    train, _ = LETTERS.drawn
    problem = LETTERS.problem(nn.Identity())
    features = torch.tensor([task.features for task in train[:3]])
    words = LETTERS.data["test"][0][:, :-1]
    expected = torch.stack([task.answers(words) for task in train[:3]])
    assert torch.equal(problem.labels(features, "test"), expected)


def test_only_adapters_are_trained_and_the_rest_stays_one():
    model = adapted()
    before = copy.deepcopy(model.state_dict())
    adapters, accuracy = LANGUAGE.train_adapters(answering(model), LETTERS.drawn[0][:2], LETTERS, 0)
    assert set(adapters.parameters) == set(trained_parameters(model))
    assert all("lora_" in name for name in adapters.parameters)
    assert len(adapters) == 4 and accuracy["test"].shape == (4,)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    changed = adapters.parameters["base_model.model.transformer.h.0.attn.c_attn.lora_B.default.weight"]
    assert not torch.equal(changed[0], changed[2])


def test_stacked_training_of_what_is_not_frozen_is_training_alone():
    def build() -> nn.Module:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        model[0].requires_grad_(False)
        return model

    inputs, labels = torch.randn(8, 3), torch.arange(8) % 2
    recipes = [Recipe("one", 1, learning_rate=0.1), Recipe("two", 1, learning_rate=0.2)]
    (last,) = train_stacked(build, recipes, {"train": (inputs, labels)}, batch_size=8, optimizer="sgd")
    assert set(last.state) == {"2.weight", "2.bias"}
    alone = build()
    nn.functional.cross_entropy(alone(inputs), labels).backward()
    for number, rate in enumerate((0.1, 0.2)):
        expected = alone[2].weight.detach() - rate * alone[2].weight.grad
        torch.testing.assert_close(last.state["2.weight"][number], expected)


def test_an_adapter_is_written_into_a_model_and_nothing_else_changes():
    model = adapted()
    before = copy.deepcopy(model.state_dict())
    report = hypergen.initialize(
        model, make(), condition={"text": "Write the last letter."}, example_inputs=LETTERS.data["test"][0][:2]
    )
    after = model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all("lora_" in name for name in changed)
    assert set(report.predicted) == set(trained_parameters(model))


def test_a_model_whose_adapter_the_zoo_lacks_is_refused():
    model = adapted()
    next(value for name, value in model.named_parameters() if "lora_A" in name).requires_grad_(False)
    with pytest.raises(GeneratorError, match="had no network with these"):
        make().sample(model, [{"text": "any"}])


@pytest.mark.parametrize("wrong", [{"prediction_type": "epsilon"}, {"architecture_size": 4}, {"layouts": []}])
def test_linear_takes_one_layout_and_predicts_latents(wrong):
    settings = {"layouts": [{"weight": [2, 3]}], "prediction_type": "sample", "code_size": 2, **wrong}
    with pytest.raises(GeneratorError, match="linear=True needs one layout"):
        LatentDiffusion(linear=True, **settings)


def zoo_of(generator: LatentDiffusion, count: int = 4) -> tuple[TrainingZoo, dict[str, torch.Tensor]]:
    model = adapted()
    torch.manual_seed(1)
    stacked = {
        name: value + 0.1 * torch.randn(count, *value.shape[1:]) for name, value in trained_parameters(model).items()
    }
    texts = [{"text": LETTERS.drawn[0][number].text()} for number in range(count)]
    return TrainingZoo.read(generator, [LayoutNetworks(answering(model), stacked, texts)]), stacked


def test_components_give_back_the_zoo_that_they_are_of():
    generator = make()
    zoo, stacked = zoo_of(generator)
    mean, _ = generator.autoencoder.encode(zoo.tokens, zoo.layouts, zoo.layout)
    tokens = generator.autoencoder.decode(mean, zoo.layouts, zoo.layout)
    back = generator.network(tokens, zoo.layouts.layouts[0])
    for name, value in stacked.items():
        torch.testing.assert_close(back[name], value, atol=1e-4, rtol=1e-4)
    with pytest.raises(ParameterError, match="the zoo has 2"):
        generator.autoencoder.measure_scales([(zoo.layouts.layouts[0], zoo.tokens)] * 2)


def test_a_linear_generator_survives_saving_and_its_pipeline(tmp_path):
    generator = make()
    zoo_of(generator)
    model = adapted()
    expected = generator.sample(model, [{"text": "Write the last letter."}])
    generator.save_pretrained(tmp_path)
    again = hypergen.load_generator(tmp_path).sample(model, [{"text": "Write the last letter."}])
    piped = generator.pipeline()(model, [{"text": "Write the last letter."}]).parameters
    for name, value in expected.items():
        assert torch.equal(value, again[name]) and torch.equal(value, piped[name])


def test_without_behaviour_no_network_runs():
    generator = make()
    zoo, _ = zoo_of(generator)
    module = LatentDiffusionTraining(generator, zoo, LETTERS.data["train"][0], behaviour_weight=0.0)
    module.inputs = None
    numbers = torch.arange(4)
    loss = module.training_step((numbers, torch.zeros(4, dtype=torch.int64), numbers), 0)
    loss.backward()
    assert generator.autoencoder.write.grad is None and generator.denoiser.condition.weight.grad.abs().sum() > 0


def test_a_text_of_known_words_is_the_sum_of_their_meanings():
    encoder = make().condition_encoder
    texts = ["red", "blue", "red, blue"]
    red, blue, both = encoder(encoder.collate([{"text": text} for text in texts])) - encoder.encoders["text"].bias
    comma = (
        encoder(encoder.collate([{"text": text} for text in (",", "red ,", ", blue")])) - encoder.encoders["text"].bias
    )
    torch.testing.assert_close(both, comma[1] + comma[2] - comma[0])
    assert not torch.allclose(red, blue)


def test_the_whole_experiment(tmp_path):
    def trainer(max_steps: int, **_) -> pl.Trainer:
        return pl.Trainer(
            accelerator="cpu",
            max_steps=max_steps,
            max_epochs=-1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    def stage(**settings):
        return lambda **parts: LatentDiffusionTraining(**parts, steps=2, **settings)

    learner = Learner(lambda layouts: make(), stage(behaviour_weight=0.0), stage(noise_exponent=3.0), 4, 4)
    results = train_lora_tasks(
        name="lora",
        output=str(tmp_path),
        seed=0,
        letters=LETTERS,
        language=LANGUAGE,
        trainer=trainer,
        learner=learner,
        aims={"share_of_trained_gain": 0.5},
    )
    assert results.rows[0].figure == "share_of_trained_gain" and results.rows[0].n == 32
    for method in ("mean_net", "nearest_condition", "linear", "gaussian"):
        assert f"share_of_trained_gain_{method}" in results
    assert json.loads((tmp_path / "results.json").read_text())["rows"][0]["aim"] == 0.5
    zoo = Zoo(tmp_path / "zoo")
    assert len(zoo) == 80 and len(zoo.split("train", by="task")) == 64
    from peft import get_peft_model_state_dict
    from transformers import GPT2LMHeadModel

    base = GPT2LMHeadModel.from_pretrained(tmp_path / "language_model")
    model = LANGUAGE.with_adapter(base, 0)
    generator = hypergen.load_generator(tmp_path / "generator")
    features = torch.tensor([LETTERS.drawn[1][0].features])
    sampled = text_sampler(generator, model, LETTERS)(features, 2, 0)
    assert len(sampled) == len(get_peft_model_state_dict(model))


def test_shares_are_of_the_gain_over_no_adapter():
    class Found:
        methods = {
            "task": [
                {"method": method, "accuracy": accuracy, "std": 0.1, "n": 4}
                for method, accuracy in (("generated", 0.7), ("trained", 0.9), ("init", 0.1), ("linear", 0.3))
            ]
        }

    rows = gain_rows(Found())
    assert [row.figure for row in rows] == ["share_of_trained_gain", "share_of_trained_gain_linear"]
    assert isinstance(rows[0], Row) and rows[0].value == pytest.approx(0.75) and rows[0].std == pytest.approx(0.125)
    assert rows[1].value == pytest.approx(0.25)
