"""What the README shows works as it stands."""

import re
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from typer.testing import CliRunner

from hypergen.cli.main import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def test_the_python_examples_run(capsys):
    names: dict = {}
    for example in _blocks("python"):
        exec(example, names)
    assert set(names["params"]) == set(dict(names["model"].named_parameters()))
    assert all(torch.equal(names["params"][name], p) for name, p in names["model"].named_parameters())
    assert names["report"].share_of_parameters_predicted == 1.0
    assert "100.00%" in capsys.readouterr().out


def test_metanetworks_run_as_their_page_says():
    page = (ROOT / "docs" / "metanets.md").read_text()
    first = re.search(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    names: dict = {}
    exec(first[1], names)
    assert names["reader"](names["graph"], names["tensors"]).shape == (1, 2)


def _lines(start: str) -> list[str]:
    lines = "\n".join(_blocks("bash")).splitlines()
    return [line.split("#")[0].rstrip(" …") for line in lines if line.startswith(start)]


@pytest.mark.parametrize("line", _lines("python train.py"))
def test_every_train_command_composes(line):
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        for option in (overrides := [word for word in line.split()[2:] if word != "-m"]):
            values = option.partition("=")[2].split(",")
            others = [other for other in overrides if other != option]
            for value in values:
                compose("train", [*others, f"{option.partition('=')[0]}={value}"])


def test_the_graph_command_draws(tmp_path):
    (line,) = _lines("hypergen graph")
    words = line.split()[1:]
    words[-1] = str(tmp_path / words[-1])
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert Path(words[-1]).stat().st_size > 1000


def test_the_generators_are_listed():
    result = CliRunner().invoke(app, ["generators"])
    assert result.exit_code == 0 and "digits-ghn" in result.output
