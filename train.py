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
from hydra.errors import InstantiationException  # noqa: E402
from omegaconf import DictConfig  # noqa: E402

from hypergen.errors import HypergenError  # noqa: E402

INTERRUPTED = 130


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> None:
    """Make what the configuration names, and run it."""
    import numpy as np

    torch.set_num_threads(1)
    random.seed(config.seed)
    np.random.seed(config.seed)
    torch.manual_seed(config.seed)
    try:
        run = hydra.utils.instantiate(config.run, _partial_=True)
        run()
    except HypergenError as error:
        _leave(str(error))
    except InstantiationException as error:
        # The cause says what is wrong with an argument, the message around it where it stands in the configuration.
        if not isinstance(error.__cause__, (HypergenError, ValueError, TypeError, FileNotFoundError)):
            raise
        _leave(f"{error.__cause__}\n(at {str(error).rpartition('full_key: ')[2]} in the configuration)")
    except KeyboardInterrupt as error:
        checkpoint = getattr(error, "checkpoint", None)
        if checkpoint is None:
            _leave("Interrupted.", INTERRUPTED)
        options = [option for option in HydraConfig.get().overrides.task if not option.startswith("ckpt_path=")]
        again = shlex.join(["python", "train.py", *options, f"ckpt_path={checkpoint}"])
        _leave(f"Interrupted, and saved. To go on:\n  {again}", INTERRUPTED)


def _leave(message: str, code: int = 1) -> None:
    print(f"\n{message}", file=sys.stderr, flush=True)
    raise SystemExit(code)


if __name__ == "__main__":
    # Hydra's own pages select experiments by +experiment=NAME; here one is always selected, so it is replaced.
    sys.argv = [
        argument.removeprefix("+") if argument.startswith("+experiment=") else argument for argument in sys.argv
    ]
    main()
