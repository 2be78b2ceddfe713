import csv
import subprocess
import sys

import pytest

from hypergen.errors import CheckpointError
from hypergen.training import fit as fitting
from hypergen.training.loggers import ResumableCSVLogger

HOLD = """
import sys, time
from pathlib import Path
from hypergen.functional.files import FolderLock
lock = FolderLock(Path(sys.argv[1]), "run.lock")
assert lock.acquire() is None
print("held", flush=True)
time.sleep(60)
"""


def test_two_runs_in_one_folder_refuse_and_drafts_are_removed(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(CheckpointError, match=rf"Another run is writing.*process {other.pid}.*output=FOLDER"):
            fitting._take_folder(tmp_path)
    finally:
        other.kill()
        other.wait()
    (tmp_path / ".last.ckpt.123").touch()
    (tmp_path / "generator/.saving-abc").mkdir(parents=True)
    fitting._take_folder(tmp_path)  # the lock went with its process
    fitting._take_folder(tmp_path)
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize("first_step", [None, 2])
def test_metrics_of_before_a_resume_are_kept(tmp_path, first_step):
    for start, first in ((0, None), (2, first_step)):
        logger = ResumableCSVLogger(tmp_path, name="", version="logs")
        logger.first_step = first
        for step in range(start, start + 4):
            logger.log_metrics({"loss": float(start)}, step=step)
            logger.save()
    rows = list(csv.DictReader((tmp_path / "logs/metrics.csv").open()))
    kept = [] if first_step is None else [("0", "0.0"), ("1", "0.0")]
    assert [(row["step"], row["loss"]) for row in rows] == kept + [(str(step), "2.0") for step in range(2, 6)]
