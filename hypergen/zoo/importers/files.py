"""Imports files of tensors whose names say what they are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from hypergen.errors import CheckpointError
from hypergen.zoo.importers.found import Found
from hypergen.zoo.importers.propose import propose
from hypergen.zoo.importers.states import read_file, state_in
from hypergen.zoo.index import GROUPS

_PLAIN = ("run", "step", "task", "parent", "init_seed", "data_seed", "init_hash")
_METRICS = ("train", "validation", "test")
_NUMBERS = ("step", "init_seed", "data_seed")
_TEXT, _GREEDY_TEXT = r"[^/]+?", r"[^/]+"
_KINDS = {"": _TEXT, "d": r"-?\d+", "f": r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"}
_MOST_PATTERN = 1_000
# A group that ends in a repetition and is repeated itself: the form of expressions that take exponential time.
_NESTED = re.compile(r"[+*}]\??\)(?:[+*]|\{\d*,)|\|[^()]*\)[+*]")
_FIELD = re.compile(r"\{([\w.]+)(?::(\w))?\}")


def find(source: Path, *, pattern: str, key: str = "", prefix: str = "") -> Iterator[Found]:
    r"""Find files whose paths below a folder match a pattern.

    Args:
        source: The folder.
        pattern: With fields for columns: ``"{run}/epoch_{step:d}_acc{test.accuracy:f}.pth"``; ``:d`` is a whole number,
            ``:f`` any number, and text has no slash. Or a regular expression with named groups, in which ``__`` stands
            for the dot: ``r"(?P<run>\w+)/(?P<step>\d+)_(?P<test__accuracy>[\d.]+)\.pth"``. Without a run, the path
            up to the step is its name, without the metrics in it.
        key: Where the state dict is in a file, if there are several; see
            :func:`hypergen.zoo.importers.states.state_in`.
        prefix: Take only tensors whose names begin so.

    Raises:
        CheckpointError: The pattern has an unknown field, matches no file, matches one in two ways, or a field is no
            number.
    """
    expression, numbers = _compile(pattern)
    greedy = re.compile(expression.pattern.replace(_TEXT, _GREEDY_TEXT)) if "(?P<" not in pattern else expression
    # In the order of people: 2 before 10.
    files = [file for file in source.rglob("*") if file.is_file()]
    files.sort(key=lambda path: [_natural(part) for part in path.parts])
    if not any(expression.fullmatch(file.relative_to(source).as_posix()) for file in files):
        raise CheckpointError(_nothing(source, pattern, files))
    for file in files:
        path = file.relative_to(source).as_posix()
        match = expression.fullmatch(path)
        if match is None:
            continue
        other = greedy.fullmatch(path)
        if other is not None and other.groupdict() != match.groupdict():
            raise CheckpointError(
                f"The pattern {pattern!r} reads {path!r} in two ways: {_listed(match)}, or {_listed(other)}. Put text "
                "between fields, or write a regular expression with named groups."
            )
        columns = _columns(match, numbers, path)
        step = columns.pop("step", 0)
        run = columns.pop("run", None) or _run(match, path, file) or source.resolve().name

        def read(file: Path = file) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
            return state_in(read_file(file), file, key, prefix), {}

        yield Found(file, run, step, read, columns)


def _nothing(source: Path, pattern: str, files: list[Path]) -> str:
    """What to say where a pattern matches no file."""
    if not files:
        return f"{str(source)!r} holds no file."
    names = [file.relative_to(source).as_posix() for file in files]
    shown = ", ".join(map(repr, names[:3])) + (", …" if len(names) > 3 else "")
    return f"The pattern {pattern!r} matches none of the {len(names)} files, {shown}. Try {propose(names)!r}."


def _listed(match: re.Match[str]) -> str:
    return ", ".join(f"{name.replace('__', '.')}={text!r}" for name, text in match.groupdict().items())


def _run(match: re.Match[str], path: str, file: Path) -> str:
    """The run of a file whose pattern names none: its path up to the step, without what one step's metrics are."""
    end = match.start("step") if "step" in match.re.groupindex else len(path) - len(file.suffix)
    metrics = [match.span(name) for name in match.re.groupindex if name.partition("__")[0] in _METRICS]
    kept = [i for i in range(max(end, 0)) if "step" not in match.re.groupindex or not _within(i, metrics)]
    return "".join(path[i] for i in kept).rstrip("/_-. ")


def _within(position: int, spans: list[tuple[int, int]]) -> bool:
    return any(first <= position < end for first, end in spans)


def _compile(pattern: str) -> tuple[re.Pattern[str], dict[str, str]]:
    """A regular expression, and the kinds of its groups."""
    kinds: dict[str, str] = {}
    if "(?P<" in pattern:
        text = pattern
    else:
        parts, end = [], 0
        for field in _FIELD.finditer(pattern):
            name, kind = field[1].replace(".", "__"), field[2] or ""
            if kind not in _KINDS:
                raise CheckpointError(f"The pattern {pattern!r} has {field[0]}; the kinds of fields are :d and :f.")
            kinds[name] = kind
            parts += [re.escape(pattern[end : field.start()]), f"(?P<{name}>{_KINDS[kind]})"]
            end = field.end()
        text = "".join([*parts, re.escape(pattern[end:])])
    if len(pattern) > _MOST_PATTERN or _NESTED.search(text):
        raise CheckpointError(
            f"The pattern {pattern[:200]!r} repeats a repetition, or is longer than {_MOST_PATTERN} characters: "
            "matching it could take for ever. Write it with fields, such as '{run}/epoch_{step:d}.pth'."
        )
    try:
        expression = re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise CheckpointError(f"The pattern {pattern!r} is not valid: {error}.") from error
    for name in expression.groupindex:
        group, dot, _ = name.partition("__")
        if name not in _PLAIN and not (dot and group in GROUPS):
            raise CheckpointError(
                f"The pattern {pattern!r} has a field {name.replace('__', '.')!r}. Expected one of "
                f"{', '.join(_PLAIN)}, or one that begins with {', '.join(f'{group}.' for group in GROUPS)}."
            )
    return expression, kinds


def _columns(match: re.Match[str], kinds: Mapping[str, str], path: str) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for name, text in match.groupdict().items():
        if text is None:
            continue
        value: Any = text
        try:
            if name in _NUMBERS or kinds.get(name) == "d":
                value = int(text)
            elif kinds.get(name) == "f" or (name not in _PLAIN and kinds.get(name) is None):
                value = float(text)
        except ValueError as error:
            if name in _NUMBERS or kinds.get(name):
                raise CheckpointError(f"{path!r}: {name} is {text!r}; expected a number.") from error
        columns[name.replace("__", ".")] = value
    return columns


def _natural(text: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", text)]
