import copy
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import hypergen
from hypergen.errors import CheckpointError, ParameterError, TraceError
from hypergen.generators import Generator, register_generator
from hypergen.graph import ComputationalGraph


@register_generator
class ScaledNoise(Generator):
    """Noise times a learned scale; ``fault`` breaks the contract in one way."""

    def __init__(self, scale: float = 1.0, sizes: tuple = (1, 2), leave_out: tuple = (), fault: str | None = None):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))
        self.table = nn.Linear(sizes[0], sizes[1], bias=False)
        self.tied = self.table
        self.register_buffer("count", torch.zeros(2, dtype=torch.int64))
        self.leave_out, self.fault = leave_out, fault

    def predict(self, target, condition=None, *, example_inputs=None):
        if isinstance(target, ComputationalGraph):
            shapes = target.parameter_shapes
        else:
            shapes = {name: parameter.shape for name, parameter in target.named_parameters()}
        result = {n: torch.randn(shape) * self.scale for n, shape in shapes.items() if n not in self.leave_out}
        first = next(iter(result))
        if self.fault == "extra":
            result["no.such"] = torch.zeros(1)
        elif self.fault == "shape":
            result[first] = result[first].flatten()[:1]
        elif self.fault == "nan":
            result[first] = result[first] * float("nan")
        return result


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4, bias=False)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.spare = nn.Parameter(torch.ones(3))
        self.example_input_array = torch.zeros(1, 4)

    def forward(self, x):
        return self.second(self.first(x).relu())


def test_arguments_are_recorded_with_defaults():
    assert ScaledNoise(2.0, leave_out=("spare",)).config == {
        "scale": 2.0,
        "sizes": [1, 2],
        "leave_out": ["spare"],
        "fault": None,
    }


def test_config_is_a_copy():
    generator = ScaledNoise()
    generator.config["sizes"].append(3)
    assert generator.config["sizes"] == [1, 2]


@pytest.mark.parametrize("value", [torch.zeros(1), nn.ReLU(), {1: 2}, float("nan"), [object()], print])
def test_arguments_that_json_cannot_hold_are_refused(value):
    with pytest.raises(TypeError, match=r"ScaledNoise\(fault=…\).*JSON cannot hold"):
        ScaledNoise(fault=value)


def test_omegaconf_arguments_get_the_way_out():
    omegaconf = pytest.importorskip("omegaconf")
    with pytest.raises(TypeError, match="_convert_: all"):
        ScaledNoise(sizes=omegaconf.OmegaConf.create([1, 2]))


def test_wrong_arguments_are_pythons_own_error():
    with pytest.raises(TypeError, match="unexpected keyword argument 'scales'"):
        ScaledNoise(scales=1.0)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda generator: pickle.loads(pickle.dumps(generator))])
def test_copies_keep_config_and_values(duplicate):
    generator = ScaledNoise(3.0)
    other = duplicate(generator)
    assert other.config == generator.config and other.scale.item() == 3.0 and other.scale is not generator.scale


def test_subclass_records_its_own_arguments():
    class Narrow(ScaledNoise):
        def __init__(self, width: int):
            super().__init__(scale=width / 2)

    assert Narrow(4).config == {"width": 4}


def test_generate_is_differentiable_and_leaves_the_target():
    generator, net = ScaledNoise(2.0), Net()
    before = copy.deepcopy(net.state_dict())
    parameters = generator.generate(net)
    assert {n: p.shape for n, p in parameters.items()} == {n: p.shape for n, p in net.named_parameters()}
    sum(value.sum() for value in parameters.values()).backward()
    assert generator.scale.grad is not None
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_unused_parameters_may_be_left_out_and_read_ones_may_not():
    for target in (Net(), hypergen.trace(Net())):
        assert "spare" not in ScaledNoise(leave_out=("spare",)).generate(target)
        with pytest.raises(ParameterError, match=r"no values for second\.bias, which operations"):
            ScaledNoise(leave_out=("second.bias",)).generate(target)


