import io
import json
import os
import subprocess
import sys
from pathlib import Path

import hydra
import pytest
import torch

ROOT = Path(__file__).parents[2]
EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf/experiment").glob("*.yaml"))
CHOICES = sorted(
    f"{path.parent.name}={path.stem}"
    for path in (ROOT / "conf").glob("*/*.yaml")
    if path.parent.name
    in ("callbacks", "data", "evaluation", "generator", "logger", "meta_batches", "space", "trainer")
)


@pytest.fixture(scope="session")
def parquet_options(tmp_path_factory) -> list[str]:
    import pyarrow
    import pyarrow.parquet
    from PIL import Image

    content = io.BytesIO()
    Image.new("RGB", (32, 32), (10, 200, 30)).save(content, "PNG")
    folder = tmp_path_factory.mktemp("parquet")
    for name in ("train", "test"):
        rows = {"img": [{"bytes": content.getvalue()}] * 40, "label": [index % 10 for index in range(40)]}
        pyarrow.parquet.write_table(pyarrow.table(rows), folder / f"{name}.parquet")
    return [f"data.path_{name}={folder / name}.parquet" for name in ("train", "test")]


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "train.py"), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=280)


@pytest.mark.parametrize("debug", ["none", "fast"])
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_instantiates(configure, parquet_options, experiment, debug):
    data = parquet_options if experiment == "ghn_cifar10" else []
    config = configure(f"experiment={experiment}", f"debug={debug}", *data)
    torch.manual_seed(0)
    run = hydra.utils.instantiate(config.run, _partial_=True)
    # Under their annotations' names: a misspelt or forgotten argument would fail here.
    assert callable(run)
    if "training" in run.keywords:
        assert config.training.steps == 4 or debug == "none"
        assert run.keywords["trainer"].keywords["max_steps"] == config.training.steps
    if experiment == "ghn_cifar10":
        assert run.keywords["space"].config["image_size"] == 32 and run.keywords["space"].config["channels"] == 3


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_instantiates(configure, parquet_options, tmp_path, choice):
    group = choice.split("=")[0]
    for name in ("train", "test"):
        (tmp_path / name / "cat").mkdir(parents=True)
    paths = {
        "data=parquet": parquet_options,
        "data=folder": [f"data.path_{one}={tmp_path / one}" for one in ("train", "test")],
    }
    config = configure(choice, *paths.get(choice, []))
    hydra.utils.instantiate(config[group])


def test_no_config_object_reaches_a_class(configure):
    run = hydra.utils.instantiate(configure().run, _partial_=True)
    assert type(run.keywords["space"].config["norms"]) is list
    assert type(run.keywords["callbacks"]) is dict


def test_an_experiment_yields_to_the_command_line(configure):
    config = configure("experiment=ghn_digits_release", "generator=ghn2", "training.steps=7", "debug=fast")
    assert (config.generator.encoder, config.training.steps, config.trainer.max_steps) == ("gated_gnn", 7, 7)
    assert config.evaluation.aims == "release"


def test_unknown_options_are_named():
    done = start("sead=1")
    assert done.returncode == 1
    assert "sead" in done.stderr and "Traceback" not in done.stderr
    done = start("generator=ghn9")
    assert "ghn9" in done.stderr and "logah" in done.stderr and "Traceback" not in done.stderr


def test_wrong_values_are_named_without_a_stack_trace(tmp_path):
    done = start("generator.encoder=transformer", f"hydra.run.dir={tmp_path}")
    assert done.returncode == 1
    assert "'transformer' is not one of" in done.stderr and "generator in the configuration" in done.stderr
    assert "Traceback" not in done.stderr
    done = start("+experiment=target", "init=digits-gnh", f"hydra.run.dir={tmp_path}")
    assert done.returncode == 1
    assert "Unknown generator 'digits-gnh'" in done.stderr and "Traceback" not in done.stderr


def test_fast_run_end_to_end(tmp_path):
    done = start("debug=fast", "trainer=cpu", f"hydra.run.dir={tmp_path}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "predicted_accuracy_mean" in done.stdout and str(tmp_path) in done.stdout.replace("\n", "")
    results = json.loads((tmp_path / "results.json").read_text())
    figures = {row["figure"]: row["value"] for row in results["rows"]}
    assert results["name"] == "ghn_digits" and results["seed"] == 0
    assert figures["share_of_parameters_predicted"] == 1
    assert (tmp_path / "results.md").exists() and list(tmp_path.glob("*.png"))
    assert (tmp_path / "logs/metrics.csv").exists() and (tmp_path / ".hydra/overrides.yaml").exists()

    from hypergen import load_generator
    from hypergen.architectures import load_split

    generator = load_generator(tmp_path / "generator")
    with torch.device("meta"):
        network = load_split("test")[0].build()
    parameters = generator.generate(network, example_inputs=torch.empty(1, 1, 8, 8, device="meta"))
    assert set(parameters) == set(dict(network.named_parameters()))
    card = (tmp_path / "generator/README.md").read_text()
    assert "predicted_accuracy_mean" in card


def test_sweep(tmp_path):
    options = ["experiment=target", "init=default", "debug=fast", "trainer=ddp", "seed=0,1"]
    done = start("-m", *options, f"hydra.sweep.dir={tmp_path}")
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = (json.loads((tmp_path / job / "results.json").read_text()) for job in "01")
    assert (first["seed"], second["seed"]) == (0, 1)
    assert first["rows"] != second["rows"]
