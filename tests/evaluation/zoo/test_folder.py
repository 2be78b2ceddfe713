import pytest
import torch
from typer.testing import CliRunner

from hypergen.architectures import Architecture
from hypergen.cli.main import app
from hypergen.data import DigitsDataModule, ZooDataModule
from hypergen.errors import HypergenError
from hypergen.evaluation.zoo.finetuning import FinetuningProtocol
from hypergen.evaluation.zoo.folder import evaluate_on_zoo
from hypergen.generators.zoo_generator import ZooGenerator
from hypergen.zoo.build.build import build_zoo
from hypergen.zoo.build.plan import ZooPlan, binary_relabellings


class Copies(ZooGenerator):
    """Gives the training networks of the nearest code."""

    def __init__(self, kinds: tuple = ("code",)) -> None:
        super().__init__()
        self.kinds, self.asked = tuple(kinds), []

    @property
    def condition_kinds(self):
        return self.kinds

    def learn(self, data):
        part, zoo = data.part("train"), data.zoo
        self.parameters_ = part.stack(keys=zoo.layout.keys("generate"))
        self.codes = torch.tensor([each["code"] for each in data.conditions_of(part, ("code",))]).float()
        return self

    def sample_stacked(self, target, conditions, random, example_inputs=None):
        self.asked += conditions
        wanted = torch.tensor([condition["code"] for condition in conditions])
        near = torch.cdist(wanted, self.codes).argmin(1)
        return {name: value[near] for name, value in self.parameters_.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    sizes = {"image_size": 8, "channels": 1, "num_classes": 1, "widths": [6], "norm": "none"}
    plan = ZooPlan(
        [Architecture("mlp", sizes)], 80, steps=60, save_every=60, save_first=False, learning_rate=2e-2,
        tasks=binary_relabellings(10, 40, held_out=8), shared_init=True, data_orders=2,
    )  # fmt: skip
    data = DigitsDataModule()
    splits = {split: data.tensors(split) for split in ("train", "validation", "test")}
    build_zoo(folder, plan, splits, data_name="digits", progress=False)
    return folder


def test_what_a_zoo_holds_out_is_what_is_measured(folder):
    data = ZooDataModule(folder, DigitsDataModule())
    zoo = data.zoo
    generator = Copies().learn(data)
    evaluation = evaluate_on_zoo(generator, data, samples=1, finetuning=FinetuningProtocol((1e-2,), 2))
    assert evaluation.verdict("task") == evaluation.verdict("run") == "memorises"
    held_out = {tuple(zoo.tasks[task]["labels"]) for task in zoo.split("test", by="task").column("task")}
    asked = {tuple(int(bit) for bit in condition["code"]) for condition in generator.asked}
    assert len(held_out) == 8 and held_out <= asked
    assert evaluation.results["trained_accuracy"].value > evaluation.results["generated_accuracy"].value
    # No network of a held-out task or run is among those for training.
    part = data.part("train")
    assert set(part.column("split_task")) == set(part.column("split_run")) == {"train"}


def test_conditions_that_a_zoo_does_not_tell_are_refused(folder):
    with pytest.raises(HypergenError, match="conditioned on text"):
        evaluate_on_zoo(Copies(kinds=("text",)), ZooDataModule(folder, DigitsDataModule()))
    with pytest.raises(HypergenError, match="conditioned on nothing"):
        evaluate_on_zoo(Copies(kinds=()), ZooDataModule(folder, DigitsDataModule()))


def test_the_command_wants_a_zoo_and_a_generator_of_checkpoints(folder, tmp_path):
    for arguments in (["--protocol", "zoo"], ["--zoo", str(folder)], ["--protocol", "zoo", "--zoo", str(folder)]):
        done = CliRunner().invoke(app, ["evaluate", "--out", str(tmp_path / "out"), *arguments])
        assert done.exit_code == 2
        assert "belong together" in done.output or "not trained on a zoo" in done.output
