from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CONF = Path(__file__).parents[2] / "conf"


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
    import hydra
    import torch

    def ran(*overrides: str, **where: Path) -> Any:
        config = configure(*overrides, **where)
        torch.manual_seed(config.seed)
        return hydra.utils.instantiate(config.run, _partial_=True)()

    return ran
