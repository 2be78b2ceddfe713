"""What the site works out by itself: a folder's pages for its navigation, and the public names of each package."""

import importlib
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent


def on_config(config: Any) -> Any:
    """Replace each ``Title: folder/`` of the navigation by the folder's pages, ``index.md`` first."""
    for entry in config["nav"]:
        if isinstance(entry, dict):
            ((title, folder),) = entry.items()
            if isinstance(folder, str) and folder.endswith("/"):
                pages = sorted((DOCS / folder).glob("*.md"), key=lambda page: (page.name != "index.md", page.name))
                entry[title] = [page.relative_to(DOCS).as_posix() for page in pages]
    return config


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Document every public name of the package that a page under ``api/`` is titled after."""
    if not page.file.src_uri.startswith("api/"):
        return markdown
    name = markdown.splitlines()[0].removeprefix("# ")
    package = importlib.import_module(name)
    sections = [f"{markdown}\n{package.__doc__}"]
    for public in package.__all__:
        value = getattr(package, public)
        # Constants and aliases of types do not know where they are from.
        home = getattr(value, "__module__", None) if hasattr(value, "__qualname__") else None
        if home is not None and home.startswith("hypergen."):
            path = f"{home}.{value.__qualname__}"
            sections.append(f"::: {path}\n    options:\n      heading: {name}.{public}\n      toc_label: {public}")
        else:
            sections.append(f"## {name}.{public}\n\n`{value!r}`" if not isinstance(value, type) else "")
    return "\n\n".join(sections) + "\n"
