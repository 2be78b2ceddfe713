import os

import pytest

from experiments.shared.processes import cpu_seconds, executor, seconds_since_start


def fail() -> None:
    raise ValueError("on purpose")


@pytest.mark.parametrize("workers", [0, 1])
def test_results_and_errors_come_through_the_future(workers):
    with executor(workers) as pool:
        assert pool.submit(divmod, 7, 2).result() == (3, 1)
        with pytest.raises(ValueError, match="on purpose"):
            pool.submit(fail).result()
        assert (pool.submit(os.getpid).result() == os.getpid()) == (workers == 0)


def test_seconds_grow():
    before = cpu_seconds(), seconds_since_start()
    sum(range(3_000_000))
    assert cpu_seconds() > before[0] > 0 and seconds_since_start() > before[1] > 0
