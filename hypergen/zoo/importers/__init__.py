"""Makes zoos of the checkpoints that others have left in folders; each importer knows one kind of folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from hypergen.errors import CheckpointError, UnknownNameError
from hypergen.zoo.importers.found import Found, ImportReport, OnError, add_found

__all__ = ["IMPORTERS", "Found", "ImportReport", "import_zoo"]

# Module → what it imports.
IMPORTERS = {
    "files": "files of tensors, described by their names: --pattern '{run}/epoch_{step:d}.pth'",
    "model_zoos": "trial folders of Ray Tune, as the Model Zoos datasets have them",
    "lightning": ".ckpt files of PyTorch Lightning",
    "hugging_face": "folders of transformers, timm, PEFT and of the Hugging Face Trainer",
}


def import_zoo(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    kind: str,
    *,
    on_error: OnError = "raise",
    **options: Any,
) -> ImportReport:
    """Add the checkpoints in a folder to a zoo; those that it holds already are skipped.

    No file is ever unpickled beyond tensors and plain values. Checkpoints of different layouts may be mixed.

    Args:
        source: The folder to import from; only read.
        folder: Folder of the zoo; made if there is none.
        kind: One of :data:`IMPORTERS`.
        on_error: What to do about a file that cannot be read: ``"raise"``, or ``"skip"`` it; the report names it.
        **options: Keyword arguments of the importer, its ``find`` function's.

    Returns:
        What came of it.

    Raises:
        UnknownNameError: There is no such importer.
        CheckpointError: There is nothing to import, or a file cannot be read; the message names file and key.
    """
    if kind not in IMPORTERS:
        raise UnknownNameError("importer", kind, IMPORTERS)
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error must be 'raise' or 'skip'; got {on_error!r}")
    source = Path(source)
    if not source.is_dir():
        raise CheckpointError(f"There is no folder {str(source)!r} to import from.")
    found: Iterator[Found] = import_module(f"{__name__}.{kind}").find(source, **options)
    return add_found(found, Path(folder), str(source), on_error)
