"""Behaviour is what it was before the layout of the package changed: values recomputed and compared with a file."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
TOLERANCE = 1e-6


def _load_script() -> Any:
    """``make_golden.py`` beside this file, wherever the folder lies."""
    spec = importlib.util.spec_from_file_location("make_golden", HERE / "make_golden.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_golden = _load_script()
GOLDEN = json.loads((HERE / "golden.json").read_text(encoding="utf-8"))


def differences(expected: Any, found: Any, where: str = "") -> list[str]:
    """Where two values differ, a line each: numbers with a fraction by more than the tolerance, others at all."""
    if isinstance(expected, dict) and isinstance(found, dict):
        lines = [f"{where}: {key!r} is missing" for key in expected if key not in found]
        lines += [f"{where}: {key!r} is new" for key in found if key not in expected]
        both = [key for key in expected if key in found]
        lines += [f"{where}: order of keys"] if both != [key for key in found if key in expected] else []
        return lines + [line for key in both for line in differences(expected[key], found[key], f"{where}/{key}")]
    if isinstance(expected, list) and isinstance(found, list):
        if len(expected) != len(found):
            return [f"{where}: {len(found)} elements, expected {len(expected)}"]
        pairs = enumerate(zip(expected, found, strict=True))
        return [line for i, (one, other) in pairs for line in differences(one, other, f"{where}[{i}]")]
    if isinstance(expected, float) and isinstance(found, float):
        same = math.isclose(expected, found, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
        same = same or (math.isnan(expected) and math.isnan(found))
        return [] if same else [f"{where}: {found!r}, expected {expected!r}"]
    same = type(expected) is type(found) and expected == found
    return [] if same else [f"{where}: {found!r}, expected {expected!r}"]


def test_items_are_those_of_the_file() -> None:
    assert list(make_golden.ITEMS) == list(GOLDEN["items"])


@pytest.mark.parametrize("name", list(GOLDEN["items"]))
def test_golden(name: str) -> None:
    found = json.loads(json.dumps(make_golden.ITEMS[name]()))
    lines = differences(GOLDEN["items"][name], found)
    if lines:
        other = {
            library: f"{version} → {make_golden.versions()[library]}"
            for library, version in GOLDEN["versions"].items()
            if make_golden.versions()[library] != version
        }
        shown = "\n".join(lines[:20])
        pytest.fail(f"{name}: {len(lines)} differences; other versions: {other or 'none'}\n{shown}", pytrace=False)
