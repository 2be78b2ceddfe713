"""Whatever kills a writer, what it had written is there, once, and can be read."""

import multiprocessing
import os
import time
import warnings

import pytest
import torch

from hypergen.zoo import Zoo, ZooWriter


def write(folder, ready):
    with ZooWriter(folder, shard_rows=4, on_duplicate="skip") as writer:
        ready.set()
        for step in range(1, 100_000):
            writer.add({"weight": torch.full((200, 50), float(step))}, run="a", step=step, test={"loss": 1 / step})
            if step % 40 == 0:
                writer.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_writer_leaves_a_readable_zoo(tmp_path):
    folder = tmp_path / "zoo"
    context = multiprocessing.get_context("fork")
    seen = 0
    # At moments that fall into shards, index and in between; each writer goes on where the one before was killed.
    for delay in (0.01, 0.03, 0.05, 0.07, 0.1, 0.14, 0.2):
        ready = context.Event()
        process = context.Process(target=write, args=(folder, ready))
        process.start()
        assert ready.wait(60)
        time.sleep(delay)
        process.kill()
        process.join()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            zoo = Zoo(folder).verify()
        steps = sorted(zoo.column("step"))
        assert steps == list(range(1, len(steps) + 1)) and len(steps) >= seen
        assert len(steps) % 4 == 0  # whole shards
        seen = len(steps)
        if seen:
            values = zoo.stack(keys=["weight"])["weight"]
            assert torch.equal(values[:, 0, 0], torch.tensor(zoo.column("step"), dtype=torch.float32))
    assert seen > 0
