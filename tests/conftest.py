import resource
import signal
from contextlib import contextmanager

import pytest
import torch

import hypergen  # noqa: F401  # Before Lightning, which imports a torchvision that may need its operators declared.

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