@pytest.mark.parametrize(("fault", "message"), [("extra", "no.such"), ("shape", "shape"), ("nan", "not finite")])
def test_predictions_that_do_not_fit_are_refused(fault, message):
    for target in (Net(), hypergen.trace(Net())):
        with pytest.raises(ParameterError, match=message):
            ScaledNoise(fault=fault).generate(target)


def test_a_prediction_that_overflows_in_half_precision_is_refused():
    with pytest.raises(ParameterError, match=r"not finite in the model's torch\.float16"):
        ScaledNoise(1e6).generate(Net().half())


def test_targets_that_cannot_be_served():
    complex_net, integer_net = nn.Linear(2, 2, dtype=torch.complex64), nn.Linear(2, 2)
    integer_net.steps = nn.Parameter(torch.zeros(2, dtype=torch.int64), requires_grad=False)
    for net, message in (
        (nn.ReLU(), "ReLU has no parameters"),
        (complex_net, "complex parameters.*weight, bias"),
        (integer_net, "integer parameters.*steps"),
        (nn.LazyLinear(3), "lazy modules.*weight"),
    ):
        with pytest.raises(ParameterError, match=message):
            ScaledNoise().generate(net)
    with pytest.raises(ParameterError, match="graph has no parameters"):
        ScaledNoise().generate(hypergen.trace(nn.ReLU(), torch.zeros(1)))


def test_a_gap_in_a_network_that_cannot_be_traced_says_so():
    net = Net()
    del net.example_input_array
    with pytest.raises(TraceError, match="example_inputs="):
        ScaledNoise(leave_out=("spare",)).generate(net)
    assert "spare" not in ScaledNoise(leave_out=("spare",)).generate(net, example_inputs=torch.zeros(1, 4))


def test_round_trip(tmp_path):
    generator = ScaledNoise(0.5, sizes=(3, 4), leave_out=("a",))
    with torch.no_grad():
        generator.count.fill_(7)
    results = {"name": "toy", "seed": 0, "rows": [{"figure": "accuracy", "value": 0.9, "n": 3, "aim": 0.95}]}
    folder = generator.save_pretrained(tmp_path / "toy", results=results, card="Trained on *nothing*.")
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    config = json.loads((folder / "config.json").read_text())
    assert config["class"] == "ScaledNoise" and config["arguments"] == generator.config
    assert config["hypergen_version"] == hypergen.__version__ and config["results"] == results
    card = (folder / "README.md").read_text()
    assert "Trained on *nothing*." in card and "| `accuracy` | 0.9 |" in card and "`scale` | `0.5` |" in card
    modes = {file.stat().st_mode for file in folder.iterdir()}
    assert len(modes) == 1  # safetensors alone would make the weights private

    torch.manual_seed(0)
    state = torch.get_rng_state()
    for source in (folder, str(folder), folder / "model.safetensors"):
        for cls in (ScaledNoise, Generator):
            loaded = cls.from_pretrained(source)
            assert type(loaded) is ScaledNoise and loaded.config == generator.config and not loaded.training
            assert loaded.tied is loaded.table
            for name, value in generator.state_dict().items():
                assert torch.equal(loaded.state_dict()[name], value)
    assert torch.equal(torch.get_rng_state(), state)


def test_saving_replaces_the_generator_and_keeps_other_files(tmp_path):
    ScaledNoise(1.0).save_pretrained(tmp_path)
    (tmp_path / "plot.png").write_text("mine")
    ScaledNoise(2.0).save_pretrained(tmp_path)
    assert ScaledNoise.from_pretrained(tmp_path).scale.item() == 2.0
    assert (tmp_path / "plot.png").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 4


