import json

import pytest
import torch

from hypergen.architectures import load_split
from hypergen.errors import HypergenError, UnknownNameError
from hypergen.training.target import TargetTraining, build_target

OPTIONS = ("experiment=target", "init=default", "target=test:3", "training.steps=60", "trainer.val_check_interval=20")


def test_a_target_by_split_or_by_name():
    architecture = load_split("test")[3]
    with torch.device("meta"):
        assert str(build_target("test:3")) == str(architecture.build())
    assert isinstance(build_target("torch.nn:Identity"), torch.nn.Identity)
    for name in ("test:100", "test:-1", "test:", "test"):
        with pytest.raises(HypergenError, match="test:0 to test:99"):
            build_target(name)
    with pytest.raises(UnknownNameError):
        build_target("timm:resnet5")


def test_training_from_the_default(run, tmp_path):
    results = run(*OPTIONS)
    figures = {row.figure: row.value for row in results.rows}
    assert figures["accuracy_before_training"] < 0.3 < 0.8 < figures["test_accuracy"]
    assert figures["share_of_parameters_predicted"] == 0 and figures["steps"] == 60
    written = json.loads((tmp_path / "results.json").read_text())
    assert [step for step, *_ in written["details"]["curve"]] == [0, 20, 40, 60]
    assert (tmp_path / "results.md").exists() and (tmp_path / "accuracy.png").exists()


def test_training_from_a_generator_and_in_two_processes(run, configure, tmp_path):
    import hydra

    generator = hydra.utils.instantiate(configure().generator)
    generator.save_pretrained(tmp_path / "generator")
    options = ("experiment=target", "debug=fast", f"init={tmp_path / 'generator'}")
    one = run(*options, output=tmp_path / "one")
    two = run(*options, "trainer=ddp", "data.batch_size=32", output=tmp_path / "two")
    assert one["share_of_parameters_predicted"].value == 1
    assert [point[0] for point in two.details["curve"]] == [0, 2, 4]
    assert one["accuracy_before_training"].value == pytest.approx(two["accuracy_before_training"].value, abs=0.05)


def test_a_resumed_run_keeps_its_curve(run, tmp_path):
    run(*OPTIONS, "training.steps=40")
    results = run(*OPTIONS, f"ckpt_path={tmp_path}/last.ckpt", output=tmp_path / "more")
    assert [point[0] for point in results.details["curve"]] == [0, 20, 40, 60]


def test_steps_to_the_threshold():
    module = TargetTraining(torch.nn.Linear(1, 1), steps=1, threshold=0.9)
    assert module.steps_to_threshold is None
    module.curve = [(0, 0.95, 0.2), (7, 0.1, 0.9), (9, 0.1, 0.95)]
    assert module.steps_to_threshold == 7


def test_vectors_do_not_decay():
    module = TargetTraining(torch.nn.Linear(3, 2), steps=1, weight_decay=0.5)
    groups = module.configure_optimizers()["optimizer"].param_groups
    assert [(group["weight_decay"], [p.dim() for p in group["params"]]) for group in groups] == [(0.5, [2]), (0.0, [1])]


def test_targets_that_do_not_fit_the_images(run):
    with pytest.raises(HypergenError, match=r"does not take these images, \[2, 1, 8, 8\]"):
        run(*OPTIONS, "target=torchvision:resnet18")
    with pytest.raises(HypergenError, match="expected logits"):
        run(*OPTIONS, "target=torch.nn:Identity")
