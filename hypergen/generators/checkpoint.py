"""How a generator lies on disk, and how it is written and read.

A folder holds ``config.json``, ``model.safetensors`` and ``README.md``. The weights' own metadata repeats the
configuration, so the one file is a whole generator, and replacing it is the one step at which a save takes effect.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hypergen._version import __version__
from hypergen.errors import CheckpointError
from hypergen.functional.checkpoint_files import check_start, first_line
from hypergen.functional.files import parse_json, read_any_json, replace_file

FORMAT_VERSION = 1
WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"

_METADATA_KEY = "hypergen"
_PICKLE_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")
# A zip archive, which is what torch.save writes, and a bare pickle of protocol 2 to 5.
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@dataclass(frozen=True)
class GeneratorCheckpoint:
    """A generator as it lies on disk.

    Attributes:
        class_name: The generator's class, a name of the registry.
        arguments: The keyword arguments of its constructor.
        tensors: Its state dict; empty where only the configuration was read.
        results: The numbers that it was saved with, in the form of ``results.json``; empty if there are none.
        provenance: Versions and commit that it was saved with.
        source: Where it was read from, for error messages.
    """

    class_name: str
    arguments: Mapping[str, Any]
    tensors: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    results: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""

    def to_json(self) -> dict[str, Any]:
        """What ``config.json`` holds."""
        return {
            "class": self.class_name,
            "arguments": dict(self.arguments),
            "format_version": FORMAT_VERSION,
            "hypergen_version": self.provenance.get("hypergen"),
            "provenance": dict(self.provenance),
            "results": dict(self.results),
        }


def provenance() -> dict[str, Any]:
    """Name the versions, and the commit of a source checkout, that a checkpoint is written with."""
    return {"hypergen": __version__, "torch": torch.__version__, "commit": _commit()}


def _commit() -> str | None:
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def write_checkpoint(folder: str | os.PathLike[str], checkpoint: GeneratorCheckpoint, card: str) -> Path:
    """Write a generator into ``folder``, all or nothing.

    Everything is written beside the old files first. A full disk, an error or a kill at any moment leaves a complete
    generator in the folder, the old one or the new one. Other files in the folder stay as they are.

    Args:
        folder: Where to write; made if it is missing.
        checkpoint: What to write.
        card: The text of the model card.

    Returns:
        The folder.

    Raises:
        CheckpointError: It could not be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    folder = Path(folder)
    config = checkpoint.to_json()
    made = not folder.exists()
    # Inside the folder, because a sibling may lie on another file system, and cannot be moved in one step from there.
    drafts = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        drafts = Path(tempfile.mkdtemp(prefix=".saving-", dir=folder))
        save_file(
            _independent(checkpoint.tensors), drafts / WEIGHTS, {"format": "pt", _METADATA_KEY: json.dumps(config)}
        )
        (drafts / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        (drafts / CARD).write_text(card, encoding="utf-8")
        # safetensors writes files that only their owner may read, which a shared folder or an installed package is not.
        (drafts / WEIGHTS).chmod((drafts / CONFIG).stat().st_mode)
        for draft in drafts.iterdir():
            _flush_to_disk(draft)
        # The weights carry their own configuration: without config.json beside them the folder is whole, with a stale
        # one it is not.
        (folder / CONFIG).unlink(missing_ok=True)
        for name in (WEIGHTS, CONFIG, CARD):
            os.replace(drafts / name, folder / name)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"The generator could not be saved in {str(folder)!r}: {error}. What was there before is still usable; "
            "make room or name another folder, and save again."
        ) from error
    finally:
        if drafts is not None:
            shutil.rmtree(drafts, ignore_errors=True)
        if made and folder.exists() and not any(folder.iterdir()):
            folder.rmdir()
    return folder


def save_tensors(file: str | os.PathLike[str], tensors: Mapping[str, Tensor]) -> Path:
    """Write tensors into one safetensors file, in one step: a file that was there before is replaced or stays whole.

    Raises:
        CheckpointError: It could not be written.
    """
    from safetensors.torch import save_file

    file = Path(file)

    def write(draft: Path) -> None:
        # safetensors makes files for their owner alone.
        draft.touch()
        mode = draft.stat().st_mode
        save_file(_independent(tensors), draft, {"format": "pt"})
        draft.chmod(mode)

    replace_file(file, write)
    return file


