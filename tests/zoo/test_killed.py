"""Whatever kills a writer, what it had written is there, once, and can be read."""

import os
import signal
import subprocess
import sys
import textwrap
import time
import warnings

import pytest
import torch

from hypergen.zoo import Zoo

WRITER = """
    import sys, torch
    from hypergen.zoo import ZooWriter
    torch.set_num_threads(1)
    with ZooWriter(sys.argv[1], shard_rows=4, on_duplicate="skip") as writer:
        print("ready", flush=True)
        for step in range(1, 100_000):
            writer.add({"weight": torch.full((200, 50), float(step))}, run="a", step=step, test={"loss": 1 / step})
            if step % 40 == 0:
                writer.close()
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_writer_leaves_a_readable_zoo(tmp_path):
    folder = tmp_path / "zoo"
    seen = 0
    # At moments that fall into shards, index and in between; each writer goes on where the one before was killed.
    for delay in (0.02, 0.05, 0.09, 0.14, 0.2, 0.27):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER), str(folder)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
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
