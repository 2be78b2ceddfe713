"""What a figure was measured with: the commit and the machine."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).resolve().parents[1]


@lru_cache(maxsize=1)
def current_commit() -> str:
    """The commit of the checkout that hypergen runs from, ``-dirty`` if its tracked files differ; else "unknown"."""
    top = _git("rev-parse", "--show-toplevel")
    # An installed package may lie inside somebody else's checkout, whose commit says nothing about it.
    if not top or Path(top).resolve() != _PACKAGE.parent:
        return "unknown"
    commit = _git("rev-parse", "HEAD")
    if not commit:
        return "unknown"
    return f"{commit}-dirty" if _git("status", "--porcelain", "--untracked-files=no") else commit


@lru_cache(maxsize=1)
def describe_machine() -> dict[str, Any]:
    """CPU model, usable cores, and the versions of torch and Python."""
    import torch

    machine: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    if torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
    return machine


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # Not Linux.
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine() or "unknown"


def _git(*arguments: str) -> str:
    """The output of a git command in the package's folder; empty if it fails."""
    try:
        done = subprocess.run(["git", "-C", str(_PACKAGE), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
