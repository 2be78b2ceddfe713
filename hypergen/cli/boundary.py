"""The one boundary for errors of ``train.py`` and the command line: what a user can mend is a message, no traceback.

An error of hypergen's own code that nobody foresaw keeps its traceback, which is what a report of it needs.
"""

from __future__ import annotations

import dis
import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType

from hypergen.errors import HypergenError

FAILED, INTERRUPTED, CLOSED_PIPE = 1, 130, 141
_MOST_CHARACTERS = 4_000
# Exceptions of libraries that speak of the user's configuration, by the name of the class and its package: importing
# the packages to compare classes would take the seconds that `--help` must not take.
_OF_LIBRARIES = {
    ("MisconfigurationException", "lightning_fabric"),
    ("MisconfigurationException", "lightning"),
    ("HydraException", "hydra"),
    ("OmegaConfBaseException", "omegaconf"),
    ("RayError", "ray"),
}
_HINTS = {
    errno.ENOENT: "Check the path, or make the folder before.",
    errno.EACCES: "Name a file or folder that this user may use.",
    errno.EPERM: "Name a file or folder that this user may use.",
    errno.EROFS: "The disk is read-only: name a folder on another one.",
    errno.ENOSPC: "Make room, or name a folder on another disk.",
    errno.EEXIST: "Name another file or folder.",
    errno.ENOTDIR: "A part of the path is a file: name another folder.",
    errno.EISDIR: "It is a folder: name a file.",
    errno.ENAMETOOLONG: "Name a shorter path.",
    errno.EMFILE: "Close other programs' files, or raise the limit by `ulimit -n`.",
}


@contextmanager
def error_boundary(
    *,
    translate: Callable[[str], str] = lambda message: message,
    interrupted: Callable[[BaseException], str] = lambda error: "Interrupted.",
    exit_code: int = FAILED,
) -> Iterator[None]:
    """Turn errors that a user can mend into one message on standard error and an exit code.

    Args:
        translate: Applied to messages, where arguments have other names than in the API.
        interrupted: The message after Ctrl-C or SIGTERM.
        exit_code: Exit code after such an error.

    Raises:
        SystemExit: In place of the error.
    """
    make_output_robust()
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output, such as `head`, has enough of it; the interpreter must not try to flush once more.
        _silence(sys.stdout)
        raise SystemExit(CLOSED_PIPE) from None
    except KeyboardInterrupt as error:
        print_error(interrupted(error))
        raise SystemExit(INTERRUPTED) from None
    except Exception as error:
        message = user_message(error)
        if message is None:
            raise
        print_error(translate(message))
        raise SystemExit(exit_code) from None


def user_message(error: BaseException) -> str | None:
    """What to tell the user about an error, None where it is a fault of the program."""
    if isinstance(error, HypergenError):
        return _text(error)
    if _is(error, "InstantiationException", "hydra"):
        return _of_instantiation(error)
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
        names = " → ".join(repr(str(name)) for name in (error.filename, error.filename2) if name is not None)
        reason = error.strerror or os.strerror(error.errno)
        return f"{names or 'A file'} cannot be used: {reason}. {_HINTS.get(error.errno, '')}".rstrip()
    if isinstance(error, MemoryError) or _is_out_of_memory(error):
        return (
            f"There is not enough memory: {_first_line(error)}. Choose a smaller network or batch, or another device."
        )
    if any(_is(error, name, package) for name, package in _OF_LIBRARIES):
        # Hydra's own errors on overrides leave the reason to their cause.
        cause = error.__cause__
        return _text(error) if cause is None else f"{_text(error)}\n{_first_line(cause)}"
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("hypergen"):
        return f"The package {error.name!r} is not installed, and this needs it. Install it, or choose another option."
    if isinstance(error, (ValueError, TypeError, LookupError, RuntimeError, OSError)) and _raised_on_purpose(error):
        return _text(error)
    return None


def print_error(message: str) -> None:
    """Print a message on standard error, whatever its encoding and state."""
    if len(message) > _MOST_CHARACTERS:
        message = f"{message[:_MOST_CHARACTERS]} … ({len(message):,} characters)"
    # Control characters would let a file's name or contents steer the terminal.
    message = "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in message)
    red, end = ("\x1b[31m", "\x1b[0m") if _is_terminal() else ("", "")
    with suppress(OSError, ValueError):
        print(f"{red}{message}{end}", file=sys.stderr, flush=True)


def make_output_robust() -> None:
    """Let terminals and pipes that cannot show a character show a question mark instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not (stream.encoding or "").lower().startswith("utf"):
            stream.reconfigure(errors="replace")


def _of_instantiation(error: BaseException) -> str | None:
    """Hydra's error on making an object: the cause says what is wrong, the text around it where that is configured."""
    cause = error.__cause__
    place = _text(error).rpartition("full_key: ")[2].strip()
    if cause is None:
        message: str | None = _text(error)
        return message
    message = user_message(cause)
    if message is None and isinstance(cause, (TypeError, ValueError, AttributeError, ImportError, LookupError)):
        message = f"{type(cause).__name__}: {_text(cause)}"
    where = f"\n(at {place} in the configuration)" if place and "\n" not in place else ""
    return None if message is None else message + where


def _raised_on_purpose(error: BaseException) -> bool:
    """Whether a ``raise`` of hypergen or its configuration's libraries made the error, not an operation that failed."""
    last: TracebackType | None = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    # What Hydra and OmegaConf raise is about the user's options.
    ours = ("hypergen.", "hydra.", "omegaconf.")
    if last is None or not str(last.tb_frame.f_globals.get("__name__", "")).startswith(ours):
        return False
    code = last.tb_frame.f_code.co_code
    return last.tb_lasti < len(code) and dis.opname[code[last.tb_lasti]] == "RAISE_VARARGS"


def _is(error: BaseException, name: str, package: str) -> bool:
    return any(kind.__name__ == name and kind.__module__.split(".")[0] == package for kind in type(error).__mro__)


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and (
        type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in _text(error)
    )


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # A message that cannot be made must not hide the error that it is about.
        return f"{type(error).__name__} (its message cannot be shown)"


def _first_line(error: BaseException) -> str:
    return (_text(error).strip().splitlines() or ["no more is known"])[0][:300].rstrip(".")


def _is_terminal() -> bool:
    with suppress(Exception):
        return sys.stderr.isatty() and "NO_COLOR" not in os.environ
    return False


def _silence(stream: object) -> None:
    with suppress(Exception):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())  # type: ignore[attr-defined]
        os.close(nothing)
