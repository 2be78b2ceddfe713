"""The model card of a generator: a README.md with the front matter that the Hugging Face Hub reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hypergen.generators.checkpoint import GeneratorCheckpoint


def model_card(name: str, checkpoint: GeneratorCheckpoint, text: str | None = None) -> str:
    """Write the card of a generator.

    Args:
        name: The generator's name.
        checkpoint: What is saved beside the card.
        text: What it was trained on, and how to train it again.

    Returns:
        Markdown.
    """
    number = sum(tensor.numel() for tensor in checkpoint.tensors.values())
    sections = [
        "---\nlibrary_name: hypergen\nlicense: apache-2.0\ntags:\n- hypernetwork\n- parameter-prediction\n---",
        f"# {name}",
        f"A hypergen generator: a `{checkpoint.class_name}` of {number:,} parameters that writes the parameters of "
        "other networks.",
        "```python\nimport hypergen\n\n"
        f'report = hypergen.initialize(model, "{name}")  # a released name, this folder, or a Hub id\n```',
    ]
    if text:
        sections.append(text.strip())
    if checkpoint.results.get("rows"):
        sections.append("## Numbers\n\n" + _results_table(checkpoint.results))
    arguments = "\n".join(f"| `{key}` | `{json.dumps(value)}` |" for key, value in checkpoint.arguments.items())
    sections.append(f"## Arguments\n\n| argument | value |\n|---|---|\n{arguments}")
    versions = ", ".join(f"{key} {value}" for key, value in checkpoint.provenance.items() if value)
    sections.append(f"Saved with {versions}.")
    return "\n\n".join(sections) + "\n"


def _results_table(results: Mapping[str, Any]) -> str:
    lines = ["| figure | value | std | n | aim |", "|---|---:|---:|---:|---:|"]
    for row in results["rows"]:
        cells = (f"`{row.get('figure')}`", *(_number(row.get(key)) for key in ("value", "std", "n", "aim")))
        lines.append(f"| {' | '.join(cells)} |")
    about = [f"{key} {results[key]}" for key in ("seed", "commit") if key in results]
    machine = results.get("machine")
    if isinstance(machine, Mapping):
        about += [f"{key} {value}" for key, value in machine.items()]
    elif machine:
        about.append(str(machine))
    return "\n".join(lines) + (f"\n\nThe run: {', '.join(about)}." if about else "")


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)
