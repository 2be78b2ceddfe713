import importlib
import importlib.util
from pathlib import Path

import pytest

import hypergen
from hypergen._moved import new_name

TABLE = (Path(hypergen.__file__).parent / "moved_modules.txt").read_text().splitlines()
MOVED = [line.split()[0] for line in TABLE if line and not line.startswith("#")]


@pytest.mark.parametrize(
    "old, new",
    [
        ("hypergen.parameters", "hypergen.functional"),
        ("hypergen.parameters.pruning", "hypergen.symmetry.prune.pruner"),
        ("hypergen.graph.symmetry", "hypergen.symmetry"),
        ("hypergen.graph.symmetry.groups", "hypergen.symmetry"),
        ("hypergen.training.nowcaster", "hypergen.metanets.nowcasting.optimizer"),
        ("hypergen.zoo.siren", "experiments.siren_digits.zoo"),
    ],
)
def test_an_import_of_an_earlier_version_says_the_new_name(old, new):
    with pytest.raises(ModuleNotFoundError) as caught:
        importlib.import_module(old)
    message = str(caught.value)
    assert message.startswith(f"{caught.value.name} has moved: import {new_name(caught.value.name)} instead.")
    # What of a package has gone elsewhere is said, too: it is imported before its modules.
    assert ("pruning is hypergen.symmetry.prune.pruner" in message) == old.startswith("hypergen.parameters")
    assert new_name(old) == new


@pytest.mark.parametrize("old", MOVED)
def test_new_names_exist_and_old_ones_do_not(old):
    new = new_name(f"hypergen.{old}")
    assert importlib.util.find_spec(new) is not None
    with pytest.raises(ModuleNotFoundError, match="has moved"):
        importlib.util.find_spec(f"hypergen.{old}")


def test_other_missing_modules_are_just_missing():
    with pytest.raises(ModuleNotFoundError, match="No module named"):
        importlib.import_module("hypergen.nothing_of_this_name")
