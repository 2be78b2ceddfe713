"""Files and folders that others, or a kill, may change at any moment: whole or not there, and locked while written."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from hypergen.errors import CheckpointError

MOST_JSON_BYTES = 256 * 2**20
_PLAIN_NAME = re.compile(r"[^./\\\x00][^/\\\x00]*")


def replace_file(path: Path, write: Callable[[Path], Any], advice: str = "Make room or name another file.") -> None:
    """Let ``write`` make a draft beside ``path``, and put it in its place in one step.

    Args:
        path: The file.
        write: Called with the path of the draft.
        advice: What the error tells the user to do.

    Raises:
        CheckpointError: It could not be written; what was there before still is.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(draft)
        with open(draft, "rb") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)
    except Exception as error:
        # safetensors raises errors of its own kind, which derive from Exception alone.
        if not isinstance(error, OSError) and type(error).__name__ != "SafetensorError":
            raise
        raise CheckpointError(f"{str(path)!r} could not be written: {error}. {advice}") from error
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: It is none, or too large or too deeply nested to be one that hypergen reads.
    """
    data = read_any_json(file)
    if not isinstance(data, dict):
        raise CheckpointError(f"{str(file)!r} holds a {type(data).__name__}; expected a JSON object.")
    return data


def read_any_json(file: Path) -> Any:
    """Read JSON of any kind.

    Raises:
        CheckpointError: It is none, too large, or too deeply nested.
    """
    try:
        size = file.stat().st_size
        if size > MOST_JSON_BYTES:
            raise CheckpointError(f"{str(file)!r} has {size:,} bytes; JSON of at most {MOST_JSON_BYTES:,} is read.")
        return parse_json(file.read_bytes(), repr(str(file)))
    except OSError as error:
        raise CheckpointError(f"{str(file)!r} is not readable JSON: {error}.") from error


def parse_json(text: str | bytes, source: str) -> Any:
    """Parse JSON.

    Args:
        text: JSON, in UTF-8 where it is bytes.
        source: What the error calls it.

    Raises:
        CheckpointError: It is none, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise CheckpointError(f"{source} is JSON that is nested too deeply to be read.") from error
    except ValueError as error:
        raise CheckpointError(f"{source} is not readable JSON: {str(error)[:300]}.") from error


def inside(folder: Path, name: object, source: str) -> Path:
    """The file of this name in a folder, and never one elsewhere.

    Args:
        folder: The folder.
        name: A name that was read from a file.
        source: That file, for the message.

    Raises:
        CheckpointError: It is no plain name of a file.
    """
    if not isinstance(name, str) or not _PLAIN_NAME.fullmatch(name):
        raise CheckpointError(f"{source} names the file {name!r}; expected the name of a file in {str(folder)!r}.")
    return folder / name


class FolderLock:
    """Lets one process at a time write into a folder; the system releases it when its process ends, however it does.

    Args:
        folder: The folder; made if it is missing.
        name: Name of the file that is locked.
    """

    def __init__(self, folder: str | os.PathLike[str], name: str = "lock") -> None:
        self.path = Path(folder) / name
        self._file: IO[str] | None = None
        self._depth = 0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Wait for the folder, and keep it for the block; blocks may be nested.

        Raises:
            CheckpointError: The folder cannot be written.
        """
        if not self._depth:
            self._open()
            assert self._file is not None
            _lock(self._file, wait=True)
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self.release()

    def acquire(self) -> str | None:
        """Take the folder without waiting, until :meth:`release` or the end of the process.

        Returns:
            None if it was free; else what is known of the process that holds it.

        Raises:
            CheckpointError: The folder cannot be written.
        """
        self._open()
        assert self._file is not None
        if not _lock(self._file, wait=False):
            self._file.seek(0)
            holder = self._file.read(200).strip() or "an unknown process"
            self._file.close()
            self._file = None
            return holder
        self._file.seek(0)
        self._file.truncate()
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        self._file.flush()
        return None

    def release(self) -> None:
        """Let others write."""
        if self._file is not None:
            self._file.close()  # which also unlocks it
            self._file = None

    def _open(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "a+", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise CheckpointError(
                f"{str(self.path.parent)!r} cannot be written: {error.strerror or error}. Name another folder."
            ) from error


def _lock(file: IO[str], wait: bool) -> bool:
    """Lock an open file; where the system has no such locks, as some network disks, all go on without."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
