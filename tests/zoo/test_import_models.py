"""Importing checkpoints with what they are of, from commands alone."""

import csv
import sys

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from hypergen.cli.main import app
from hypergen.data import WrappedDataModule, ZooDataModule
from hypergen.errors import CheckpointError, HypergenError
from hypergen.zoo import Zoo
from hypergen.zoo.importers import import_zoo
from hypergen.zoo.importers.logs import JoinedLogs, read_logs
from hypergen.zoo.importers.propose import propose

SOURCE = """
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

def cnn(width=4):
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(width, 3))

def gelu():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(4, 3))

def tied():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3))
    model[1].weight = model[0].weight
    return model

class Data(pl.LightningDataModule):
    classes = 3
    def loader(self):
        random = torch.Generator().manual_seed(0)
        x = torch.randn(60, 1, 5, 5, generator=random)
        return DataLoader(TensorDataset(x, torch.randint(self.classes, (60,), generator=random)), batch_size=20)
    train_dataloader = val_dataloader = test_dataloader = loader

class TooMany(Data):
    classes = 7

class Floats(Data):
    def train_dataloader(self):
        return [(torch.randn(4, 1, 5, 5), torch.randn(4))]

def score(outputs, labels):
    return -(outputs.argmax(1) - labels).abs().float().mean()
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "their_project.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("their_project", None)
    import their_project

    for seed in range(24):
        torch.manual_seed(seed)
        (tmp_path / "in").mkdir(exist_ok=True)
        torch.save({"model": their_project.cnn().state_dict()}, tmp_path / f"in/net_seed{seed}_epoch3.pth")
    yield their_project
    sys.modules.pop("their_project", None)


def run(*arguments):
    return CliRunner().invoke(app, [str(each) for each in arguments], env={"COLUMNS": "200"})


PATTERN = "net_seed{init_seed:d}_epoch{step:d}.pth"


def test_a_layout_keeps_what_its_networks_are(project, tmp_path):
    done = run("zoo", "import", "in", "zoo", "--pattern", PATTERN, "--model", "their_project:cnn", "--data",
               "their_project:Data")  # fmt: skip
    assert done.exit_code == 0 and "1 permutation groups" in done.output, done.output
    zoo = Zoo("zoo")
    layout = zoo.layout
    assert layout.metadata["model"] == "their_project:cnn"
    assert layout.metadata["parameters"]["0.weight"]["operation"] == "conv2d"
    assert "relu" in layout.metadata["graph"]["operations"]
    group = set(layout.permutation_groups[0])
    assert {("0.weight", 0), ("1.weight", 0), ("1.running_mean", 0), ("5.weight", 1)} <= group
    model = project.cnn().eval()
    model.load_state_dict(zoo.state_dict(0))
    inputs, labels = WrappedDataModule("their_project:Data").tensors("test")
    hits = (model(inputs).argmax(1) == labels).float().mean().item()
    assert zoo.column("test.accuracy")[0] == pytest.approx(hits)


def test_several_architectures_and_arguments(project, tmp_path):
    torch.save(project.cnn(6).state_dict(), tmp_path / "in/net_seed99_epoch3.pth")
    models = ["their_project:cnn", "their_project:cnn,width=6"]
    report = import_zoo("in", "zoo", "files", pattern=PATTERN, models=models, example_inputs=torch.zeros(1, 1, 5, 5))
    assert sorted(report.layouts.values()) == [1, 24]
    assert {layout.name for layout in Zoo("zoo").layouts.values()} == set(models)


def test_what_fits_two_networks_or_none_is_refused_before_anything_is_written(project, tmp_path):
    inputs = torch.zeros(1, 1, 5, 5)
    with pytest.raises(CheckpointError, match="'their_project:cnn' and 'their_project:gelu' alike"):
        import_zoo("in", "zoo", "files", pattern=PATTERN, models=["their_project:cnn", "their_project:gelu"],
                   example_inputs=inputs)  # fmt: skip
    torch.save(project.cnn(6).state_dict(), tmp_path / "in/net_seed99_epoch3.pth")
    with pytest.raises(CheckpointError, match=r"net_seed99.*0\.weight is \[6, 1, 3, 3\], expected \[4, 1, 3, 3\]"):
        import_zoo("in", "zoo", "files", pattern=PATTERN, models=["their_project:cnn"], example_inputs=inputs)
    assert not (tmp_path / "zoo").exists()


def test_tied_parameters_are_one(project, tmp_path):
    (tmp_path / "tied").mkdir()
    model = project.tied()
    torch.save({name: value.clone() for name, value in model.state_dict().items()}, tmp_path / "tied/a.pth")
    options = {"pattern": "{run}.pth", "models": ["their_project:tied"], "example_inputs": torch.zeros(1, 4)}
    import_zoo("tied", "zoo", "files", **options)
    zoo = Zoo("zoo")
    assert dict(zoo.layout.tied) == {"1.weight": "0.weight"}
    torch.testing.assert_close(zoo.state_dict(0), dict(model.state_dict()), rtol=0, atol=0)
    torch.save({**model.state_dict(), "1.weight": torch.ones(4, 4)}, tmp_path / "tied/b.pth")
    with pytest.raises(CheckpointError, match="one parameter of 'their_project:tied', but two different"):
        import_zoo("tied", "zoo", "files", **options)


def test_patterns_are_proposed_and_previewed(project, tmp_path):
    done = run("zoo", "import", "in", "zoo")
    assert done.exit_code == 2 and PATTERN in done.output
    done = run("zoo", "import", "in", "zoo", "--like", "in/net_seed3_epoch3.pth")
    assert done.exit_code == 0 and "24 checkpoints of 24 runs in 24 files" in done.output, done.output
    assert not (tmp_path / "zoo").exists()
    assert propose(["runs/a/epoch_3_val_acc0.9.pt", "runs/b/epoch_1_val_acc0.8.pt"]) == (
        "runs/{run}/epoch_{step:d}_val_acc{validation.accuracy:f}.pt"
    )
    with pytest.raises(CheckpointError, match="in two ways: run='net_seed1', step='0_epoch3'|in two ways"):
        import_zoo("in", "zoo", "files", pattern="{run}{hyperparameters.x:d}_epoch{step:d}.pth")
    with pytest.raises(CheckpointError, match="matches none of the 24 files"):
        import_zoo("in", "zoo", "files", pattern="{run}.ckpt")


def test_names_in_a_zoo_that_belong_to_python_are_refused(project):
    from hypergen.architectures.by_name import NamedNetwork

    with pytest.raises(HypergenError, match="belongs to Python itself"):
        NamedNetwork("os:abort")


@pytest.mark.parametrize(
    "name, message",
    [
        ("their_project:TooMany", "labels .*do not fit.*lie from 0 to 6, and it tells 3 classes"),
        ("their_project:Floats", "labels .*do not fit: Labels must be class indices"),
        ("their_project:score", "could not be made without arguments"),
        ("their_project:Dta", "Did you mean 'Data'"),
    ],
)
def test_data_that_does_not_fit_is_named(project, name, message):
    options = {"pattern": PATTERN, "models": ["their_project:cnn"], "example_inputs": torch.zeros(1, 1, 5, 5)}
    import_zoo("in", "zoo", "files", **options)
    with pytest.raises(HypergenError, match=message):
        ZooDataModule("zoo", task=name).check_task()


def test_a_zoo_without_held_out_runs_is_refused_before_training(project, tmp_path):
    for seed in range(2, 24):
        (tmp_path / f"in/net_seed{seed}_epoch3.pth").unlink()
    options = {"pattern": PATTERN, "models": ["their_project:cnn"], "example_inputs": torch.zeros(1, 1, 5, 5)}
    import_zoo("in", "zoo", "files", **options)
    data = ZooDataModule("zoo", task="their_project:Data")
    if len(data.part("test")):
        pytest.skip("a name was drawn for testing")
    with pytest.raises(HypergenError, match="holds out no task and no run"):
        data.held_out()


def test_logs_are_joined_by_run_and_step(tmp_path):
    lightning = tmp_path / "logs/run_a/version_0"
    lightning.mkdir(parents=True)
    (lightning / "metrics.csv").write_text("epoch,step,val_acc,train_loss\n0,10,,0.9\n0,10,0.5,\n1,20,0.7,\n")
    (lightning / "hparams.yaml").write_text("lr: 0.1\nlayers: [1, 2]\noptimizer: adam\n")
    joined = JoinedLogs(read_logs(tmp_path / "logs"), [("run_a", 10), ("run_a", 20)])
    assert joined("run_a", 20) == {
        "validation.accuracy": 0.7, "hyperparameters.lr": 0.1, "hyperparameters.optimizer": "adam",
    }  # fmt: skip
    assert joined("run_a", 10)["train.loss"] == 0.9
    by_epoch = JoinedLogs(read_logs(tmp_path / "logs"), [("run_a", 1)])
    assert by_epoch("run_a", 1)["validation.accuracy"] == 0.7
    with (tmp_path / "all.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["run", "epoch", "lr", "val_loss"], ["b", 3, 0.01, 0.2], ["c", 3, 0.02, 0.3]])
    joined = JoinedLogs(read_logs(tmp_path / "all.csv"), [("b", 3), ("c", 3)])
    assert joined("c", 3) == {"validation.loss": 0.3, "hyperparameters.lr": 0.02}
    with pytest.raises(CheckpointError, match="belongs to one of 1 runs, 'x' first"):
        JoinedLogs(read_logs(tmp_path / "all.csv"), [("x", 3)])


def test_statistics_of_batch_norms_are_those_of_each_network():
    from hypergen.functional import calibrate_batch_norm
    from hypergen.functional.stacked_outputs import StackedOutputs

    make = lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))  # noqa: E731
    networks = [make() for _ in range(3)]
    calibration, inputs = torch.randn(40, 1, 5, 5), torch.randn(7, 1, 5, 5)
    stacked = {name: torch.stack([dict(each.named_parameters())[name].detach() for each in networks])
               for name, _ in networks[0].named_parameters()}  # fmt: skip
    outputs = StackedOutputs(make(), calibration)
    for many in (inputs, torch.cat([inputs] * 20)):  # all networks at once, and one after another
        found = outputs(stacked, many)
        for network, own in zip(networks, found, strict=True):
            calibrate_batch_norm(network, [calibration])
            torch.testing.assert_close(network.eval()(many), own, rtol=1e-4, atol=1e-5)


def varint(value):
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def field(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def items(values):
    return b"".join(field(1, field(1, key.encode()) + field(16, text.encode())) for key, text in values.items())


def test_offline_runs_of_wandb_are_read_without_it(tmp_path):
    run = field(17, field(1, b"id1") + field(4, items({"lr": "0.1"})) + field(8, b"seed1"))
    history = [field(2, items({"_step": str(step), "val/acc": str(0.5 + step / 10)})) for step in (0, 1)]
    long = field(2, items({"_step": "2", "val/acc": "0.9", "note": '"' + "x" * 40_000 + '"'}))  # more than one block
    content = b":W&B\x00\x00\x00"
    for record in [run, *history, long]:
        first = True
        while record or first:
            room = 32_768 - len(content) % 32_768
            if room < 7:
                content += b"\0" * room
                continue
            chunk, record = record[: room - 7], record[room - 7 :]
            kind = (1 if first else 4) if not record else (2 if first else 3)
            content += b"\0\0\0\0" + len(chunk).to_bytes(2, "little") + bytes([kind]) + chunk
            first = False
    folder = tmp_path / "wandb/offline-run-20260101_000000-id1"
    folder.mkdir(parents=True)
    (folder / "run-id1.wandb").write_bytes(content)
    (tmp_path / "wandb/latest-run").symlink_to(folder)
    joined = JoinedLogs(read_logs(tmp_path / "wandb"), [("seed1", 1), ("seed1", 2)])
    assert joined("seed1", 1) == {"hyperparameters.lr": 0.1, "validation.accuracy": 0.6}
    assert joined("seed1", 2)["validation.accuracy"] == 0.9
    (folder / "run-id1.wandb").write_bytes(content[: len(content) - 100])  # killed while it wrote
    assert len(read_logs(tmp_path / "wandb")[0].rows) == 2
    (folder / "run-id1.wandb").write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="no log of Weights & Biases"):
        read_logs(tmp_path / "wandb")
