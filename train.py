"""Train a generator, or a network that starts from generated parameters: ``python train.py experiment=NAME``.

Everything else is in conf/; ``python train.py --help`` lists it.
"""

from __future__ import annotations

import os
import random
import shlex
import sys

# Before torch is imported: runs use one process per core, and threads on top of them would get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hydra  # noqa: E402
import torch  # noqa: E402
from hydra.core.hydra_config import HydraConfig  # noqa: E402
from omegaconf import DictConfig  # noqa: E402

from hypergen.cli.boundary import error_boundary  # noqa: E402
from hypergen.cli.check_config import check_config  # noqa: E402


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> None:
    """Make what the configuration names, and run it."""
    import numpy as np

    torch.set_num_threads(1)
    random.seed(config.seed)
    np.random.seed(config.seed)
    torch.manual_seed(config.seed)
    with error_boundary(interrupted=_how_to_go_on):
        check_config(config)
        hydra.utils.instantiate(config.run, _partial_=True)()


def _how_to_go_on(error: BaseException) -> str:
    checkpoint = getattr(error, "checkpoint", None)
    if checkpoint is None:
        return "Interrupted."
    options = [option for option in HydraConfig.get().overrides.task if not option.startswith("ckpt_path=")]
    again = shlex.join(["python", "train.py", *options, f"ckpt_path={checkpoint}"])
    return f"Interrupted, and saved. To go on:\n  {again}"


if __name__ == "__main__":
    # Hydra's own pages select experiments by +experiment=NAME; here one is always selected, so it is replaced.
    sys.argv = [
        argument.removeprefix("+") if argument.startswith("+experiment=") else argument for argument in sys.argv
    ]
    # Hydra would print the traceback of what is wrong with options and folders; with this it passes errors on.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    with error_boundary():
        main()
