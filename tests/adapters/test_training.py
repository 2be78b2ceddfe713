import json
import warnings

import pytest
import torch
from typer.testing import CliRunner

import hypergen
from hypergen.adapters import Adapter, LowRank, read_adapter, runtime_state, stack_adapters, write_adapter
from hypergen.adapters.zoo import join_texts, read_adapter_zoo, read_texts
from hypergen.cli.main import app
from hypergen.errors import CheckpointError, ParameterError
from tests.adapters import kinds

peft = pytest.importorskip("peft")
WORDS = ("first", "second", "third", "last")


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A user's own base, adapters of two ranks and scales, and texts."""
    folder = tmp_path_factory.mktemp("given")
    kinds.base("gpt2").save_pretrained(folder / "base")
    texts = {}
    for number in range(8):
        torch.manual_seed(number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = peft.get_peft_model(
                kinds.base("gpt2"),
                peft.LoraConfig(r=2 + number % 2, lora_alpha=4, target_modules=["c_attn"], fan_in_fan_out=True),
            )
        with torch.no_grad():
            for name, value in model.named_parameters():
                if "lora_" in name:
                    value.add_(0.3 * torch.randn_like(value))
        model.save_pretrained(folder / "adapters" / f"a{number}")
        texts[f"a{number}"] = [f"Write the {WORDS[number % 4]} letter.", f"The {WORDS[number % 4]} one, {number}."]
    (folder / "texts.json").write_text(json.dumps(texts))
    return folder


def run(*arguments) -> str:
    result = CliRunner().invoke(app, ["adapters", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def failing(*arguments) -> str:
    result = CliRunner().invoke(app, ["adapters", *map(str, arguments)])
    assert result.exit_code == 2, result.output
    return " ".join(result.output.split())


def test_from_a_base_and_adapters_to_an_adapter_for_a_new_text(given, tmp_path):
    kinds.adapted("plain").save_pretrained(given / "adapters" / "other")  # of another base
    try:
        out = run(
            "train", given / "adapters", "--base", given / "base", "--texts", given / "texts.json", "--steps", "6,3",
            "--length", 4, "--held-out", 2, "--out", tmp_path / "generator",
        )  # fmt: skip
    finally:
        for file in (given / "adapters" / "other").iterdir():
            file.unlink()
        (given / "adapters" / "other").rmdir()
    assert "left out: unnamed base #" in out or "left out" in out
    assert "Trained on 6 adapters (held out:" in out and "with the texts shuffled" in out
    run("write", tmp_path / "generator", "Write the second letter.", "--out", tmp_path / "new")
    model = kinds.loaded("gpt2", tmp_path / "new")
    tokens = torch.arange(4)[None]
    assert not torch.allclose(model(tokens).logits, kinds.base("gpt2")(tokens).logits, atol=1e-3)
    assert model.generate(input_ids=tokens, max_new_tokens=2, pad_token_id=0).shape == (1, 6)
    generator = hypergen.load_generator(tmp_path / "generator")
    one = generator.write("Write the second letter.")
    tensors = runtime_state(one)["lora_tensors"]
    assert set(tensors) == set(runtime_state(read_adapter(tmp_path / "new"))["lora_tensors"])
    double = generator.write("Write the second letter.", scale=2.0)
    name = next(iter(one.modules))
    torch.testing.assert_close(double.modules[name].update(), 2 * one.modules[name].update(), atol=1e-5, rtol=1e-4)
    run("write", tmp_path / "generator", "first", "last", "--stack", "--rank", 2, "--out", tmp_path / "stacked")
    assert read_adapter(tmp_path / "stacked").rank == 2
    kinds.loaded("gpt2", tmp_path / "stacked")


@pytest.mark.parametrize("form", ["canonical", "aligned", "shared"])
def test_a_zoo_of_adapters_gives_them_back(form, given, tmp_path):
    out = run("store", given / "adapters", "--texts", given / "texts.json", "--form", form, "--out", tmp_path / "zoo")
    assert "8 adapters stored" in out
    stacked, names, texts = read_adapter_zoo(tmp_path / "zoo")
    assert len(stacked) == 8 and set(names) == set(texts)
    for number, name in enumerate(names):
        original = read_adapter(given / "adapters" / name)
        for module, update in stacked.adapter(number).modules.items():
            expected = original.modules[module].update()
            torch.testing.assert_close(update.update(), expected, atol=1e-4, rtol=1e-3 if form != "shared" else 0.05)
    write_adapter(stacked.adapter(0), tmp_path / "one")
    kinds.loaded("gpt2", tmp_path / "one")
    if form == "canonical":
        run(
            "train", tmp_path / "zoo", "--base", given / "base", "--no-behaviour", "--steps", "3,0", "--out",
            tmp_path / "generator",
        )  # fmt: skip


def test_alignment_undoes_any_gauge():
    random = torch.Generator().manual_seed(0)
    up, down = torch.randn(12, 3, generator=random), torch.randn(3, 9, generator=random)
    adapters = []
    for number in range(6):
        noise = 0.02 * torch.randn(12, 3, generator=random)
        gauge = torch.linalg.qr(torch.randn(3, 3, generator=random))[0]
        adapters.append(Adapter({"q": LowRank((up + noise) @ gauge.T, gauge @ down)}, name=str(number)))
    raw = torch.stack([adapter.modules["q"].up for adapter in adapters])
    aligned = stack_adapters(adapters, "aligned").parameters["base_model.model.q.lora_B.weight"]
    shared = stack_adapters(adapters, "shared", energy=1.0).parameters["base_model.model.q.lora_A.weight"]

    def kept(stacked):
        return float(stacked.mean(0).norm() / stacked.norm(dim=(1, 2)).mean())

    assert kept(raw) < 0.8 < 0.999 < kept(aligned) and kept(shared) == pytest.approx(1.0)
    with pytest.raises(ParameterError, match="do not adapt the same modules"):
        stack_adapters([adapters[0], Adapter({"v": LowRank(up, down)})])


def test_texts_and_adapters_must_belong_together(given, tmp_path):
    wrong = json.loads((given / "texts.json").read_text())
    wrong["b"] = wrong.pop("a0")
    (tmp_path / "texts.json").write_text(json.dumps(wrong))
    arguments = ["train", given / "adapters", "--base", given / "base", "--out", tmp_path / "out"]
    message = failing(*arguments, "--texts", tmp_path / "texts.json")
    assert "1 adapters have no text: a0; 1 texts have no adapter: b" in message
    assert join_texts(["a", "b"], {"b": "x", "c": "y"}, partial=True) == [1]
    with pytest.raises(ParameterError, match="No adapter has a text"):
        join_texts(["a"], {"c": "y"}, partial=True)
    assert "There are no texts" in failing(*arguments)
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(CheckpointError, match="holds no texts"):
        read_texts(tmp_path / "list.json")
    texts = ["--texts", given / "texts.json"]
    assert "leaves none to train on" in failing(*arguments, *texts, "--held-out", 8)
    assert "must be lists of one length" in failing(*arguments, *texts, "--inputs", _tokens(tmp_path, [[1, 2], [3]]))
    assert "has no tokenizer" in failing(*arguments, *texts, "--inputs", _tokens(tmp_path, ["some text"]))


def test_bases_that_do_not_serve_are_named(given, tmp_path):
    settings = json.loads((given / "base" / "config.json").read_text())
    (tmp_path / "wide").mkdir()
    (tmp_path / "wide" / "config.json").write_text(json.dumps({**settings, "n_embd": 16}))
    arguments = ["train", given / "adapters", "--texts", given / "texts.json", "--out", tmp_path / "out"]
    assert "misshapen" in failing(*arguments, "--base", tmp_path / "wide")
    settings["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "config.json").write_text(json.dumps(settings))
    assert "is quantised (gptq)" in failing(*arguments, "--base", tmp_path / "small")


def _tokens(folder, rows):
    (folder / "inputs.json").write_text(json.dumps(rows))
    return folder / "inputs.json"
