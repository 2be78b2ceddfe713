"""The errors that hypergen raises on purpose.

Every message names the offending thing, what was expected and what to do about it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# The name on the Python index: `hypergen` itself belongs to another project there.
DISTRIBUTION = "hypergen-weights"


class HypergenError(Exception):
    """Base of every error that hypergen raises on purpose."""


class TraceError(HypergenError):
    """A module could not be turned into a computational graph."""


class ParameterError(HypergenError, ValueError):
    """Parameters do not fit the network that they are meant for."""


class GeneratorError(HypergenError):
    """A generator is missing, damaged, or cannot serve what was asked of it."""


class CheckpointError(HypergenError):
    """A checkpoint is missing, truncated, unsafe to read, or from another version."""


class UnknownNameError(HypergenError, LookupError):
    """A name that no registry knows; the message gives the nearest known ones.

    Args:
        kind: What the name should have been, for example ``"generator"``.
        name: The name that is not known.
        known: Every name that is.
    """

    def __init__(self, kind: str, name: object, known: Iterable[str]) -> None:
        self.kind = kind
        self.name = name
        self.known = tuple(sorted(map(str, known)))
        # Exceptions are rebuilt from `args` when they cross a process boundary, so these are the constructor's own.
        super().__init__(kind, name, self.known)

    @property
    def nearest(self) -> tuple[str, ...]:
        """The known names that look most like the unknown one, best first."""
        by_lower_case = {known.lower(): known for known in self.known}
        matches = difflib.get_close_matches(str(self.name).lower()[:200], by_lower_case, n=3, cutoff=0.5)
        return tuple(by_lower_case[match] for match in matches)

    def __str__(self) -> str:
        """The message: the name, the nearest ones, and else all there are."""
        message = f"Unknown {self.kind} {self.name!r}."
        if self.nearest:
            return f"{message} Did you mean {' or '.join(repr(name) for name in self.nearest)}?"
        if not self.known:
            return f"{message} None is known."
        shown = ", ".join(repr(name) for name in self.known[:20])
        more = f" and {len(self.known) - 20} more" if len(self.known) > 20 else ""
        return f"{message} Known: {shown}{more}."


def missing_extra(what: str, package: str, extra: str) -> HypergenError:
    """The error on a library that is not installed and belongs to an extra.

    Args:
        what: What needs it, as the beginning of a sentence.
        package: Name of the library.
        extra: Name of the extra, as in pyproject.toml.
    """
    return HypergenError(f"{what} needs {package}, which is not installed: {install_command(extra)}")


def install_command(extra: str) -> str:
    """What to type for the libraries of an extra."""
    return f'pip install "{DISTRIBUTION}[{extra}]"'