def test_full_disk_leaves_the_old_generator(tmp_path, full_disk):
    ScaledNoise(1.0).save_pretrained(tmp_path / "toy")
    before = {file.name: file.read_bytes() for file in (tmp_path / "toy").iterdir()}
    with full_disk(), pytest.raises(CheckpointError, match="still usable"):
        ScaledNoise(2.0, sizes=(100, 100)).save_pretrained(tmp_path / "toy")
    assert {file.name: file.read_bytes() for file in (tmp_path / "toy").iterdir()} == before
    assert ScaledNoise.from_pretrained(tmp_path / "toy").scale.item() == 1.0
    with full_disk(), pytest.raises(CheckpointError, match="could not be saved"):
        ScaledNoise(2.0, sizes=(100, 100)).save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_full_disk_at_the_last_file_leaves_the_old_generator(tmp_path, monkeypatch):
    ScaledNoise(1.0).save_pretrained(tmp_path)
    write_text = Path.write_text

    def fail_on_card(path, *args, **kwargs):
        if path.name == "README.md":
            raise OSError(28, "No space left on device")
        return write_text(path, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", fail_on_card)
    with pytest.raises(CheckpointError, match="No space left on device"):
        ScaledNoise(2.0).save_pretrained(tmp_path)
    assert ScaledNoise.from_pretrained(tmp_path).scale.item() == 1.0
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("moment", range(4))
def test_a_kill_between_any_two_steps_leaves_a_whole_generator(tmp_path, monkeypatch, moment):
    """At each step of taking effect: before the first, and after one, two or three files are in place."""
    ScaledNoise(1.0, sizes=(1, 1)).save_pretrained(tmp_path)
    steps = []
    replace = os.replace

    class Kill(BaseException):
        pass

    def replace_or_die(source, target):
        if len(steps) == moment:
            raise Kill
        steps.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", replace_or_die)
    try:
        ScaledNoise(2.0, sizes=(2, 2)).save_pretrained(tmp_path)
    except Kill:
        pass
    else:
        assert moment == 3
    assert ScaledNoise.from_pretrained(tmp_path).scale.item() == (1.0 if moment == 0 else 2.0)


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "toy").write_text("a file")
    with pytest.raises(CheckpointError, match="could not be saved"):
        ScaledNoise().save_pretrained(tmp_path / "toy")
    assert (tmp_path / "toy").read_text() == "a file"


@pytest.fixture
def saved(tmp_path):
    return ScaledNoise(1.5).save_pretrained(tmp_path / "toy")


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99])
def test_truncated_weights(saved, share):
    weights = saved / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match="truncated or not a safetensors file|is empty"):
        ScaledNoise.from_pretrained(saved)


def test_missing_files(saved, tmp_path):
    (saved / "config.json").unlink()
    assert ScaledNoise.from_pretrained(saved).scale.item() == 1.5  # the weights carry their configuration
    (saved / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"holds no model\.safetensors"):
        ScaledNoise.from_pretrained(saved)
    with pytest.raises(CheckpointError, match="no such file or folder"):
        ScaledNoise.from_pretrained(tmp_path / "elsewhere")


class Bomb:
    exploded = False

    def __reduce__(self):
        return (setattr, (Bomb, "exploded", True))


@pytest.mark.parametrize("name", ["model.safetensors", "weights.pt", "pytorch_model.bin", "last.ckpt"])
def test_pickles_are_refused_unopened(tmp_path, name):
    for write in (lambda file: torch.save(Bomb(), file), lambda file: file.write_bytes(pickle.dumps(Bomb()))):
        write(tmp_path / name)
        for source in (tmp_path / name, tmp_path):
            with pytest.raises(CheckpointError, match="pickle.*safetensors only.*weights_only=True"):
                ScaledNoise.from_pretrained(source)
    assert not Bomb.exploded


