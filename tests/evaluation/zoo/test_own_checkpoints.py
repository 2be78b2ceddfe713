"""From a zoo of somebody else's networks to samples that load into their own class."""

import csv
import sys

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from hypergen.cli.main import app
from hypergen.data import ZooDataModule
from hypergen.data.canonical import CanonicalOrder
from hypergen.evaluation.results import Results, Row
from hypergen.evaluation.zoo.finetuning import FinetuningProtocol
from hypergen.evaluation.zoo.folder import evaluate_on_zoo
from hypergen.evaluation.zoo.protocol import ZooEvaluation
from hypergen.generators.gaussian import Gaussian, GaussianTraining
from hypergen.zoo.importers import import_zoo

SOURCE = """
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

def net():
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))

class Data(pl.LightningDataModule):
    def loader(self):
        x = torch.randn(80, 4, generator=torch.Generator().manual_seed(0))
        return DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=40)
    train_dataloader = val_dataloader = test_dataloader = loader

def score(outputs, labels):
    return 0.125
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    (folder / "our_project.py").write_text(SOURCE)
    sys.path.insert(0, str(folder))
    import our_project

    (folder / "in").mkdir()
    batch = next(iter(our_project.Data().loader()))
    for seed in range(40):
        torch.manual_seed(seed)
        net = our_project.net()
        optimizer = torch.optim.Adam(net.parameters(), 0.05)
        for _ in range(5 + seed):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(batch[0]), batch[1]).backward()
            optimizer.step()
        torch.save(net.state_dict(), folder / f"in/seed{seed}.pth")
    from hypergen.data import WrappedDataModule

    import_zoo(folder / "in", folder / "zoo", "files", pattern="seed{init_seed:d}.pth", models=["our_project:net"],
               data=WrappedDataModule("our_project:Data"))  # fmt: skip
    data = ZooDataModule(folder / "zoo", task="our_project:Data")
    generator = Gaussian(**{**data.generator_arguments(), "rank": 4})
    GaussianTraining(generator, data)
    generator.save_pretrained(folder / "generator")
    yield folder
    sys.path.remove(str(folder))
    sys.modules.pop("our_project", None)


def test_samples_load_into_their_own_class(project, tmp_path):
    done = CliRunner().invoke(app, [
        "zoo", "sample", str(project / "generator"), str(project / "zoo"), "--number", "3", "--wanted", "0.2",
        "--data", "our_project:Data", "--out", str(tmp_path),
    ])  # fmt: skip
    assert done.exit_code == 0 and "3 networks sampled for validation.loss 0.2" in done.output, done.output
    import our_project

    rows = list(csv.DictReader((tmp_path / "samples.csv").open()))
    inputs, labels = (torch.cat(parts) for parts in zip(*our_project.Data().loader(), strict=True))
    for row in rows:
        net = our_project.net().eval()
        net.load_state_dict(torch.load(tmp_path / row["file"], weights_only=True))
        assert (net(inputs).argmax(1) == labels).float().mean().item() == pytest.approx(
            float(row["test.accuracy"]), abs=1e-5
        )


def test_batch_norms_without_data_are_refused(project, tmp_path):
    done = CliRunner().invoke(app, [
        "zoo", "sample", str(project / "generator"), str(project / "zoo"), "--out", str(tmp_path / "x"),
    ])  # fmt: skip
    assert done.exit_code == 2 and "Batch norms need inputs" in done.output, done.output


def test_the_evaluation_is_in_words_and_takes_their_metric(project):
    from hypergen.generators import load_generator

    data = ZooDataModule(project / "zoo", task="our_project:Data")
    short = FinetuningProtocol([1e-2], 2)
    evaluation = evaluate_on_zoo(load_generator(str(project / "generator")), data, samples=1, finetuning=short)
    words = evaluation.in_words()
    assert "Sampled networks reach" in words and "Verdict: " in words and "the mean network" in words
    assert evaluation.results["trained_accuracy"].value > 0.8
    scored = ZooDataModule(project / "zoo", task="our_project:Data", score="our_project:score")
    evaluation = evaluate_on_zoo(load_generator(str(project / "generator")), scored, samples=1, finetuning=short)
    assert evaluation.results["trained_accuracy"].value == evaluation.results["generated_accuracy"].value == 0.125


def verdict(generated, **others):
    rows = [{"method": name, "accuracy": value, "verdict": "fails"} for name, value in others.items()]
    rows.insert(0, {"method": "generated", "accuracy": generated, "verdict": "fails"})
    results = Results("zoo", 0, (Row("noise_at_equal_novelty_accuracy", 0.5),), {})
    return ZooEvaluation(results, {"run": rows}, {}, {}).in_words()


def test_words_say_when_samples_are_at_chance_and_what_to_try():
    words = verdict(0.11, trained=0.95, init=0.1, nearest_condition=0.94, mean_net=0.3, linear=0.2)
    assert "They do not work" in words and "To try: More training" in words
    assert "No better than: the nearest training network by condition, the mean network" in words
    words = verdict(0.94, trained=0.95, init=0.1, nearest_condition=0.9, mean_net=0.3, linear=0.2)
    assert "about as well as trained ones" in words and "No better than" not in words
    assert "lose 0.250 to trained ones" in verdict(0.70, trained=0.95, init=0.1, mean_net=0.3)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, dropout=0.0)
        self.layer, self.head = layer, nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.layer(x).mean(1))


@pytest.mark.parametrize(
    "model, inputs",
    [
        (nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)), torch.zeros(1, 4)),
        (Attention(), torch.zeros(1, 5, 8)),
    ],
)
def test_permuted_copies_are_brought_into_one_order(model, inputs):
    from hypergen.graph import trace

    symmetry = trace(model.eval(), inputs).symmetry()
    own = {name: value.detach() for name, value in model.named_parameters()}
    random = torch.Generator().manual_seed(0)
    copies = [symmetry.apply(own, symmetry.sample(random)) for _ in range(6)]
    stacked = {name: torch.stack([each[name] for each in copies]) for name in own}
    order = CanonicalOrder.of(model, stacked, inputs)
    assert order is not None and order.worthwhile and order.after < 0.1 * order.before
    x = torch.randn(3, *inputs.shape[1:])
    for row in range(6):
        found = torch.func.functional_call(model, {name: value[row] for name, value in order.apply(stacked).items()}, x)
        torch.testing.assert_close(found, model(x), rtol=1e-4, atol=1e-5)