def _independent(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors on the CPU that share no storage, which is what safetensors takes."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        storage = value.untyped_storage().data_ptr()
        result[name] = value.clone() if storage in seen else value
        seen.add(storage)
    return result


def _flush_to_disk(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def read_config(path: Path) -> GeneratorCheckpoint:
    """Read a generator's configuration and numbers, without its tensors.

    Args:
        path: A folder or a file.

    Raises:
        CheckpointError: See :func:`read_checkpoint`.
    """
    return _parsed(_read(path, with_tensors=False)[0], str(path), {})


def read_checkpoint(path: Path) -> GeneratorCheckpoint:
    """Read a generator from a folder or a single safetensors file; no code in it is ever run.

    Args:
        path: A folder or a file.

    Returns:
        Its class name, arguments and tensors.

    Raises:
        CheckpointError: A file is missing, truncated, a pickle, not a generator, or of another format version.
    """
    config, tensors = _read(path, with_tensors=True)
    return _parsed(config, str(path), tensors)


def _read(path: Path, with_tensors: bool) -> tuple[Any, dict[str, Tensor]]:
    weights = path / WEIGHTS if path.is_dir() else path
    if not weights.is_file():
        pickles = [file.name for file in path.iterdir() if file.suffix in _PICKLE_SUFFIXES] if path.is_dir() else []
        if pickles:
            raise _pickle_error(path / pickles[0])
        raise CheckpointError(
            f"{str(path)!r} holds no {WEIGHTS}. Expected a folder that `save_pretrained` wrote, or a .safetensors file."
        )
    config, tensors = _read_weights(weights, with_tensors)
    beside = path / CONFIG
    if not (path.is_dir() and beside.exists()):
        if config is None:
            raise CheckpointError(
                f"{str(weights)!r} holds tensors but no generator configuration. Expected a file that "
                f"`save_pretrained` wrote, or its {CONFIG} in the same folder (then give the folder)."
            )
        return config, tensors
    try:
        text = read_any_json(beside)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error} Delete it to go by the copy inside {WEIGHTS}, or save the generator again."
        ) from error
    if config is not None and isinstance(text, dict) and text.get("format_version") == FORMAT_VERSION:
        if any(text.get(key) != config.get(key) for key in ("class", "arguments")):
            raise CheckpointError(
                f"{str(beside)!r} does not belong to the {WEIGHTS} beside it: class or arguments differ. Delete "
                f"{CONFIG} to go by the copy inside the weights, or save the generator again."
            )
    return text, tensors


def _read_weights(file: Path, with_tensors: bool) -> tuple[Any, dict[str, Tensor]]:
    """The configuration in the metadata, None if there is none, and the tensors."""
    from safetensors import SafetensorError, safe_open

    check_start(file)
    with open(file, "rb") as stream:
        start = stream.read(64)
    if start.startswith(_PICKLE_STARTS) or (file.suffix in _PICKLE_SUFFIXES):
        raise _pickle_error(file)
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()} if with_tensors else {}  # noqa: SIM118
        source = f"the configuration in {str(file)!r}"
        return (parse_json(metadata[_METADATA_KEY], source) if _METADATA_KEY in metadata else None), tensors
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{str(file)!r} is truncated or not a safetensors file ({first_line(error)}; {file.stat().st_size:,} "
            "bytes). Copy, download or save it again."
        ) from error


def _pickle_error(file: Path) -> CheckpointError:
    return CheckpointError(
        f"{str(file)!r} is a pickle, which can run any code when it is loaded, so it is refused. Generators are read "
        "from safetensors only. If you trust the file, load it with `torch.load(file, weights_only=True)` into the "
        "generator's class and call `save_pretrained`; training is resumed from a .ckpt with `ckpt_path=`."
    )


def _parsed(config: Any, source: str, tensors: dict[str, Tensor]) -> GeneratorCheckpoint:
    if not isinstance(config, dict) or "format_version" not in config:
        raise CheckpointError(
            f"The configuration in {source!r} is not a hypergen generator's: it has no 'format_version'. Save the "
            "generator with `save_pretrained`."
        )
    version = config["format_version"]
    if version != FORMAT_VERSION:
        newer = isinstance(version, int) and version > FORMAT_VERSION
        saved_with = config.get("hypergen_version")
        raise CheckpointError(
            f"{source!r} has checkpoint format {version!r} (saved with hypergen {saved_with}), but this hypergen reads "
            f"format {FORMAT_VERSION}. "
            + ("Upgrade hypergen." if newer else "Load it with that version of hypergen, or train the generator again.")
        )
    if not isinstance(config.get("class"), str) or not isinstance(config.get("arguments"), dict):
        raise CheckpointError(
            f"The configuration in {source!r} lacks 'class' (a name) or 'arguments' (an object). Save the generator "
            "again with `save_pretrained`."
        )
    return GeneratorCheckpoint(
        config["class"],
        config["arguments"],
        tensors,
        config.get("results") or {},
        config.get("provenance") or {},
        source,
    )
