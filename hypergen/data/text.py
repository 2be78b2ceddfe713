"""Text as characters: windows of tokens, and the tokens that come next."""

from __future__ import annotations

import importlib.util
import string
from importlib.abc import InspectLoader
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hypergen.data.in_memory import SPLITS, InMemoryDataModule
from hypergen.data.task import LANGUAGE_MODELLING

VOCABULARY = "\n" + "".join(sorted(set(string.printable) - set(string.whitespace) | {" "}))
# Modules of the standard library that are Python, in the order in which they are read; sources differ a little from
# one version of Python to the next.
MODULES = tuple(
    """argparse ast asyncio.base_events bdb calendar cmd codeop collections configparser contextlib copy csv
    ctypes.util dataclasses decimal difflib dis doctest enum filecmp fileinput fnmatch fractions ftplib functools getopt
    gettext glob gzip hashlib heapq hmac html.parser http.client http.server imaplib inspect ipaddress json.decoder
    json.encoder locale logging mailbox mimetypes netrc numbers optparse pathlib pdb pickle pickletools platform
    plistlib poplib pprint profile pstats queue random reprlib sched selectors shelve shlex shutil signal smtplib socket
    socketserver ssl statistics string subprocess symtable tabnanny tarfile tempfile textwrap threading timeit tokenize
    trace traceback tracemalloc turtle types typing unittest.case unittest.mock urllib.parse urllib.request uuid
    warnings wave weakref webbrowser zipfile""".split()
)


class TextDataModule(InMemoryDataModule):
    """Characters of a text: the first part for training, then validation, then test, which share no character.

    Characters outside of :data:`VOCABULARY` (line feed and the printable part of ASCII) are left out.

    Args:
        path: A text file in UTF-8, or a parquet file as Hugging Face datasets have them, whose rows become lines; None
            for the sources of Python's standard library.
        text_column: The column of a parquet file.
        context: Tokens per window.
        stride: Characters between the starts of training windows. Validation and test windows don't overlap.
        held_out: Share of the text for each of validation and test.
        most_held_out: Windows of each of them at most, spread evenly over its part.
        batch_size: Windows per batch.
        seed: Random seed of the order of training batches.

    Attributes:
        vocabulary: Number of different tokens.
        task: What networks on this data are trained for and measured by.

    Raises:
        FileNotFoundError: There is no file at ``path``.
        ValueError: The text is too short, or an argument is out of range; raised when the data is first used.
    """

    vocabulary = len(VOCABULARY)
    task = LANGUAGE_MODELLING

    def __init__(
        self,
        path: str | Path | None = None,
        text_column: str = "text",
        context: int = 64,
        stride: int = 16,
        held_out: float = 0.05,
        most_held_out: int = 256,
        batch_size: int = 8,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.path = None if path is None else Path(path)
        self.text_column = text_column
        if self.path is not None and not self.path.is_file():
            raise FileNotFoundError(f"no text file at {path}; pass the path of an existing file")
        for name, value in (("context", context), ("stride", stride), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name} must be positive; got {value}")
        if not 0 < held_out < 0.5:
            raise ValueError(f"held_out must lie between 0 and 0.5; got {held_out}")
        self.context, self.stride, self.held_out, self.most_held_out = context, stride, held_out, most_held_out
        self.batch_size, self.seed = batch_size, seed
        self._characters: dict[str, Tensor] = {}

    def setup(self, stage: str | None = None) -> None:
        """Read and split the text, once."""
        if self._characters:
            return
        tokens = encode(standard_library() if self.path is None else self._read(self.path))
        held_out = int(len(tokens) * self.held_out)
        if held_out <= self.context:
            raise ValueError(
                f"{self.path or 'the standard library'} has {len(tokens):,} known characters, of which {held_out:,} "
                f"each are for validation and test: too few for windows of {self.context}. Pass a longer text."
            )
        sizes = [len(tokens) - 2 * held_out, held_out, held_out]
        self._characters = dict(zip(SPLITS, tokens.split(sizes), strict=True))

    def _read(self, path: Path) -> str:
        if path.suffix != ".parquet":
            return path.read_text(encoding="utf-8")
        import pyarrow
        import pyarrow.parquet

        try:
            names = pyarrow.parquet.read_schema(path).names
            if self.text_column not in names:
                raise ValueError(
                    f"{path} has no column {self.text_column!r}; its columns are {names}: pass the one with the text "
                    "as text_column"
                )
            column = pyarrow.parquet.read_table(path, columns=[self.text_column]).column(0)
        except pyarrow.ArrowInvalid as error:
            raise ValueError(f"{path} is not a readable parquet file: {error}") from error
        return "\n".join(row for row in column.to_pylist() if row)

    def characters(self, split: str) -> Tensor:
        """All tokens of a split in order, [length], int64.

        Raises:
            ValueError: The split is unknown.
        """
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}; expected one of {SPLITS}")
        self.setup()
        return self._characters[split]

    def tensors(self, split: str) -> tuple[Tensor, Tensor]:
        """Windows of a split, and the token after each of their tokens; views of the text.

        Args:
            split: ``"train"``, ``"validation"`` or ``"test"``.

        Returns:
            Tokens [N, context] and next tokens [N, context], int64.

        Raises:
            ValueError: The split is unknown.
        """
        stride = self.stride if split == "train" else self.context
        windows = self.characters(split).unfold(0, self.context + 1, stride)
        if split != "train":
            windows = windows[:: max(1, len(windows) // self.most_held_out)][: self.most_held_out]
        return windows[:, :-1], windows[:, 1:]


def encode(text: str) -> Tensor:
    """Text → tokens [length], int64, without what :data:`VOCABULARY` lacks."""
    number = np.full(256, -1)
    number[list(VOCABULARY.encode())] = range(len(VOCABULARY))
    tokens = number[np.frombuffer(text.encode("ascii", errors="ignore"), np.uint8)]
    return torch.from_numpy(tokens[tokens >= 0])


def decode(tokens: Tensor) -> str:
    """Tokens [length] → text."""
    return "".join(VOCABULARY[token] for token in tokens.tolist())


def standard_library() -> str:
    """The sources of :data:`MODULES`, one after the other.

    Raises:
        ValueError: This Python comes without the sources of a module.
    """
    sources = []
    for name in MODULES:
        spec = importlib.util.find_spec(name)
        source = spec.loader.get_source(name) if spec and isinstance(spec.loader, InspectLoader) else None
        if source is None:
            raise ValueError(f"this Python has no source of its module {name!r}; pass a text file as path")
        sources.append(source)
    return "\n".join(sources)
