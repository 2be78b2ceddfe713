"""Compute the baselines again; interrupted, it resumes.

``python -m hypergen.evaluation.image_classifiers.trained_baselines``
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hypergen.architectures import load_split
from hypergen.evaluation.image_classifiers.baseline_training import compute_baselines
from hypergen.evaluation.image_classifiers.baselines import REPOSITORY_FILE, BaselineProtocol, Baselines, load_baselines
from hypergen.evaluation.image_classifiers.figures import EVALUATED_SPLITS
from hypergen.evaluation.image_data import ImageData
from hypergen.evaluation.machine import current_commit, describe_machine

SAVE_EVERY_SECONDS = 15.0


def main() -> None:
    """Compute what is missing and write the file."""
    parser = argparse.ArgumentParser(description="Train the networks of the evaluated splits from default values.")
    parser.add_argument("--output", type=Path, default=REPOSITORY_FILE, help="the file to write")
    parser.add_argument("--workers", type=int, default=2, help="processes, one thread each")
    parser.add_argument("--architectures", type=int, default=None, help="only the first so many of each split")
    arguments = parser.parse_args()

    from hypergen.data import DigitsDataModule

    data = ImageData.read(DigitsDataModule())
    splits = {split: load_split(split)[: arguments.architectures] for split in EVALUATED_SPLITS}
    output: Path = arguments.output
    partial = output.with_name(f"{output.stem}.partial.json")
    resume = load_baselines(partial) if partial.is_file() else Baselines(data.fingerprint(), BaselineProtocol())
    resume.commit, resume.machine = current_commit(), describe_machine()
    saved_at = time.monotonic()
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("training baselines"), *columns) as progress:
        bar = progress.add_task("")

        def save(baselines: Baselines, done: int, total: int) -> None:
            nonlocal saved_at
            progress.update(bar, completed=done, total=total)
            if time.monotonic() - saved_at > SAVE_EVERY_SECONDS:
                baselines.write(partial)
                saved_at = time.monotonic()

        baselines = compute_baselines(data, splits, workers=arguments.workers, resume=resume, on_progress=save)
    baselines.write(output)
    partial.unlink(missing_ok=True)
    print(f"wrote {output}: {len(baselines.records)} architectures")


if __name__ == "__main__":
    main()
