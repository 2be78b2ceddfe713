import resource
import signal
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import hypergen  # noqa: F401  # Before Lightning, which imports a torchvision that may need its operators declared.

CONF = Path(__file__).parents[1] / "conf"

# Tests run beside processes of their own; threads inside an operation only get in the way.
torch.set_num_threads(1)


@contextmanager
def _full_disk(limit: int = 1000):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture
def full_disk():
    """A context in which no file may grow beyond ``limit`` bytes, which fails in the middle of writing, as a full disk.

    Not the whole test: pytest's own report may go into a file.
    """
    return _full_disk


@pytest.fixture
def configure(tmp_path) -> Callable[..., Any]:
    """Composes what `python train.py OVERRIDES` reads; values from `hydra:` exist in a started program only."""
    from hydra import compose, initialize_config_dir

    def configured(*overrides: str, output: Path = tmp_path) -> Any:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("train", [f"output={output}", "name=test", *overrides])

    return configured


@pytest.fixture
def run(configure) -> Callable[..., Any]:
    """Runs it inside the test's process."""
    from hypergen.cli.train import run as run_config

    def ran(*overrides: str, **where: Path) -> Any:
        return run_config(configure(*overrides, **where)).results

    return ran
