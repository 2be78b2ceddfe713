import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

import hypergen
from hypergen.architectures.by_name import build_model
from hypergen.cli.main import app
from hypergen.errors import HypergenError, UnknownNameError
from hypergen.generators import Generator, factory, register_generator
from hypergen.graph import ComputationalGraph

ROOT = Path(hypergen.__file__).parents[1]

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.spare = nn.Linear(4, 3), nn.Parameter(torch.ones(2))
        self.again = nn.Linear(4, 3, bias=False)
        self.again.weight = self.layer.weight

    def forward(self, x):
        return self.layer(x) + self.again(x).relu()

class Nets:
    small = Net

def needs_values():
    net = Net()
    return net if torch.rand(()).item() < 2 else None

def broken():
    raise ValueError("no luck today")

def number():
    return 3

instance = Net()
constant = 3
"""


@register_generator
class Halves(Generator):
    def __init__(self, value: float = 0.5):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def predict(self, target, condition=None, *, example_inputs=None):
        graph = target if isinstance(target, ComputationalGraph) else hypergen.trace(target, example_inputs)
        names = [name for name in graph.parameter_shapes if name not in graph.unused_parameters]
        return {name: self.value.expand(graph.parameter_shapes[name]) for name in names}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with networks and a generator, to stand in; wide enough for tables."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "toy_nets.py").write_text(NETS)
    sys.modules.pop("toy_nets", None)
    Halves().save_pretrained(tmp_path / "halves")
    return tmp_path


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code, result.output + repr(result.exception)
    assert "Traceback" not in result.output
    return result.output


def test_predict_writes_a_folder_of_files(folder):
    text = run("predict", "toy_nets:Net", "-g", "halves", "-o", "parts", "--input", "1,4", "--max-shard-size", "40")
    files = sorted(file.name for file in (folder / "parts").iterdir())
    assert "model.safetensors.index.json" in files and len(files) > 2
    assert f"{len(files) - 1}," in text
    written = {name: value for file in files[:-1] for name, value in load_file(folder / "parts" / file).items()}
    run("predict", "toy_nets:Net", "-g", "halves", "-o", "one.safetensors", "--input", "1,4")
    whole = load_file(folder / "one.safetensors")
    assert written.keys() == whole.keys()
    assert all(torch.equal(written[name], value) for name, value in whole.items())


def test_version_and_help():
    assert run("--version") == f"{hypergen.__version__}\n"
    text = run("--help")
    assert all(command in text for command in ("predict", "graph", "evaluate", "generators"))


def test_help_needs_no_heavy_library():
    code = "import sys; import hypergen.cli.main; print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert {"timm", "transformers", "torchvision", "pytorch_lightning", "matplotlib", "sklearn"}.isdisjoint(loaded)
    rooms = {name for name in done.stdout.split() if name.startswith("hypergen.")}
    rooms = {name for name in rooms if not name.startswith("hypergen.cli")}
    assert rooms == {f"hypergen.{name}" for name in ("_lazy", "_moved", "_torchvision", "_version", "errors")}


def test_predict(folder):
    text = run("predict", "toy_nets:Net", "-g", "halves", "--out", "new/p.safetensors", "--input", "1,4")
    assert "2 tensors, 15 values, float32" in text and "88.24% predicted" in text
    assert "spare (read by no operation)" in text and "load_state_dict" in text
    parameters = load_file("new/p.safetensors")
    assert {name: list(value.shape) for name, value in parameters.items()} == {
        "layer.weight": [3, 4],
        "layer.bias": [3],
    }
    assert all((value == 0.5).all() for value in parameters.values())
    assert [file.name for file in (folder / "new").iterdir()] == ["p.safetensors"]


def test_predict_in_another_data_type(folder):
    run("predict", "toy_nets:Net", "-g", "halves", "-o", "p.safetensors", "--input", "1,4", "--dtype", "bfloat16")
    assert {value.dtype for value in load_file("p.safetensors").values()} == {torch.bfloat16}
    Halves(1e5).save_pretrained(folder / "large")
    text = run(
        "predict", "toy_nets:Net", "-g", "large", "-o", "q.safetensors", "--input", "1,4", "--dtype", "float16", code=2
    )
    assert "too large for float16" in text and not (folder / "q.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["toy_nets:Net", "-g", "halvs"], "Unknown generator 'halvs'"),
        (["toy_nets:Net", "-g", "no/where"], "no folder 'no/where' here.*ConnectionError"),
        (["toy_nets:Net", "-g", "halves", "-o", "p.pt"], "does not end in .safetensors"),
        (["toy_nets:Net", "-g", "halves", "--dtype", "float8"], "Unknown data type 'float8'"),
        (["toy_nets:Net", "-g", "halves"], "On the command line, give the shape: --input 1,3,224,224"),
        (["toy_nets:Net", "-g", "halves", "--input", "1,x"], "--input '1,x' is no shape"),
        (["toy_nets:Net", "-g", "halves", "--input", "1,4:nn"], "--input '1,4:nn' is no shape"),
        (["toy_nets:Net", "-g", "halves", "--input", "1,5"], "could not be run on example inputs of shape"),
        (["toy_nets:Nett", "-g", "halves"], "Did you mean 'Net'"),
        (["toy_nets:broken", "-g", "halves"], "could not be built: ValueError: no luck today"),
        (["[red]x", "-g", "halves"], re.escape("'[red]x' names no model")),
    ],
)
def test_errors_are_one_message_and_write_nothing(folder, arguments, message, monkeypatch):
    def refuse(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    if "-o" not in arguments:
        arguments = [*arguments, "-o", "p.safetensors"]
    assert re.search(message, run("predict", *arguments, code=2))
    assert sorted(file.name for file in folder.iterdir() if file.name != "__pycache__") == ["halves", "toy_nets.py"]


def test_errors_that_nobody_foresaw_keep_their_traceback(monkeypatch):
    monkeypatch.setattr(Generator, "generate", lambda *_, **__: 1 / 0)
    result = CliRunner().invoke(app, ["predict", "torch.nn:ReLU", "-g", "halves", "-o", "p.safetensors"])
    assert isinstance(result.exception, ZeroDivisionError)


def test_an_old_file_survives_a_failed_write(folder, monkeypatch):
    import safetensors.torch

    (folder / "p.safetensors").write_text("old")

    def fail(tensors, file, metadata):
        Path(file).write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", fail)
    text = run(
        "predict", "toy_nets:Net", "-g", "halves", "-o", "p.safetensors", "--input", "1,4", "--overwrite", code=2
    )
    assert "No space left on device" in text and (folder / "p.safetensors").read_text() == "old"
    assert not [file for file in folder.iterdir() if "saving" in file.name]


def test_graph():
    text = run("graph", "toy_nets:Net", "--input", "1,4")
    assert re.search(r"linear\W+2\W+2\W+15\b", text)
    assert "edges, traced in" in text
    assert "read by no operation: spare" in text and "tied: again.weight = layer.weight" in text


def test_graph_draws(folder):
    assert "drawn: new/net.svg" in run("graph", "toy_nets:Net", "--input", "1,4", "-o", "new/net.svg")
    assert "<svg" in (folder / "new" / "net.svg").read_text()
    assert "drawn: net.html" in run("graph", "toy_nets:Net", "--input", "1,4", "-o", "net.html", "--no-fold")
    assert "again" in (folder / "net.html").read_text()
    assert ".svg, .png, .pdf" in run("graph", "toy_nets:Net", "--input", "1,4", "-o", "net.txt", code=2)
    assert "cannot be made" in run("graph", "toy_nets:Net", "--input", "1,4", "-o", "toy_nets.py/a.svg", code=2)


def test_generators(folder, monkeypatch):
    monkeypatch.setattr(factory, "RELEASED", folder / "released")
    assert "python train.py" in run("generators")
    rows = [
        {"figure": "predicted_accuracy_mean", "value": 0.9531, "std": 0.02, "n": 100, "aim": 0.95},
        {"figure": "default_accuracy_mean", "value": 0.1, "std": 0.01, "n": 100, "aim": None},
        {"figure": "steps_ratio_to_95", "value": None, "std": None, "n": 0, "aim": 0.2},
    ]
    Halves().save_pretrained(folder / "released" / "digits-ghn", results={"name": "digits", "rows": rows})
    Halves().save_pretrained(folder / "released" / "bare")
    text = run("generators")
    assert re.search(r"digits-ghn\W+Halves\W+0\.0 MB\W+predicted_accuracy_mean\W+0\.9531\W+0\.95\b", text)
    assert re.search(r"steps_ratio_to_95\W+0\.2\b", text)
    assert "bare" in text and "default_accuracy_mean" not in text


@pytest.mark.parametrize(
    ("protocol", "function", "data", "own"),
    [
        ("digits", "evaluate_image_classifier_generator", "DigitsDataModule", {"aims": "release"}),
        ("text", "evaluate_language_model_generator", "TextDataModule", {}),
    ],
)
def test_evaluate(folder, monkeypatch, protocol, function, data, own):
    asked = []

    class Evaluation:
        def write(self, out):
            (out / "results.json").write_text("{}")

        class results:
            print_table = staticmethod(lambda: print("the table"))

    def measure(generator, measured, **options):
        asked.append((type(generator).__name__, type(measured).__name__, options))
        return Evaluation()

    monkeypatch.setattr(f"hypergen.evaluation.{function}", measure)
    options = ("--protocol", protocol, "--architectures", "2", "--workers", "0")
    text = run("evaluate", "-g", "halves", "-o", "new/out", *options)
    assert "the table" in text and "written: new/out" in text and (folder / "new/out/results.json").exists()
    assert asked == [("Halves", data, {"architectures_per_split": 2, "workers": 0, "seed": 0, **own})]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "out", "--protocol", "digit"], "Did you mean 'digits'"),
        (["-o", "out", "--aims", "releas"], "Did you mean 'release'"),
        (["-o", "toy_nets.py/out"], "cannot be made"),
    ],
)
def test_evaluate_errors(arguments, message):
    assert message in run("evaluate", "-g", "halves", *arguments, code=2)


def test_the_command_in_a_process_of_its_own(folder):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "hypergen.cli.main", "graph"]
    for model, code in (("toy_nets:Nets.small", 0), ("toy_nets:Nets.smal", 2)):
        done = subprocess.run(
            [*command, model, "--input", "1,4"], capture_output=True, text=True, env=environment, timeout=60
        )
        assert done.returncode == code, done.stderr
        assert ("linear" in done.stdout) if code == 0 else ("Did you mean 'small'" in done.stderr)
        assert "Traceback" not in done.stderr


def test_python_names():
    assert next(build_model("toy_nets:Net").parameters()).is_meta
    assert not next(build_model("toy_nets:Net", on_meta=False).parameters()).is_meta
    assert not next(build_model("toy_nets:needs_values").parameters()).is_meta  # its constructor reads a value
    assert not next(build_model("toy_nets:instance").parameters()).is_meta
    for name, message in (
        ("toy_nets:constant", "is a int"),
        ("toy_nets:number", "it returned a int"),
        ("no_such_module:Net", "no Python module 'no_such_module'"),
        ("tim:resnet18", "one of timm, torchvision, hf"),
        ("resnet18", "Expected timm:NAME"),
        ("timm:", "Expected timm:NAME"),
    ):
        with pytest.raises(HypergenError, match=message):
            build_model(name)


def test_a_module_with_a_missing_import_of_its_own(folder):
    (folder / "needs_more.py").write_text("import no_such_dependency")
    with pytest.raises(HypergenError, match="'needs_more' could not be imported.*no_such_dependency"):
        build_model("needs_more:Net")


def test_timm():
    pytest.importorskip("timm")
    assert next(build_model("timm:resnet18").parameters()).is_meta
    with pytest.raises(UnknownNameError, match="Did you mean 'resnet18'"):
        build_model("timm:resnet_18")


def test_torchvision():
    pytest.importorskip("torchvision")
    for name in ("resnet18", "inception_v3", "fcn_resnet50"):
        assert next(build_model(f"torchvision:{name}").parameters()).is_meta
    with pytest.raises(UnknownNameError, match="Did you mean 'vit_b_16'"):
        build_model("torchvision:vit_b16")


def test_hugging_face(folder):
    transformers = pytest.importorskip("transformers")
    transformers.GPT2Config(n_layer=1, n_embd=8, n_head=2, architectures=["GPT2LMHeadModel"]).save_pretrained("tiny")
    model = build_model("hf:tiny")
    assert type(model).__name__ == "GPT2LMHeadModel" and next(model.parameters()).is_meta
    with pytest.raises(UnknownNameError, match="Did you mean 'gpt2'"):
        build_model("hf:gtp2")
    with pytest.raises(HypergenError, match="hypergen downloads no models"):
        build_model("hf:owner/name")
    with pytest.raises(HypergenError, match="no readable Transformers config.json"):
        build_model("hf:halves")


@pytest.mark.parametrize(
    ("library", "extra"), [("timm", "vision"), ("torchvision", "vision"), ("transformers", "transformers")]
)
def test_missing_extras_say_how_to_install_them(monkeypatch, library, extra):
    monkeypatch.setitem(sys.modules, library, None)
    name = "hf:gpt2" if library == "transformers" else f"{library}:resnet18"
    with pytest.raises(HypergenError, match=re.escape(f'pip install "hypergen-weights[{extra}]"')):
        build_model(name)
