import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hypergen.zoo import Zoo
from hypergen.zoo.callbacks.lightning import ZooCallback


class Module(pl.LightningModule):
    def __init__(self, learning_rate: float = 0.1, frozen: bool = False):
        super().__init__()
        self.save_hyperparameters()
        self.model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
        self.model[0].requires_grad_(not frozen)

    def training_step(self, batch, _):
        return self.model(batch[0]).square().mean()

    def validation_step(self, batch, _):
        self.log("val_loss", self.model(batch[0]).square().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.model.parameters(), lr=self.hparams.learning_rate)


def fit(module, callback, folder, epochs=2, ckpt_path=None, **options):
    data = DataLoader(TensorDataset(torch.randn(12, 3, generator=torch.Generator().manual_seed(0))), batch_size=4)
    trainer = pl.Trainer(
        max_epochs=epochs,
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        default_root_dir=folder,
        **options,
    )
    trainer.fit(module, data, data, ckpt_path=ckpt_path, weights_only=True if ckpt_path else None)
    return trainer


@pytest.fixture(autouse=True)
def quiet(recwarn):
    yield


def test_lightning_runs_are_collected_after_validation(tmp_path):
    module = Module()
    trainer = fit(module, ZooCallback(tmp_path / "zoo", run="a", attribute="model", task="zero"), tmp_path)
    zoo = Zoo(tmp_path / "zoo")
    assert zoo.column("step") == [0, 3, 6] and set(zoo.column("run")) == {"a"} and set(zoo.column("task")) == {"zero"}
    assert zoo.column("hyperparameters.learning_rate") == [0.1] * 3
    torch.testing.assert_close(zoo.state_dict(2), dict(module.model.state_dict()), rtol=0, atol=0)
    losses = zoo.column("validation.loss")
    assert losses[0] is None and losses[2] == pytest.approx(trainer.callback_metrics["val_loss"].item())
    # It is the loss of these very weights.
    module.model.load_state_dict(zoo.state_dict(1))
    inputs = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert losses[1] == pytest.approx(module.eval().model(inputs).square().mean().item(), rel=1e-5)


def test_lightning_runs_are_collected_every_so_many_steps(tmp_path):
    fit(Module(), ZooCallback(tmp_path / "zoo", every_steps=2, save_first=False, write_every=1), tmp_path)
    zoo = Zoo(tmp_path / "zoo")
    assert sorted(zoo.column("step")) == [2, 4, 6] and zoo.column("run")[0].startswith("Module-")


def test_a_resumed_lightning_run_goes_on(tmp_path):
    trainer = fit(Module(), ZooCallback(tmp_path / "zoo"), tmp_path)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    fit(Module(), ZooCallback(tmp_path / "zoo"), tmp_path, epochs=3, ckpt_path=tmp_path / "last.ckpt")
    zoo = Zoo(tmp_path / "zoo")
    assert sorted(zoo.column("step")) == [0, 3, 6, 9] and len(set(zoo.column("run"))) == 1


@pytest.mark.parametrize("keep_frozen", [False, True])
def test_frozen_parameters_are_kept_once_or_left_out(tmp_path, keep_frozen):
    module = Module(frozen=True)
    fit(module, ZooCallback(tmp_path / "zoo", attribute="model", keep_frozen=keep_frozen), tmp_path)
    zoo = Zoo(tmp_path / "zoo")
    assert "0.weight" not in zoo.stack()
    assert ("0.weight" in zoo.state_dict(0)) == keep_frozen
    assert len(list((tmp_path / "zoo/base").iterdir())) == keep_frozen


def test_an_interrupted_lightning_run_keeps_what_it_collected(tmp_path):
    class Fails(Module):
        def on_train_epoch_start(self):
            if self.current_epoch == 1:
                raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fit(Fails(), ZooCallback(tmp_path / "zoo"), tmp_path)
    assert Zoo(tmp_path / "zoo").column("step") == [0, 3]


def test_runs_of_the_hugging_face_trainer_are_collected(tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    # From the root of this repository, transformers takes the folder datasets/ for the library of that name.
    monkeypatch.setattr("transformers.trainer.is_datasets_available", lambda: False)
    from hypergen.zoo.callbacks.hugging_face import ZooTrainerCallback

    config = transformers.BertConfig(
        vocab_size=11, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, num_labels=2
    )
    model = transformers.BertForSequenceClassification(config)
    model.bert.embeddings.requires_grad_(False)
    data = [{"input_ids": torch.tensor([1, 2, i % 11]), "labels": torch.tensor(i % 2)} for i in range(8)]
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path / "run7"),
        per_device_train_batch_size=4,
        num_train_epochs=2,
        eval_strategy="epoch",
        save_strategy="no",
        report_to=[],
        seed=5,
        learning_rate=1e-2,
        use_cpu=True,
        disable_tqdm=True,
    )
    callback = ZooTrainerCallback(tmp_path / "zoo", run="seven", task="parity")
    trainer = transformers.Trainer(model, arguments, train_dataset=data, eval_dataset=data, callbacks=[callback])
    trainer.train()
    zoo = Zoo(tmp_path / "zoo")
    assert zoo.column("step") == [0, 2, 4] and set(zoo.column("run")) == {"seven"}
    assert zoo.column("init_seed") == [5] * 3 and zoo.column("hyperparameters.learning_rate") == [1e-2] * 3
    losses = [row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row]
    assert zoo.column("validation.loss") == [None, *losses]
    last = zoo.state_dict(2)
    assert not any(name.startswith("bert.embeddings.word") for name in last)
    trained = {name: value for name, value in model.state_dict().items() if name in last}
    torch.testing.assert_close(last, trained, rtol=0, atol=0)
    missing = [name for name, value in model.named_parameters() if value.requires_grad and name not in last]
    assert not missing
