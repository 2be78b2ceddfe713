"""Every block of the README and the documentation works as it stands; the Python blocks of a page share their names."""

import ast
import contextlib
import io
import itertools
import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from typer.testing import CliRunner

from hypergen.cli.main import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
OPTIONAL = {"hyperparameter_search.md": ("optuna", "gpytorch"), "zoos.md": ("transformers",), "adapters.md": ("peft",)}


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """Line number and text of each fenced block of a language."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [(text[: match.start(1)].count("\n"), match[1]) for match in found]


def lines(start: str) -> list[str]:
    """Every command of every page that starts so, without its comment."""
    text = "\n".join(block for page in PAGES for _, block in blocks(page, "bash"))
    return sorted({line.split(" #")[0].rstrip(" …") for line in text.splitlines() if line.startswith(start)})


WITH_CODE = [page for page in PAGES if blocks(page, "python")]


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


@pytest.mark.parametrize("page", WITH_CODE, ids=name_of)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    for library in OPTIONAL.get(page.name, ()):
        pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    printed = run(page)
    if page.name == "README.md":
        shown = [block.strip() for _, block in blocks(page, "text")]
        # Accuracies to two digits may differ by a last digit on another machine.
        for text, expected in zip(printed, shown, strict=True):
            numbers = [re.findall(r"\b0\.\d\d\b", each) for each in (text, expected)]
            assert [float(n) for n in numbers[0]] == pytest.approx([float(n) for n in numbers[1]], abs=0.02)
            assert re.sub(r"\b0\.\d\d\b", "", text).strip() == re.sub(r"\b0\.\d\d\b", "", expected).strip()


@pytest.mark.parametrize("page", WITH_CODE, ids=name_of)
def test_pages_import_public_names_only(page):
    """From ``hypergen`` or one of its subpackages, and never from deeper."""
    for _, block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("hypergen"):
                assert node.module.count(".") <= 1, f"{name_of(page)}: from {node.module} import …"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_to_files_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in link:
            assert (page.parent / link).exists(), f"{name_of(page)}: {link}"


def test_the_front_page_is_short():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 1300
    assert len(re.findall(r"^\|(?: *:?-+:? *\|)+$", text, flags=re.MULTILINE)) <= 4
    assert text[: text.index("\n## ")].count("![") == 1 == text.count("![")


@pytest.mark.parametrize("line", lines("python train.py"))
def test_every_train_command_composes(line):
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        overrides = [word for word in line.split()[2:] if word not in ("-m", "--help", "--cfg", "job")]
        choices = [option.partition("=")[2].split(",") for option in overrides]
        for values in itertools.product(*choices):
            names = (option.partition("=")[0] for option in overrides)
            compose("train", [f"{name}={value}" for name, value in zip(names, values, strict=True)])


@pytest.mark.parametrize("line", lines("hypergen "))
def test_every_command_and_option_exists(line):
    verbs = {"zoo": 2, "adapters": 2, "scaling": 2}
    words = line.split()[1:]
    verb, rest = words[: verbs.get(words[0], 1)], words[verbs.get(words[0], 1) :]
    shown = CliRunner().invoke(app, [*verb, "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    for option in (word for word in rest if word.startswith("-")):
        assert re.search(rf"(?<![-\w]){re.escape(option)}(?![-\w])", shown.output), f"{line}: no {option}"


def test_the_graph_command_draws(tmp_path):
    (line,) = [line for line in lines("hypergen graph torchvision")]
    words = line.split()[1:]
    words[-1] = str(tmp_path / words[-1])
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert Path(words[-1]).stat().st_size > 1000


def test_the_generators_are_listed():
    result = CliRunner().invoke(app, ["generators"])
    assert result.exit_code == 0 and "digits-ghn" in result.output
