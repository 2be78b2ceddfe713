import os
import signal

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from hypergen.errors import CheckpointError
from hypergen.training import callbacks
from hypergen.training.callbacks import TrainingProgress
from hypergen.training.checkpoints import AtomicCheckpointIO, LastCheckpoint, check_resumable, read_checkpoint


class Line(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        loss = self.layer(batch).square().mean()
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder, *added, steps=4, module=None):
    trainer = pl.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=list(added),
        plugins=[AtomicCheckpointIO()],
        default_root_dir=folder,
    )
    module = module or Line()
    trainer.fit(module, DataLoader(torch.ones(100, 1), batch_size=1))
    return module


def test_a_checkpoint_holds_tensors_and_plain_values_only(tmp_path):
    module = fit(tmp_path, LastCheckpoint(tmp_path, every_steps=3))
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 4
    assert torch.equal(checkpoint["state_dict"]["layer.weight"], module.layer.weight)
    assert check_resumable(tmp_path / "last.ckpt", Line()) == 4
    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, full_disk):
    io = AtomicCheckpointIO()
    io.save_checkpoint({"global_step": 7, "value": torch.ones(3)}, tmp_path / "last.ckpt")
    before = (tmp_path / "last.ckpt").read_bytes()
    with full_disk(), pytest.raises(CheckpointError, match=r"could not be saved.*\(step 7\) is still usable"):
        io.save_checkpoint({"value": torch.ones(10_000)}, tmp_path / "last.ckpt")
    assert (tmp_path / "last.ckpt").read_bytes() == before
    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_training_goes_on_when_a_checkpoint_cannot_be_saved(tmp_path, full_disk):
    with full_disk(), pytest.warns(UserWarning, match="could not be saved.*Training goes on"):
        module = fit(tmp_path, LastCheckpoint(tmp_path, every_steps=2))
    assert module.trainer.global_step == 4
    assert not list(tmp_path.iterdir())


def test_an_interruption_that_cannot_be_saved_says_so(tmp_path, full_disk):
    class Interrupt(pl.Callback):
        def on_train_batch_start(self, *_):
            os.kill(os.getpid(), signal.SIGINT)

    last = LastCheckpoint(tmp_path)
    with full_disk(), pytest.raises(CheckpointError, match="could not be saved"), last.listening():
        fit(tmp_path, Interrupt(), last)


def test_errors_of_training_are_no_interruption(tmp_path):
    last = LastCheckpoint(tmp_path)
    with pytest.raises(ZeroDivisionError), last.listening():
        raise ZeroDivisionError
    with pytest.raises(SystemExit), last.listening():
        raise SystemExit(3)


def test_the_second_signal_stops_at_once(tmp_path):
    last = LastCheckpoint(tmp_path)
    with pytest.raises(KeyboardInterrupt), last.listening():
        os.kill(os.getpid(), signal.SIGINT)
        assert last.interrupted
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("damage", ["truncated", "pickle", "empty", "generator"])
def test_damaged_and_unsafe_checkpoints_are_refused(tmp_path, damage):
    path = tmp_path / "last.ckpt"
    if damage == "truncated":
        torch.save({"state_dict": {}}, path)
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "pickle":
        torch.save({"state_dict": torch.nn.Linear(1, 1)}, path)
    elif damage == "empty":
        path.touch()
    else:
        torch.save({"layer.weight": torch.ones(1)}, path)
    said = {
        "truncated": "is damaged or truncated",
        "pickle": "holds more than tensors and plain values",
        "empty": "is empty",
        "generator": "is not ",
    }
    with pytest.raises(CheckpointError, match=f"last.ckpt' {said[damage]}"):
        check_resumable(path, Line())
    if damage != "generator":
        with pytest.raises(CheckpointError):
            AtomicCheckpointIO().load_checkpoint(path, weights_only=False)


def test_a_missing_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        read_checkpoint(tmp_path)


def test_progress_prints_lines_where_there_is_no_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(callbacks, "_output", callbacks.Console(force_terminal=False))
    fit(tmp_path, TrainingProgress(seconds_between_lines=0, networks_per_step=8))
    lines = capsys.readouterr().out.splitlines()
    steps = [line for line in lines if line.startswith("step ")]
    assert len(steps) == 4 and steps[-1].startswith("step 4/4  loss ")
    assert "updates/s" in steps[-1]


def test_progress_draws_a_bar_in_a_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(callbacks, "_output", callbacks.Console(force_terminal=True))
    monkeypatch.setenv("FORCE_COLOR", "1")
    fit(tmp_path, TrainingProgress(networks_per_step=8))
    assert "4/4" in capsys.readouterr().out
