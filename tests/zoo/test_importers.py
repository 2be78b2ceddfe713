import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hypergen.errors import CheckpointError, UnknownNameError
from hypergen.zoo import Zoo
from hypergen.zoo.importers import import_zoo


def mlp(width=4):
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 2))


def save(state, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return state


class Evil:
    def __reduce__(self):
        return print, ("this must never run",)


def test_files_by_a_pattern(tmp_path):
    states = {
        (run, step): save(mlp().state_dict(), tmp_path / f"in/{run}/epoch_{step}_acc0.{step}.pth")
        for run in ("a", "b")
        for step in (2, 10)
    }
    (tmp_path / "in/notes.txt").write_text("no checkpoint")
    pattern = "{run}/epoch_{step:d}_acc{test.accuracy:f}.pth"
    report = import_zoo(tmp_path / "in", tmp_path / "zoo", "files", pattern=pattern)
    zoo = Zoo(tmp_path / "zoo").verify()
    assert report.added == tuple(zoo.column("uid")) == ("a/2", "a/10", "b/2", "b/10")
    assert zoo.column("test.accuracy") == [0.2, 0.1, 0.2, 0.1]
    for position in range(4):
        state = states[zoo.column("run")[position], zoo.column("step")[position]]
        torch.testing.assert_close(zoo.state_dict(position), dict(state), rtol=0, atol=0)
    again = import_zoo(tmp_path / "in", tmp_path / "zoo", "files", pattern=pattern)
    assert again.added == () and again.known == 4 and len(Zoo(tmp_path / "zoo")) == 4


def test_files_by_a_regular_expression(tmp_path):
    save(mlp().state_dict(), tmp_path / "in/seed3-lr1e-2.pt")
    pattern = r"seed(?P<init_seed>\d+)-lr(?P<hyperparameters__learning_rate>.+)\.pt"
    import_zoo(tmp_path / "in", tmp_path / "zoo", "files", pattern=pattern)
    row = Zoo(tmp_path / "zoo").index.to_pylist()[0]
    assert (row["init_seed"], row["hyperparameters.learning_rate"], row["step"]) == (3, 0.01, 0)
    assert row["run"] == "seed3-lr1e-2"


def test_layouts_may_be_mixed(tmp_path):
    for width in (2, 4, 2):
        save(mlp(width).state_dict(), tmp_path / f"in/{width}.pth")
    save_file(mlp(4).state_dict(), tmp_path / "in/more.safetensors")
    report = import_zoo(tmp_path / "in", tmp_path / "zoo", "files", pattern=r"(?P<run>\w+)\.\w+")
    assert sorted(report.layouts.values()) == [1, 2]
    zoo = Zoo(tmp_path / "zoo")
    assert [zoo.parameters(i)["0.weight"].shape[0] for i in range(3)] == [2, 4, 4]


def test_nested_and_wrapped_state_dicts(tmp_path):
    network = mlp()
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    wrapped = {f"module.{name}": value for name, value in network.state_dict().items()}
    content = {"epoch": 3, "model": wrapped, "optimizer": optimizer.state_dict()}
    save(content, tmp_path / "in/a.pth")
    import_zoo(tmp_path / "in", tmp_path / "zoo", "files", pattern="{run}.pth")
    torch.testing.assert_close(Zoo(tmp_path / "zoo").state_dict(0), dict(network.state_dict()), rtol=0, atol=0)
    save({**content, "ema": wrapped}, tmp_path / "in/two.pth")
    with pytest.raises(CheckpointError, match=r"two\.pth.*one state dict.*'model', 'ema'"):
        import_zoo(tmp_path / "in", tmp_path / "zoo", "files", pattern="{run}.pth")
    import_zoo(tmp_path / "in", tmp_path / "zoo", "files", pattern="{run}.pth", key="ema", prefix="0.")
    assert list(Zoo(tmp_path / "zoo").state_dict(1)) == ["weight", "bias"]


@pytest.mark.parametrize(
    "content, message",
    [
        ({"weight": Evil()}, r"bad\.pth.*more than tensors and plain values"),
        ({"state": {"weight": torch.ones(2), "bias": [1.0]}}, r"bad\.pth.*it holds: none"),
        ({}, r"bad\.pth.*it holds: none"),
        ({"x": torch.ones(1), "nested": {"y": torch.ones(1)}}, r"bad\.pth.*'nested'|bad\.pth"),
    ],
)
def test_bad_files_are_named_and_skipped_on_request(tmp_path, capsys, content, message):
    save(content, tmp_path / "in/bad.pth")
    save(mlp().state_dict(), tmp_path / "in/good.pth")
    options = {"pattern": "{run}.pth"}
    if "x" in content:
        options["key"] = "state"
    with pytest.raises(CheckpointError, match=message):
        import_zoo(tmp_path / "in", tmp_path / "zoo", "files", **options)
    if "x" not in content:
        report = import_zoo(tmp_path / "in", tmp_path / "zoo2", "files", on_error="skip", **options)
        assert report.added == ("good/0",) and list(report.failed) == [str(tmp_path / "in/bad.pth")]
    assert "must never run" not in capsys.readouterr().out


def test_truncated_files_are_named(tmp_path):
    save(mlp().state_dict(), tmp_path / "in/a.pth")
    (tmp_path / "in/a.pth").write_bytes((tmp_path / "in/a.pth").read_bytes()[:300])
    with pytest.raises(CheckpointError, match=r"a\.pth.* damaged"):
        import_zoo(tmp_path / "in", tmp_path / "zoo", "files", pattern="{run}.pth")


def test_a_value_that_is_no_tensor_is_named(tmp_path):
    save({"state": {"weight": torch.ones(2), "bias": [1.0]}}, tmp_path / "in/a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth.*'bias' of 'state' is a list"):
        import_zoo(tmp_path / "in", tmp_path / "zoo", "files", pattern="{run}.pth", key="state")


def test_misleading_patterns_are_named(tmp_path):
    for name in ("1_a", "1_b"):
        save(mlp().state_dict(), tmp_path / f"in/{name}.pth")
    cases = {
        "{steps:d}_{run}.pth": "field 'steps'",
        "{step:x}_{run}.pth": ":d and :f",
        r"(?P<step>\d+_.*\.pth": "not valid",
        r"(?P<step>\d+)_.*\.pth": r"1_b\.pth.*1_a\.pth.* would both be",
        "{run}.ckpt": r"matches none of the 2 files, '1_a\.pth'.*Try '\{run\}",
    }
    for pattern, message in cases.items():
        with pytest.raises(CheckpointError, match=message):
            import_zoo(tmp_path / "in", tmp_path / "zoo", "files", pattern=pattern)
    with pytest.raises(UnknownNameError, match="Did you mean 'lightning'"):
        import_zoo(tmp_path / "in", tmp_path / "zoo", "lightnin")
    with pytest.raises(CheckpointError, match="no folder"):
        import_zoo(tmp_path / "nowhere", tmp_path / "zoo", "lightning")


def test_model_zoos(tmp_path):
    root = tmp_path / "in/cnn_zoo"
    trial = root / "NN_tune_trainable_00001_1_seed=5_2021"
    states = [save(mlp().state_dict(), trial / f"checkpoint_{step:06d}/checkpoints") for step in range(2)]
    save({"state": {}}, trial / "checkpoint_000001/optimizer")
    (root / "index_dict.json").write_text(json.dumps({"layer": [[0, "linear"]]}))
    (trial / "params.json").write_text(json.dumps({"seed": 5, "optim::lr": 0.01, "widths": [4], "cuda": False}))
    lines = [
        {"training_iteration": 0, "train_loss": -999, "test_acc": 0.1, "config": {}},
        {"training_iteration": 1, "train_loss": 0.5, "test_acc": 0.8, "validation_loss": 0.3, "time_total_s": 3.0},
    ]
    (trial / "result.json").write_text("\n".join(json.dumps(line) for line in lines))
    import_zoo(tmp_path / "in", tmp_path / "zoo", "model_zoos")
    zoo = Zoo(tmp_path / "zoo")
    assert zoo.column("step") == [0, 1] and zoo.column("run")[0].startswith("cnn_zoo/NN_tune")
    assert zoo.column("test.accuracy") == [0.1, 0.8] and zoo.column("validation.loss") == [None, 0.3]
    assert zoo.column("train.loss") == [None, 0.5] and zoo.column("init_seed") == [5, 5]
    assert zoo.column("hyperparameters.optim::lr") == [0.01] * 2
    assert zoo.column("hyperparameters.widths") == ["[4]"] * 2
    assert zoo.layout.metadata["index_dict"] == {"layer": [[0, "linear"]]}
    torch.testing.assert_close(zoo.state_dict(1), dict(states[1]), rtol=0, atol=0)
    (trial / "result.json").write_text('{"training_iteration": 0}\n{"training_it')
    with pytest.raises(CheckpointError, match=r"Line 2 of .*result\.json"):
        import_zoo(tmp_path / "in", tmp_path / "zoo", "model_zoos")


def test_lightning_checkpoints(tmp_path):
    import pytorch_lightning as pl
    from torch.utils.data import DataLoader, TensorDataset

    class Module(pl.LightningModule):
        def __init__(self, learning_rate: float):
            super().__init__()
            self.save_hyperparameters()
            self.model = mlp()

        def training_step(self, batch, _):
            return self.model(batch[0]).square().mean()

        def validation_step(self, batch, _):
            self.log("val_loss", self.model(batch[0]).square().mean())

        def configure_optimizers(self):
            return torch.optim.SGD(self.model.parameters(), lr=self.hparams.learning_rate)

    data = DataLoader(TensorDataset(torch.randn(8, 3)), batch_size=4)
    folder = tmp_path / "in/version_0/checkpoints"
    keep = pl.callbacks.ModelCheckpoint(folder, monitor="val_loss", save_top_k=-1)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    trainer = pl.Trainer(max_epochs=2, callbacks=[keep], default_root_dir=tmp_path, **quiet)
    module = Module(0.05)
    trainer.fit(module, data, data)
    import_zoo(tmp_path / "in", tmp_path / "zoo", "lightning", prefix="model.")
    zoo = Zoo(tmp_path / "zoo")
    assert zoo.column("uid") == ["version_0/2", "version_0/4"]
    assert zoo.column("hyperparameters.learning_rate") == [0.05] * 2
    assert zoo.column("validation.loss")[1] == pytest.approx(trainer.callback_metrics["val_loss"].item())
    torch.testing.assert_close(zoo.state_dict(1), dict(module.model.state_dict()), rtol=0, atol=0)
    save({"weight": torch.ones(1)}, tmp_path / "other/x.ckpt")
    with pytest.raises(CheckpointError, match=r"x\.ckpt.*no checkpoint of Lightning"):
        import_zoo(tmp_path / "other", tmp_path / "zoo", "lightning")


def test_hugging_face_trainer_folders_and_shards(tmp_path):
    run = tmp_path / "in/run1"
    for step in (500, 1000):
        folder = run / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        save_file(mlp().state_dict(), folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"architectures": ["X"], "hidden_size": 4}))
        history = [{"step": 500, "loss": 0.7}, {"step": 500, "eval_loss": 0.5}, {"step": 1000, "eval_accuracy": 0.9}]
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": history}))
    sharded = tmp_path / "in/sharded"
    sharded.mkdir()
    state = mlp(8).state_dict()
    names = list(state)
    files = {name: f"model-0000{i % 2 + 1}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: state[name] for name in names if files[name] == file}, sharded / file)
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    torch.save(mlp().state_dict(), tmp_path / "in/pytorch_model.bin")
    import_zoo(tmp_path / "in", tmp_path / "zoo", "hugging_face")
    zoo = Zoo(tmp_path / "zoo")
    assert sorted(zoo.column("uid")) == ["in/0", "run1/1000", "run1/500", "sharded/0"]
    mine = zoo.select(run="run1")
    by_step = dict(zip(mine.column("step"), mine.index.to_pylist(), strict=True))
    assert (by_step[500]["validation.loss"], by_step[500]["train.loss"]) == (0.5, 0.7)
    assert by_step[1000]["validation.accuracy"] == 0.9 and by_step[1000]["validation.loss"] is None
    torch.testing.assert_close(zoo.select(run="sharded").state_dict(0), dict(state), rtol=0, atol=0)
    (sharded / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00001-of-00002\.safetensors"):
        import_zoo(sharded, tmp_path / "zoo2", "hugging_face")


def test_adapters_of_peft(tmp_path):
    peft = pytest.importorskip("peft")

    class Base(nn.Module):
        def __init__(self):
            super().__init__()
            self.query = nn.Linear(6, 6)

        def forward(self, x):
            return self.query(x)

    for number in range(2):
        model = peft.get_peft_model(Base(), peft.LoraConfig(r=2, lora_alpha=4, target_modules=["query"]))
        model.save_pretrained(tmp_path / f"in/task{number}")
    import_zoo(tmp_path / "in", tmp_path / "zoo", "hugging_face")
    zoo = Zoo(tmp_path / "zoo")
    assert sorted(zoo.column("run")) == ["task0", "task1"] and zoo.column("hyperparameters.r") == [2, 2]
    assert len(zoo.layouts) == 1 and zoo.layout.metadata["adapter_config"]["lora_alpha"] == 4
    state = zoo.state_dict(1)
    saved = peft.get_peft_model_state_dict(model)
    torch.testing.assert_close(state, {name: saved[name] for name in state}, rtol=0, atol=0)


def test_a_folder_of_timm(tmp_path):
    timm = pytest.importorskip("timm")
    network = timm.create_model("test_convnext", pretrained=False, num_classes=3)
    (tmp_path / "in").mkdir()
    timm.models.save_for_hf(network, tmp_path / "in")
    import_zoo(tmp_path / "in", tmp_path / "zoo", "hugging_face")
    zoo = Zoo(tmp_path / "zoo")
    assert zoo.layout.metadata["config"]["architecture"] == "test_convnext"
    torch.testing.assert_close(zoo.state_dict(0), dict(network.state_dict()), rtol=0, atol=0)
