import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch.multiprocessing import ProcessRaisedException

from hypergen.errors import CheckpointError, HypergenError
from hypergen.training.checkpoints import INTERRUPTED, LastCheckpoint, TrainingInterrupted, read_checkpoint
from hypergen.training.fit import _fork_can_train

ROOT = Path(__file__).parents[2]
FAST = ("debug=fast", "evaluate=false", "trainer=cpu", "trainer.max_time=null", "meta_batches.architectures=6")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(folder / "last.ckpt")["state_dict"]


def losses(folder: Path) -> list[float]:
    with open(folder / "logs/metrics.csv") as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


def differences(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> dict[str, float]:
    assert one.keys() == other.keys()
    # What is infinite in both, as the radius where no training graphs are kept yet, is equal.
    apart = {name: one[name].double() - other[name].double() for name in one}
    return {name: float(apart[name].masked_fill(one[name] == other[name], 0).abs().max()) for name in one}


class SignalAt(pl.Callback):
    """Sends this process a signal in the middle of a step."""

    def __init__(self, step: int, number: signal.Signals) -> None:
        self.step, self.number = step, number

    def on_before_optimizer_step(self, trainer, *_):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_goes_on_exactly(run, tmp_path, monkeypatch, number):
    whole, half, rest = tmp_path / "whole", tmp_path / "half", tmp_path / "rest"
    run(*FAST, "training.steps=5", output=whole)
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    setup = LastCheckpoint.setup

    def setup_with_signal(self, trainer, pl_module, stage):
        trainer.callbacks.append(SignalAt(2, number))
        setup(self, trainer, pl_module, stage)

    with monkeypatch.context() as patch:
        patch.setattr(LastCheckpoint, "setup", setup_with_signal)
        with pytest.raises(TrainingInterrupted) as interrupted:
            run(*FAST, "training.steps=5", output=half)
    assert interrupted.value.checkpoint == half / "last.ckpt"
    assert read_checkpoint(half / "last.ckpt")["global_step"] == 3
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert not (half / "generator").exists()
    # The seed of what is drawn before the checkpoint is loaded must not matter.
    torch.manual_seed(99)
    run(*FAST, "training.steps=5", f"ckpt_path={half / 'last.ckpt'}", output=rest)
    # The step that is interrupted is saved at its end, before it is logged.
    assert losses(half) == losses(whole)[:2] and losses(rest) == losses(whole)[3:]
    assert max(differences(weights(whole), weights(rest)).values()) == 0


def test_two_processes_train_as_one(run, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    run(*FAST, output=one)
    run(*FAST, "trainer=ddp", output=two)
    # Gradients are summed in another order. Adam turns a sum of nearly nothing into a step, hence the two bounds.
    found = differences(weights(one), weights(two))
    assert max(found.values()) < 1e-3
    mean = sum(found.values()) / len(found)
    assert mean < 1e-5, mean


def test_networks_that_cannot_be_shared_out_are_refused(run, tmp_path):
    with pytest.raises(ProcessRaisedException, match="networks_per_step=3"):
        run(*FAST, "trainer=ddp", "meta_batches.networks_per_step=3")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems spawn processes")
def test_a_fork_can_train_here():
    torch.ones(1, requires_grad=True).sum().backward()
    assert _fork_can_train()


@pytest.mark.parametrize(
    "number, send", [(signal.SIGINT, os.killpg), (signal.SIGTERM, os.killpg), (signal.SIGTERM, os.kill)]
)
def test_a_signal_to_a_run_of_two_processes(tmp_path, number, send):
    options = ["debug=fast", "evaluate=false", "training.steps=100000", "trainer.val_check_interval=100000"]
    options += ["meta_batches.num_workers=1", "callbacks.progress.seconds_between_lines=0.1", f"output={tmp_path}"]
    command = [sys.executable, str(ROOT / "train.py"), *options, f"hydra.run.dir={tmp_path}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    # In a session of its own, so that the signal reaches all of its processes and nobody else, as Ctrl-C does.
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, env=environment
    )
    try:
        assert process.stdout is not None
        seen = ""
        while "step " not in seen:
            line = process.stdout.readline()
            assert line, seen
            seen += line
        begun = time.monotonic()
        send(process.pid, number)
        seen += process.communicate(timeout=60)[0]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == INTERRUPTED, seen
    assert "Traceback" not in seen and f"ckpt_path={tmp_path}/last.ckpt" in seen
    assert time.monotonic() - begun < 30
    assert read_checkpoint(tmp_path / "last.ckpt")["global_step"] > 0
    assert not list(tmp_path.glob(".last.ckpt*"))


def test_a_checkpoint_of_another_configuration_is_refused(run, tmp_path):
    run(*FAST)
    with pytest.raises(HypergenError, match="another configuration.*generator"):
        run(*FAST, "generator.hidden=32", f"ckpt_path={tmp_path}/last.ckpt", output=tmp_path / "other")
    with pytest.raises(CheckpointError, match="no checkpoint at 'nothing.ckpt'"):
        run(*FAST, "ckpt_path=nothing.ckpt")
    assert not (tmp_path / "other").exists()
