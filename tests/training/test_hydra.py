import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import hydra
import pytest
import torch

from hypergen.cli.training.experiments import find_procedure
from hypergen.errors import HypergenError

ROOT = Path(__file__).parents[2]
EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf/experiment").glob("*.yaml"))
TASKS = sorted(path.stem for path in (ROOT / "conf/task").glob("*.yaml") if path.stem != "experiment")
# Which task has a group among its own; groups of experiments alone are listed with one that has them.
HOLDERS = {
    "engine": "experiment=zoo_digits",
    "learner": "experiment=diffusion_losses",
    "metanetwork": "task=metanetwork",
    "pretraining": "task=zoo_generator",
    "zoo": "experiment=hyper_representation",
}
OF_TASKS = {
    "data=zoo": "task=zoo_generator",
    "evaluation=property_prediction": "task=metanetwork",
    "evaluation=target": "task=target",
    "evaluation=zoo": "task=zoo_generator",
    "evaluation=hypernetwork": "task=hypernetwork",
    "training=hypernetwork": "task=hypernetwork",
    "generator=hypernetwork": "task=hypernetwork",
    "training=target": "task=target",
    "training=property_prediction": "task=metanetwork",
    "training=meta_pruning": "experiment=pruning",
    "training=checkpoint_transformer": "experiment=checkpoint_transformer",
    "generator=checkpoint_transformer": "experiment=checkpoint_transformer",
    **{
        f"{group}={name}": "task=zoo_generator"
        for group in ("generator", "training")
        for name in (
            "autoregressive_generator",
            "flow_matching",
            "hyper_representation",
            "latent_diffusion",
            "recurrent_diffusion",
        )
    },
}
SELECTING = ("task", "experiment", "debug", "hparams_search")
CHOICES = sorted(
    f"{path.parent.name}={path.stem}"
    for path in (ROOT / "conf").glob("*/*.yaml")
    if path.parent.name not in SELECTING and (path.parent.name, path.stem) != ("trainer", "default")
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


def start(*arguments: str, command: tuple[str, ...] = (), folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    program = list(command or (sys.executable, str(ROOT / "train.py")))
    return subprocess.run(
        [*program, *arguments], cwd=folder, capture_output=True, text=True, env=environment, timeout=280
    )


def instantiated(config) -> dict:
    """Everything that a run would make before it trains, by the option's name."""
    skipped = {"model", "name", "output", "seed", "ckpt_path", "evaluate", "optimized_metric", "procedure"}
    return {
        key: hydra.utils.instantiate(value, _convert_="all")
        for key, value in config.items()
        if key not in skipped and hasattr(value, "keys")
    }


@pytest.mark.parametrize("debug", ["none", "fast"])
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_instantiates(configure, parquet_options, experiment, debug):
    data = parquet_options if experiment == "ghn_cifar10" else []
    config = configure(f"experiment={experiment}", f"debug={debug}", *data)
    made = instantiated(config)
    if "procedure" in config:
        import inspect

        parameters = inspect.signature(find_procedure(config.procedure)).parameters
        needed = {name for name, each in parameters.items() if each.default is each.empty}
        assert needed <= set(config), needed - set(config)
        own = set(config) - {"task", "procedure", "trainer", "data", "evaluate", "ckpt_path", "optimized_metric"}
        fed = {"aims", "image", "training", "name", "output", "seed", "logger", "callbacks"}
        assert own <= set(parameters) | fed, own - set(parameters)  # An option that nothing reads would fail here.
    if "training" in config and hasattr(made["training"], "keywords"):
        assert config.training.steps == 4 or debug == "none"
        assert made["trainer"].keywords["max_steps"] == config.training.steps
    if experiment == "ghn_cifar10":
        assert made["space"].config["image_size"] == 32 and made["space"].config["channels"] == 3


@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_a_complete_default_list(configure, task, tmp_path):
    folder = [f"data.folder={tmp_path}"] if task in ("zoo_generator", "metanetwork") else []
    made = instantiated(configure(f"task={task}", *folder))
    assert {"data", "training", "trainer", "callbacks", "logger", "evaluation"} <= set(made)


def test_experiments_only_override():
    for path in (ROOT / "conf").glob("**/*.yaml"):
        lines = path.read_text().splitlines()
        assert not [line for line in lines if "override" in line and line.endswith(": null")], path


def test_the_default_space_needs_no_optional_library(configure, monkeypatch):
    for library in ("timm", "torchvision"):
        monkeypatch.setitem(sys.modules, library, None)  # importing it fails
    space = hydra.utils.instantiate(configure("task=graph_hypernetwork").space, _convert_="all")
    families = {space.sample(seed).build() and space.sample(seed).family for seed in range(60)}
    assert {"transformer", "tutorial_cnn", "block_net"} <= families and "library" not in families


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_instantiates(configure, parquet_options, tmp_path, choice):
    group = choice.split("=")[0]
    for name in ("train", "test"):
        (tmp_path / name / "cat").mkdir(parents=True)
    paths = {
        "data=parquet": parquet_options,
        "data=folder": [f"data.path_{one}={tmp_path / one}" for one in ("train", "test")],
    }
    holder = OF_TASKS.get(choice, HOLDERS.get(group, "task=graph_hypernetwork"))
    folder = [f"data.folder={tmp_path}"] if holder in ("task=zoo_generator", "task=metanetwork") else []
    config = configure(holder, choice, *folder, *paths.get(choice, []))
    hydra.utils.instantiate(config[group])


def test_no_config_object_reaches_a_class(configure):
    made = instantiated(configure())
    assert type(made["space"].spaces["families"].config["norms"]) is list
    assert type(made["callbacks"]) is dict


def test_an_experiment_yields_to_the_command_line(configure):
    config = configure("experiment=ghn_digits_release", "generator=ghn2", "training.steps=7", "debug=fast")
    assert (config.generator.encoder, config.training.steps, config.trainer.max_steps) == ("gated_gnn", 7, 7)
    assert config.evaluation.aims == "release"


def test_the_training_follows_the_generator(configure, tmp_path):
    config = configure("task=zoo_generator", f"data.folder={tmp_path}")
    assert "LatentDiffusion" in config.training._target_ and "pretraining" in config
    config = configure("task=zoo_generator", "generator=recurrent_diffusion", f"data.folder={tmp_path}")
    assert "RecurrentDiffusion" in config.training._target_ and "pretraining" not in config


def test_unknown_options_are_named():
    done = start("sead=1")
    assert done.returncode == 1
    assert "sead" in done.stderr and "Traceback" not in done.stderr
    done = start("generator=ghn9")
    assert "ghn9" in done.stderr and "logah" in done.stderr and "Traceback" not in done.stderr


def test_options_of_earlier_versions_say_what_to_write_now():
    for option, new in (
        ("run=target", "task=graph_hypernetwork, zoo_generator"),
        ("learner.training.steps=3", "task=zoo_generator"),
    ):
        done = start(option)
        assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1
        assert new in done.stderr and option.partition("=")[0] in done.stderr


def test_help_has_a_line_about_each_experiment():
    done = start("--help")
    assert done.returncode == 0
    for name in (*EXPERIMENTS, *TASKS):
        line = next(line for line in done.stdout.splitlines() if line.startswith(f"  {name} "))
        assert len(line.split()) > 3, line


def test_wrong_values_are_named_without_a_stack_trace(tmp_path):
    done = start("generator.encoder=transformer", f"hydra.run.dir={tmp_path}")
    assert done.returncode == 1
    assert "'transformer' is not one of" in done.stderr and "Traceback" not in done.stderr
    done = start("+experiment=target", "init=digits-gnh", f"hydra.run.dir={tmp_path}")
    assert done.returncode == 1
    assert "Unknown generator 'digits-gnh'" in done.stderr and "Traceback" not in done.stderr


def test_experiments_say_that_a_wheel_lacks_them(monkeypatch, tmp_path):
    monkeypatch.setattr("hypergen.cli.training.experiments._ROOT", tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(HypergenError, match="not part of an installed package: run it from a clone"):
        find_procedure("experiments.pruning.run.train_pruning")


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


def test_sweep_of_a_target_ends_with_one_table(tmp_path):
    options = ["experiment=target", "init=default", "debug=fast", "trainer=ddp", "seed=0,1"]
    # Without a folder for the sweep: its default one has to do.
    command = (sys.executable, "-m", "hypergen.cli.main", "train")
    done = start("-m", *options, command=command, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (sweep,) = (tmp_path / "outputs/target").glob("*_sweep")
    first, second = (json.loads((sweep / job / "results.json").read_text()) for job in "01")
    assert (first["seed"], second["seed"]) == (0, 1)
    assert first["rows"] != second["rows"]
    with open(sweep / "sweep.csv") as file:
        table = list(csv.DictReader(file))
    assert [row["seed"] for row in table] == ["0", "1"] and {row["status"] for row in table} == {"completed"}
    accuracies = [row["value"] for row in first["rows"] if row["figure"] == "validation_accuracy"]
    assert float(table[0]["validation_accuracy"]) == pytest.approx(accuracies[0])
    assert "2 jobs" in done.stdout and "sweep.csv" in done.stdout


def test_search_by_optuna(tmp_path):
    pytest.importorskip("optuna")
    options = ["experiment=target", "init=default", "debug=fast", "hydra/sweeper=hypergen_optuna"]
    ranges = [
        "hydra.sweeper.n_trials=3",
        "training.learning_rate=tag(log,interval(1e-3,1e-1))",
        "data.batch_size=32,64",
    ]
    done = start("-m", *options, *ranges, f"hydra.sweep.dir={tmp_path}")
    assert done.returncode == 0, done.stdout + done.stderr
    with open(tmp_path / "sweep.csv") as file:
        table = list(csv.DictReader(file))
    assert len({row["training.learning_rate"] for row in table}) == 3
    from omegaconf import OmegaConf

    best = OmegaConf.load(tmp_path / "optimization_results.yaml")
    assert best.best_value == pytest.approx(max(float(row["validation_accuracy"]) for row in table))
