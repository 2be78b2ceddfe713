"""What ``train.py`` says about its experiments, and about options that have other names now."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hypergen.errors import HypergenError

_ROOT = Path(__file__).resolve().parents[3]
# Options of earlier versions, and what to write instead.
_RENAMED = {
    "run": "task=graph_hypernetwork, zoo_generator, metanetwork or target, or experiment=NAME",
    "learner": "generator= with training= and pretraining= (task=zoo_generator), or learner.KEY= of an experiment",
    "train_architectures": "train=",
    "held_out_architectures": "held_out=",
    "counts": "seeds.KEY=",
    "runs": "budget.KEY=",
}
_OF_ALL_EXPERIMENTS = ("run", "learner")


def help_on_experiments(configuration: Path) -> str:
    """Tasks and experiments with a line about each."""
    lines = ["usage: python train.py [task=TASK] [experiment=NAME] [GROUP=CHOICE …] [KEY=VALUE …]"]
    for group in ("task", "experiment", "hparams_search"):
        lines.append(f"\n{group}=")
        files = sorted((configuration / group).glob("*.yaml"))
        width = max((len(file.stem) for file in files), default=0)
        lines += [f"  {file.stem:<{width}}  {_first_sentence(file)}" for file in files]
    return "\n".join(lines) + "\n"


def _first_sentence(file: Path) -> str:
    comments = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if "@package" not in line:
            comments.append(line.removeprefix("#").strip())
    return textwrap.shorten(" ".join(comments).split(". ")[0].rstrip(".:"), 110, placeholder=" …")


def check_options(options: Sequence[str], configuration: Path) -> None:
    """Refuse options of earlier versions.

    Raises:
        HypergenError: An option has another name now; the message gives it.
    """
    experiment = next((option.partition("=")[2] for option in options if option.startswith("experiment=")), "")
    file = configuration / "experiment" / f"{experiment}.yaml"
    text = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    taken = {line.partition(":")[0] for line in text if line[:1].isalpha()}
    for option in options:
        name = option.lstrip("+~").partition("=")[0].partition(".")[0]
        if option.startswith("-") or name not in _RENAMED or name in taken:
            continue
        whole = option.lstrip("+~").partition("=")[0]
        if name in _OF_ALL_EXPERIMENTS or experiment in ("architecture_ranking", "nowcasting"):
            raise HypergenError(f"The option {whole!r} is of an earlier version: write {_RENAMED[name]} instead.")


def find_procedure(path: str) -> Callable[..., Any]:
    """Import the function of an experiment.

    Experiments lie beside the package in a checkout, whose root need not be on Python's path, and not in the wheel.

    Raises:
        HypergenError: There is no checkout.
    """
    module, _, name = path.rpartition(".")
    if module.startswith("experiments."):
        if (_ROOT / "experiments" / "__init__.py").is_file() and str(_ROOT) not in sys.path:
            sys.path.insert(0, str(_ROOT))
        if importlib.util.find_spec("experiments") is None:
            raise HypergenError(
                f"The code of this experiment, {module}, is not part of an installed package: run it from a clone of "
                "the repository, by `python train.py`."
            )
    return getattr(importlib.import_module(module), name)
