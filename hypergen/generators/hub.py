"""Generators on the Hugging Face Hub, and where a generator lies."""

from __future__ import annotations

import os
import re
from pathlib import Path

from hypergen.errors import CheckpointError
from hypergen.functional.checkpoint_files import first_line
from hypergen.generators.checkpoint import CARD, CONFIG, WEIGHTS

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def locate(path_or_id: str | os.PathLike[str]) -> Path:
    """Find a generator: an existing folder or file, or else a repository of the Hugging Face Hub.

    Args:
        path_or_id: A path, or ``owner/name``.

    Returns:
        A folder or a file on this machine.

    Raises:
        CheckpointError: There is none.
    """
    path = Path(path_or_id).expanduser()
    if path.exists():
        return path
    if isinstance(path_or_id, str) and _HUB_ID.fullmatch(path_or_id):
        return _from_hub(path_or_id)
    raise CheckpointError(
        f"There is no generator at {str(path_or_id)!r}: no such file or folder. Expected a folder that "
        "`save_pretrained` wrote, a .safetensors file, or a Hugging Face Hub id (owner/name)."
    )


def _from_hub(repository: str) -> Path:
    from huggingface_hub import snapshot_download

    patterns = [CONFIG, WEIGHTS, CARD]
    try:
        return Path(snapshot_download(repository, allow_patterns=patterns))
    except Exception as error:  # The Hub's client raises errors of several libraries; any of them means "not now".
        try:
            return Path(snapshot_download(repository, allow_patterns=patterns, local_files_only=True))
        except Exception:
            raise CheckpointError(
                f"There is no folder {repository!r} here, and no such generator came from the Hugging Face Hub "
                f"({type(error).__name__}: {first_line(error)}), nor does this machine hold a copy of it. Check the "
                "name and the connection; private repositories need `huggingface-cli login`."
            ) from error
