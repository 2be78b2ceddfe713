"""Makes zoos of the checkpoints that others have left in folders; each importer knows one kind of folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
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
    models: Sequence[str] = (),
    data: Any = None,
    example_inputs: Any = None,
    logs: str | os.PathLike[str] | None = None,
    **options: Any,
) -> ImportReport:
    """Add the checkpoints in a folder to a zoo; those that it holds already are skipped.

    No file is ever unpickled beyond tensors and plain values. Checkpoints of different layouts may be mixed.

    Args:
        source: The folder to import from; only read.
        folder: Folder of the zoo; made if there is none.
        kind: One of :data:`IMPORTERS`.
        on_error: What to do about a file that cannot be read: ``"raise"``, or ``"skip"`` it; the report names it.
        models: Names of the networks that checkpoints are of, as :func:`hypergen.architectures.build_model` takes them;
            layouts then keep architecture, roles and permutation groups. Each checkpoint must fit one of them.
        data: A :class:`~hypergen.data.wrapped.WrappedDataModule` of what they were trained on, or another data module
            in memory: networks are traced with its inputs, and measured on its validation and test samples.
        example_inputs: What the networks are called with, where neither they nor data tell.
        logs: Folder or file of logs, whose curves and hyperparameters are joined by run; see
            :func:`hypergen.zoo.importers.logs.read_logs`.
        **options: Keyword arguments of the importer, its ``find`` function's.

    Returns:
        What came of it.

    Raises:
        UnknownNameError: There is no such importer.
        CheckpointError: There is nothing to import, or a file cannot be read; the message names file and key.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error must be 'raise' or 'skip'; got {on_error!r}")
    found = find_checkpoints(source, kind, **options)
    if data is not None and not models:
        raise CheckpointError("Networks are measured on data only if models= says what they are.")
    networks = measure = logged = None
    if models:
        from hypergen.zoo.importers.networks import KnownNetworks

        networks = KnownNetworks(models, data.tensors("train")[0][:1] if data is not None else example_inputs)
    if data is not None:
        from hypergen.zoo.importers.measured import Measured

        measure = Measured(data)
    if logs is not None:
        from hypergen.zoo.importers.logs import JoinedLogs, read_logs

        found = list(found)
        logged = JoinedLogs(read_logs(Path(logs)), [(each.run, each.step) for each in found])
    return add_found(iter(found), Path(folder), str(source), on_error, networks, measure, logged)


def find_checkpoints(source: str | os.PathLike[str], kind: str, **options: Any) -> Iterable[Found]:
    """The checkpoints that an importer finds in a folder, not yet read.

    Raises:
        CheckpointError: There is no such folder, or the importer finds nothing.
        UnknownNameError: There is no such importer.
    """
    if kind not in IMPORTERS:
        raise UnknownNameError("importer", kind, IMPORTERS)
    source = Path(source)
    if not source.is_dir():
        raise CheckpointError(f"There is no folder {str(source)!r} to import from.")
    found: Iterator[Found] = import_module(f"{__name__}.{kind}").find(source, **options)
    return found
