"""Rules of symmetry on random small networks; thousands by ``python -m benchmarks.symmetry --fuzz 5000``."""

import pytest

from benchmarks.symmetry import verify_random

_CHUNK = 50


@pytest.mark.parametrize("first", range(0, 300, _CHUNK))
def test_elements_leave_random_networks_unchanged(first):
    networks = [verify_random(seed) for seed in range(first, first + _CHUNK)]
    assert [network for network in networks if network.failure] == []
    # What permutes nothing is never wrong.
    assert sum(network.groups > 0 for network in networks) > _CHUNK // 2
