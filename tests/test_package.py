import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hypergen.errors import HypergenError, ParameterError, UnknownNameError

ROOT = Path(__file__).parents[1]
HEAVY = {
    "diffusers",
    "hydra",
    "matplotlib",
    "pytorch_lightning",
    "sklearn",
    "timm",
    "torch_geometric",
    "torchmetrics",
    "torchvision",
    "transformers",
    "wandb",
}


def run_python(code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_loads_no_heavy_library():
    loaded = run_python("import hypergen, sys; print(*{name.split('.')[0] for name in sys.modules})").split()
    assert HEAVY.isdisjoint(loaded)


def test_import_loads_no_room():
    loaded = run_python("import hypergen, sys; print(*sys.modules)").split()
    rooms = {name for name in loaded if name.startswith("hypergen.")}
    assert rooms == {"hypergen._lazy", "hypergen._moved", "hypergen._torchvision", "hypergen._version"}


def test_unknown_attribute():
    import hypergen

    with pytest.raises(AttributeError, match="no_such_name"):
        hypergen.no_such_name  # noqa: B018
    assert "predict_params" in dir(hypergen)


def test_every_public_name_loads():
    """In a process of its own, package by package: a name may not depend on what was imported before it."""
    run_python(
        """
import importlib, pkgutil, hypergen
for package in pkgutil.walk_packages(hypergen.__path__, "hypergen."):
    if package.ispkg:
        module = importlib.import_module(package.name)
        for name in getattr(module, "__all__", ()):
            assert getattr(module, name) is not None, (package.name, name)
for name in hypergen.__all__:
    getattr(hypergen, name)
"""
    )


def test_torchvision_imports_after_hypergen():
    pytest.importorskip("torchmetrics")
    code = """
import importlib.util, hypergen
from hypergen._torchvision import declare_operators
assert declare_operators() == declare_operators()
if importlib.util.find_spec("torchvision"):
    import torchvision
    torchvision.models.resnet18()
    assert declare_operators() in (True, False)
import torchmetrics, pytorch_lightning
"""
    run_python(code)


# Imports the module without the package's own call of `declare_operators`, which would find the real torchvision.
WITHOUT_PACKAGE_INIT = f"""
import sys, types
package = types.ModuleType("hypergen")
package.__path__ = [{str(ROOT / "hypergen")!r}]
sys.modules["hypergen"] = package
import torch
from hypergen._torchvision import declare_operators
def declared():
    return [hasattr(torch.ops.torchvision, name) for name in ("nms", "qnms")]
"""


@pytest.mark.parametrize("loads", [True, False])
def test_operators_are_declared_only_where_the_extension_does_not_load(tmp_path, loads):
    extensions = [file for file in (Path(torch.__file__).parent / "lib").glob("libshm*.so") if file.is_file()]
    if not extensions:
        pytest.skip("no shared library at hand to stand in for torchvision's")
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").touch()
    if loads:  # Any library that loads will do: whether it does is what decides.
        shutil.copy(extensions[0], package / "_C.so")
    else:
        (package / "_C.so").write_text("not a library")
    code = (
        WITHOUT_PACKAGE_INIT
        + f"""
sys.path.insert(0, {str(tmp_path)!r})
assert declare_operators() is {not loads}
assert declare_operators() is {not loads}
assert declared() == [{not loads}] * 2, declared()
"""
    )
    run_python(code)


def test_without_torchvision_nothing_is_declared():
    run_python(
        WITHOUT_PACKAGE_INIT
        + """
import importlib.util
importlib.util.find_spec = lambda name: None
assert declare_operators() is False
assert declared() == [False, False]
"""
    )


def test_data_flows_one_way():
    pytest.importorskip("importlinter")
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_readme_commands_are_single_lines_after_their_markers():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    for marker, end in (("quickstart-command", "python train.py"), ("test-command", "pytest")):
        at = lines.index(f"<!-- {marker} -->")
        assert lines[at + 1].startswith("```")
        assert lines[at + 2].startswith("python3 -m venv ") and lines[at + 2].endswith(end)
        assert lines[at + 3] == "```"


def test_unknown_name_gives_the_nearest():
    error = UnknownNameError("generator", "digit-ghn", ["digits-ghn", "cifar10-ghn", "noise"])
    assert "'digit-ghn'" in str(error) and "'digits-ghn'" in str(error)
    assert error.nearest[0] == "digits-ghn"
    assert isinstance(error, HypergenError) and isinstance(error, LookupError)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_unknown_name_without_a_near_one_lists_all():
    assert "Known: 'a', 'b'." in str(UnknownNameError("space", "zzzzzz", ["b", "a"]))
    assert "None is known" in str(UnknownNameError("space", "zzzzzz", []))


def test_parameter_error_is_a_value_error():
    assert issubclass(ParameterError, ValueError)
