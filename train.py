"""Train a generator, or a network that starts from generated parameters: ``python train.py experiment=NAME``.

Everything else is in conf/; ``python train.py --help`` lists it. ``hypergen train`` is the same.
"""

import os

# Before torch is imported: runs use one process per core, and threads on top of them would get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypergen.cli.train import main  # noqa: E402

if __name__ == "__main__":
    main()
