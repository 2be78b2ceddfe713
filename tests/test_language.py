"""The words of docstrings and comments: no retired terms, and descriptions of arguments that are noun phrases."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for folder in ("hypergen", "experiments", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
FRAGMENT = re.compile(r"^\s+\*{0,2}[a-z_]+: (Of|Likewise|As for|To)\b")
# Only words with no second, ordinary meaning in this code.
RETIRED = re.compile(
    r"\b(rungs?|ladders?|torn (groups?|apart)|yardsticks?|on loan|closed-form heads?)\b", re.IGNORECASE
)


def lines_matching(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in SOURCES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]


def test_argument_descriptions_are_noun_phrases() -> None:
    assert lines_matching(FRAGMENT) == []


def test_retired_words_are_gone() -> None:
    assert lines_matching(RETIRED) == []


@pytest.mark.parametrize("line", ["    seed: Of the draw.", "    **options: Likewise.", "    train: To learn from."])
def test_fragments_are_found(line: str) -> None:
    assert FRAGMENT.search(line)


@pytest.mark.parametrize(
    "line", ["# the next rung", "a Yardstick", "torn groups", "torn apart", "with a closed-form head"]
)
def test_retired_words_are_found(line: str) -> None:
    assert RETIRED.search(line)