def edit(saved: Path, **changes) -> None:
    """Change the configuration in both places."""
    config = {**json.loads((saved / "config.json").read_text()), **changes}
    (saved / "config.json").write_text(json.dumps(config))
    tensors = load_file(saved / "model.safetensors")
    save_file(tensors, saved / "model.safetensors", {"hypergen": json.dumps(config)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 99, "hypergen_version": "7.1"}, r"format 99 \(saved with hypergen 7\.1\).*Upgrade"),
        ({"format_version": 0}, "format 0.*train the generator again"),
        ({"class": "ScaledNoize"}, r"Unknown generator class 'ScaledNoize'\. Did you mean 'ScaledNoise'"),
        ({"class": "os.system"}, "Unknown generator class 'os.system'"),
        ({"class": None}, "lacks 'class'"),
        ({"arguments": {"scales": 1.0}}, "arguments that ScaledNoise does not take.*scales"),
        ({"arguments": {"sizes": [2, 2]}}, r"of another shape: table\.weight \[2, 1\] instead of \[2, 2\]"),
    ],
)
def test_configurations_that_cannot_be_served(saved, changes, message):
    edit(saved, **changes)
    for source in (saved, saved / "model.safetensors"):
        with pytest.raises(CheckpointError, match=message):
            ScaledNoise.from_pretrained(source)


def test_a_format_version_in_config_json_alone_counts(saved):
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "format_version": 2}))
    with pytest.raises(CheckpointError, match="format 2"):
        ScaledNoise.from_pretrained(saved)


def test_a_config_json_of_another_generator(saved):
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "arguments": {}}))
    with pytest.raises(CheckpointError, match="does not belong to the model.safetensors"):
        ScaledNoise.from_pretrained(saved)
    (saved / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not readable JSON"):
        ScaledNoise.from_pretrained(saved)
    (saved / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="not a hypergen generator's"):
        ScaledNoise.from_pretrained(saved)


def test_tensors_that_do_not_belong(saved):
    tensors = load_file(saved / "model.safetensors")
    config = (saved / "config.json").read_text()
    for changed, message in (
        ({**tensors, "stranger": torch.zeros(1)}, "unexpected stranger"),
        ({name: value for name, value in tensors.items() if name != "scale"}, "missing scale"),
    ):
        save_file(changed, saved / "model.safetensors", {"hypergen": config})
        with pytest.raises(CheckpointError, match=message):
            ScaledNoise.from_pretrained(saved)
    save_file(tensors, saved / "model.safetensors")
    assert ScaledNoise.from_pretrained(saved).scale.item() == 1.5  # config.json says what it is
    with pytest.raises(CheckpointError, match="no generator configuration"):
        ScaledNoise.from_pretrained(saved / "model.safetensors")


def test_another_class(saved):
    class Other(Generator):
        def predict(self, target, condition=None, *, example_inputs=None):
            return {}

    with pytest.raises(CheckpointError, match="is a ScaledNoise, not a Other"):
        Other.from_pretrained(saved)


def test_git_lfs_pointer(saved):
    (saved / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(CheckpointError, match="git lfs pull"):
        ScaledNoise.from_pretrained(saved)


def test_hub(saved, monkeypatch, tmp_path):
    import huggingface_hub

    calls = []

    def offline(repository, *, allow_patterns, local_files_only=False):
        calls.append(local_files_only)
        if not local_files_only:
            raise ConnectionError("no network\nat all")
        if repository != "me/toy":
            raise FileNotFoundError(repository)
        return str(saved)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    assert Generator.from_pretrained("me/toy").scale.item() == 1.5
    assert calls == [False, True]
    with pytest.raises(CheckpointError, match=r"no folder 'me/other'.*ConnectionError: no network\)"):
        Generator.from_pretrained("me/other")


def test_a_real_kill_while_saving(tmp_path):
    """SIGKILL in the middle of many saves: what is there afterwards loads."""
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_generator import ScaledNoise
small, large = ScaledNoise(1.0, sizes=(1, 1)), ScaledNoise(2.0, sizes=(300, 300))
small.save_pretrained({str(tmp_path / "toy")!r})
print("saved", flush=True)
while True:
    large.save_pretrained({str(tmp_path / "toy")!r})
    small.save_pretrained({str(tmp_path / "toy")!r})
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(hypergen.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout.readline() == b"saved\n"
        time.sleep(0.2)
        process.kill()
    assert ScaledNoise.from_pretrained(tmp_path / "toy").scale.item() in (1.0, 2.0)
    shutil.rmtree(tmp_path / "toy")
