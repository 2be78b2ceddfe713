"""Every Python block of the README and the documentation runs as it stands; the blocks of a page share their names."""

import ast
import contextlib
import io
import re
from pathlib import Path

import pytest

from tests.documented import ROOT, blocks, pages

WITH_CODE = [page for page in pages() if blocks(page, "python")]
OPTIONAL = {"hyperparameter_search.md": ("optuna", "gpytorch"), "zoos.md": ("transformers",)}


def run(page: Path) -> list[str]:
    """Run a page's blocks; returns what each printed."""
    names: dict = {"__name__": "__main__"}
    printed = []
    for line, block in blocks(page, "python"):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile("\n" * line + block, str(page), "exec"), names)
        printed.append(out.getvalue())
    return printed


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_blocks_run(page, tmp_path, monkeypatch):
    for library in OPTIONAL.get(page.name, ()):
        pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    printed = run(page)
    shown = [block for _, block in blocks(page, "text")]
    if page.name == "README.md":
        assert [text.strip() for text in printed] == [text.strip() for text in shown]


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_pages_import_public_names_only(page):
    """From ``hypergen`` or one of its subpackages, never from deeper, but for a method's own folder in its page."""
    for _, block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            if module and module.startswith("hypergen."):
                assert module.count(".") == 1 or module == "hypergen.symmetry.align", f"{page.name}: {module}"


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_to_files_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in link:
            base = ROOT if page.name == "contributing.md" else page.parent
            assert (base / link).exists(), f"{page.name}: {link}"


def test_the_front_page_is_short():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 1300
    assert len(re.findall(r"^\|[-:| ]+\|$", text, flags=re.MULTILINE)) <= 4
    first_heading = text.index("\n## ")
    assert text[:first_heading].count("![") == 1
